"""Recorded rows against formulas by hand on a hand-built micro-batch, and training left untouched by them."""

import math
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from recorded_rows import (
    GLOBAL_BATCH,
    LENGTHS,
    RANGES,
    RATIO,
    Row,
    make_rows,
    micro_batch,
    model_output,
    nested,
    record,
)


def by_hand(algo: str, row: Row) -> dict[str, float]:
    """The columns of a row that depend on the algorithm and those that are means over its tokens, in plain floats."""
    low, high = RANGES[RATIO[algo]]
    if row.tokens == 0:
        return dict.fromkeys(
            (
                "advantage",
                "log_ratio",
                "out_of_range_low",
                "out_of_range_high",
                "clipped",
                "effective_ratio",
                "gradient_weight",
                "entropy",
            ),
            0.0,
        ) | {"rollout_logprob_diff": 0.0}
    n, a = row.tokens, row.advantage
    log_ratios = [new - old for new, old in zip(row.new, row.old, strict=True)]
    mean = sum(log_ratios) / n
    ratios = [math.exp(x) for x in log_ratios] if RATIO[algo] == "token" else [math.exp(mean)] * n
    clipped = [(a > 0 and r > 1 + high) or (a < 0 and r < 1 - low) for r in ratios]
    weight = {"grpo": 1 / n, "grpo_sum": 1.0, "gspo": 1 / n, "luspo": 1.0, "luspo_norm": 1 / 16}[algo] / GLOBAL_BATCH
    return {
        "advantage": a,
        "log_ratio": mean,
        "out_of_range_low": sum(r < 1 - low for r in ratios),
        "out_of_range_high": sum(r > 1 + high for r in ratios),
        "clipped": sum(clipped),
        "effective_ratio": sum(r for r, out in zip(ratios, clipped, strict=True) if not out) / n,
        "gradient_weight": weight * sum(abs(a) * r for r, out in zip(ratios, clipped, strict=True) if not out),
        "entropy": sum(row.entropy) / n,
        "rollout_logprob_diff": sum(old - rollout for old, rollout in zip(row.old, row.rollout, strict=True)) / n,
    }


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("algo", RATIO)
def test_columns_are_the_formulas(actor: Callable[..., Any], algo: str, dp_size: int) -> None:
    rows = make_rows(RATIO[algo])
    recorded = record(actor(f"algo={algo}"), rows, dp_size)
    expected = [by_hand(algo, row) for row in rows]
    assert {name: [row[name] for row in recorded] for name in expected[0]} == {
        name: pytest.approx([row[name] for row in expected], rel=2e-5, abs=2e-7) for name in expected[0]
    }
    for name in ("out_of_range_low", "out_of_range_high", "clipped"):
        assert sum(row[name] for row in expected) > 0, "the hand-built rows must test this column"


@pytest.mark.parametrize("algo", ["grpo", "luspo"])
def test_what_a_row_is_comes_from_the_micro_batch(actor: Callable[..., Any], algo: str) -> None:
    rows = make_rows(RATIO[algo])
    for row, got in zip(rows, record(actor(f"algo={algo}"), rows), strict=True):
        assert (got["prompt_id"], got["sample"]) == (row.index, row.session)
        assert (got["prompt_tokens"], got["tokens"]) == (len(row.prompt), row.tokens)
        assert got["reward"] == row.reward
        assert got["accuracy"] == row.info["acc"]
        assert got["truncated"] is bool(row.info["truncated"])
        assert got["response_hash"] == zlib.crc32(struct.pack(f"<{len(row.response)}q", *row.response))
        assert {name: got[name] for name in got if name.startswith("reward_")} == {
            "reward_accuracy": row.info["reward_accuracy"],
            "reward_length": row.info["reward_length"],
        }


def test_rows_have_exactly_the_columns_of_the_run_directory(actor: Callable[..., Any]) -> None:
    from harness.rundir import SEQUENCE_COLUMNS

    for row in record(actor("algo=gspo"), make_rows("sequence")):
        parts = {name for name in row if name.startswith("reward_")}
        assert set(row) - parts | {"step", "update"} == set(SEQUENCE_COLUMNS)
        assert {type(value) for value in row.values()} <= {int, float, bool}, "plain values, which travel anywhere"


@pytest.mark.parametrize("algo", RATIO)
def test_padding_row_has_no_tokens_and_pulls_nowhere(actor: Callable[..., Any], algo: str) -> None:
    padding = record(actor(f"algo={algo}"), make_rows(RATIO[algo]))[-1]
    assert [
        padding[name]
        for name in ("tokens", "reward", "clipped", "out_of_range_low", "out_of_range_high", "gradient_weight")
    ] == [0] * 6
    assert all(math.isfinite(value) for value in padding.values())


def test_micro_batch_of_padding_alone_is_recorded(actor: Callable[..., Any]) -> None:
    (row,) = record(actor("algo=luspo"), make_rows("sequence")[-1:])
    assert row["tokens"] == 0
    assert row["gradient_weight"] == 0


@pytest.mark.parametrize("algo", RATIO)
def test_rows_do_not_depend_on_the_cut_into_micro_batches(actor: Callable[..., Any], algo: str) -> None:
    """Cut by verl's own chunk_tensordict, which also turns stacks and constants of the batch into the parts'."""
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import ROWS, RecordingLoss

    config, rows = actor(f"algo={algo}"), make_rows(RATIO[algo])
    loss = RecordingLoss(partial(ppo_loss, config=config), config)
    parts = []
    for i, part in enumerate(tu.chunk_tensordict(micro_batch(rows), 4)):
        parts += loss(model_output(rows[2 * i : 2 * i + 2])[0], part)[1][ROWS]
    whole = record(config, rows)
    for one, other in zip(parts, whole, strict=True):
        assert one == {
            name: pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
            for name, value in other.items()
        }


@pytest.mark.parametrize("algo", RATIO)
def test_training_is_bit_identical_with_recording(actor: Callable[..., Any], algo: str) -> None:
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import ROWS, RecordingLoss

    rows, results = make_rows(RATIO[algo]), []
    for recording in (False, True):
        config = actor(f"algo={algo}")
        loss = partial(ppo_loss, config=config)
        output, leaf = model_output(rows)
        function = RecordingLoss(loss, config) if recording else loss
        value, metrics = function(model_output=output, data=micro_batch(rows), dp_group=None)
        value.backward()
        assert (ROWS in metrics) == recording
        metrics.pop(ROWS, None)
        plain = {name: getattr(metric, "values", metric) for name, metric in metrics.items()}
        results.append((value.detach(), leaf.grad, plain, dict(config.global_batch_info)))
    without, with_rows = results
    assert torch.equal(without[0], with_rows[0])
    assert torch.equal(without[1], with_rows[1])
    assert without[1].any()
    assert without[2:] == with_rows[2:]


@pytest.mark.parametrize(("algo", "weighted"), [*((algo, False) for algo in RATIO), ("grpo", True), ("luspo", True)])
def test_pull_is_the_size_of_the_gradient_that_trains(actor: Callable[..., Any], algo: str, weighted: bool) -> None:
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import ROWS, RecordingLoss

    config, rows = actor(f"algo={algo}"), make_rows(RATIO[algo])
    weights = nested([[0.5 + 0.25 * t for t in range(len(row.response))] for row in rows])
    data = micro_batch(rows, **({"rollout_is_weights": weights} if weighted else {}))
    output, leaf = model_output(rows)
    value, metrics = RecordingLoss(partial(ppo_loss, config=config), config)(output, data)
    value.backward()
    sizes = [len(row.prompt) + len(row.response) for row in rows]
    expected = [part.abs().sum().item() for part in leaf.grad.split(sizes)]
    assert [row["gradient_weight"] for row in metrics[ROWS]] == pytest.approx(expected, rel=1e-6)


def test_micro_batch_itself_is_left_as_it_was(actor: Callable[..., Any]) -> None:
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import RecordingLoss

    config, rows = actor("algo=gspo"), make_rows("sequence")
    data = micro_batch(rows)
    names, values = set(data.keys()), data["advantages"].values().clone()
    RecordingLoss(partial(ppo_loss, config=config), config)(model_output(rows)[0], data)
    assert set(data.keys()) == names
    assert torch.equal(data["advantages"].values(), values)


def generator_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]


@pytest.mark.parametrize("algo", ["grpo", "luspo"])
def test_generator_states_are_left_as_found(actor: Callable[..., Any], algo: str) -> None:
    before = generator_states()
    record(actor(f"algo={algo}"), make_rows(RATIO[algo]))
    assert generator_states() == before


def test_a_loss_that_draws_random_numbers_draws_the_same_ones_with_recording(actor: Callable[..., Any]) -> None:
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import RecordingLoss

    prefix = "actor_rollout_ref.actor"
    config = actor(
        "algo=grpo",
        f"{prefix}.policy_loss.loss_mode=clip_cov",
        f"{prefix}.loss_agg_mode=token-mean",
        f"{prefix}.policy_loss.clip_cov_lb=-10",
        f"{prefix}.policy_loss.clip_cov_ratio=0.2",
    )
    rows, after, gradients = make_rows("token"), [], []
    for recording in (False, True):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        loss = partial(ppo_loss, config=config)
        output, leaf = model_output(rows)
        function = RecordingLoss(loss, config, checked=True) if recording else loss
        function(model_output=output, data=micro_batch(rows), dp_group=None)[0].backward()
        assert not torch.equal(torch.get_rng_state(), before), "the loss must draw for this test to say anything"
        after.append(torch.get_rng_state())
        gradients.append(leaf.grad)
    assert torch.equal(*after)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("missing", "column", "value"),
    [("index", "prompt_id", -1), ("session_id", "sample", -1), ("extra_fields", "truncated", False)],
)
def test_a_field_that_is_missing_leaves_its_neutral_value(
    actor: Callable[..., Any], missing: str, column: str, value: Any
) -> None:
    rows = record(actor("algo=gspo"), make_rows("sequence"), without=(missing,))
    assert [row[column] for row in rows] == [value] * len(LENGTHS)


def test_without_a_graders_verdict_accuracy_is_unknown_and_not_wrong(actor: Callable[..., Any]) -> None:
    rows = record(actor("algo=gspo"), make_rows("sequence"), without=("extra_fields",))
    assert all(math.isnan(row["accuracy"]) for row in rows)


def test_without_rollout_log_probabilities_there_is_no_gap(actor: Callable[..., Any]) -> None:
    rows = record(actor("algo=gspo"), make_rows("sequence"), without=("rollout_log_probs",))
    assert all("rollout_logprob_diff" not in row for row in rows)


def test_clip_range_falls_back_as_verl_does(actor: Callable[..., Any]) -> None:
    from harness.losses.spec import clip_range

    prefix = "actor_rollout_ref.actor"
    unset = actor(f"{prefix}.clip_ratio=0.3", f"{prefix}.clip_ratio_low=null", f"{prefix}.clip_ratio_high=null")
    assert clip_range(unset) == (0.3, 0.3)
    assert clip_range(actor("algo=grpo")) == (0.2, 0.28)


def test_a_worker_whose_installed_loss_is_wrong_stops_at_its_first_micro_batch(actor: Callable[..., Any]) -> None:
    from harness.plugin.probe import ProbeError

    config = actor("algo=gspo", "actor_rollout_ref.actor.loss_agg_mode=token-mean")
    with pytest.raises(ProbeError, match="gspo with loss_agg_mode=token-mean"):
        record(config, make_rows("sequence"))


def test_the_loss_travels_to_workers_with_one_configuration(actor: Callable[..., Any]) -> None:
    """verl's loss fills ``global_batch_info`` of its configuration; the recorder must read the very same object."""
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import ROWS, RecordingLoss

    config, rows = actor("algo=luspo"), make_rows("sequence")
    arrived = cloudpickle.loads(cloudpickle.dumps(RecordingLoss(partial(ppo_loss, config=config), config)))
    assert arrived.loss.keywords["config"] is arrived.config
    assert arrived(model_output(rows)[0], micro_batch(rows))[1][ROWS] == record(config, rows)
