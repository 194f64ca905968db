"""VL Norm and Balanced Aggregation: losses whose weight of a response depends on the others of its step.

Values are the papers' formulas in Python floats, written without the weights that the code goes by.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from loss_batches import ADVANTAGES, LENGTHS, Batch, Floats, by_differences, installed, ragged_batch, widened
from recorded_rows import GLOBAL_BATCH, make_rows, micro_batch, model_output, nested

ACTOR = "actor_rollout_ref.actor"
LONGEST, ALPHA = 70.0, 0.75
RANGE = {"vl_norm": (0.2, 0.3), "balanced": (0.2, 0.28)}
ROWS = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]  # with tokens; two groups of five, an advantage of 0 in the second
GROUPS = ["a"] * 5 + ["b"] * 5


def batch() -> Batch:
    whole = ragged_batch("token")
    return Batch(*(part[ROWS] for part in (whole.old, whole.new, whole.advantages, whole.mask)))


def terms(algo: str) -> Callable[[Floats, Floats, float, Floats], float]:
    """PPO's clipped surrogate, summed over a response's tokens."""
    low, high = RANGE[algo]

    def objective(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
        ratios = [math.exp(n - o) for n, o in zip(new, old, strict=True)]
        return sum(min(r * a, min(max(r, 1 - low), 1 + high) * a) for r in ratios)

    return objective


def weights_of(config: Any, algo: str, given: Batch, groups: list[str] = GROUPS) -> torch.Tensor:
    """What the trainer hands to the loss, (responses, width)."""
    from harness.losses.registry import spec_of
    from harness.losses.weighting import WeightedSpec, of_step

    spec = spec_of(algo)
    assert isinstance(spec, WeightedSpec)
    weights = of_step(spec, config, given.mask, given.advantages.nan_to_num(), groups)
    return weights.double()[:, None].expand(given.mask.shape)


def lengths_and_advantages() -> tuple[list[int], list[float]]:
    return [LENGTHS[i] for i in ROWS], [ADVANTAGES[i] for i in ROWS]


def factors(algo: str, dp_size: int = 1) -> Floats:
    """Factor of each response's summed terms, from the definition of the loss."""
    lengths, advantages = lengths_and_advantages()
    if algo == "vl_norm":  # arXiv 2509.07558: |y|^-alpha / sum of |y|^-alpha, over M
        total = sum(n**-ALPHA for n in lengths)
        return [dp_size * n**-ALPHA / total / LONGEST for n in lengths]
    found = []
    for name, a in zip(GROUPS, advantages, strict=True):
        members = [i for i, other in enumerate(GROUPS) if other == name]
        side = [i for i in members if advantages[i] * a > 0] if a else [-1]
        tokens = sum(lengths[i] for i in side)  # mean over these tokens, times the side's share, mean over 2 groups
        found.append(dp_size * len(side) / len(members) / tokens / 2)
    return found


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("algo", RANGE)
def test_value_and_gradient_are_the_papers(actor: Callable[..., Any], algo: str, dp_size: int) -> None:
    given, config = batch(), actor(f"algo={algo}")
    weights = weights_of(config, algo, given)
    value, gradient, _ = installed(config, given, len(ROWS), dp_size, rollout_is_weights=weights)
    expected = by_differences(terms(algo), given, factors(algo, dp_size))
    assert value.item() == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-9)


def test_balanced_aggregation_is_two_means_of_tokens() -> None:
    """One group, ratios 1, all by hand: lengths 2 and 6 with A = 1, length 4 with A = -3 and A = 0."""
    from harness.losses.registry import spec_of

    mask = torch.arange(6) < torch.tensor([2, 6, 4, 4])[:, None]
    advantages = torch.tensor([1.0, 1.0, -3.0, 0.0])[:, None].expand(4, 6)
    from harness.losses.weighting import of_step

    weights = of_step(spec_of("balanced"), None, mask, advantages, ["one"] * 4)  # type: ignore[arg-type]
    assert weights[:3].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 4])
    summed = (weights[:, None] * advantages * mask).sum().item() / 4
    assert summed == pytest.approx(2 / 4 * 1.0 + 1 / 4 * -3.0)


def test_at_the_ends_of_alpha_vl_norm_is_dr_grpos_sum_and_grpo_up_to_a_factor(actor: Callable[..., Any]) -> None:
    given = batch()
    ranges = [f"{ACTOR}.clip_ratio_low=0.2", f"{ACTOR}.clip_ratio_high=0.3"]
    for alpha, other in ((0, "dr_grpo"), (1, "grpo")):
        config = actor("algo=vl_norm", f"{ACTOR}.policy_loss.alpha={alpha}")
        weights = weights_of(config, "vl_norm", given)
        _, gradient, _ = installed(config, given, len(ROWS), rollout_is_weights=weights)
        _, theirs, _ = installed(actor(f"algo={other}", *ranges), given, len(ROWS))
        lengths = lengths_and_advantages()[0]
        factor = 1.0 if alpha == 0 else len(ROWS) / sum(1 / n for n in lengths) / LONGEST
        torch.testing.assert_close(gradient, theirs * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("algo", RANGE)
def test_micro_batches_ranks_and_padding_change_nothing(actor: Callable[..., Any], algo: str) -> None:
    """The weights are of the whole step, so a split cannot change them."""
    given, config = batch(), actor(f"algo={algo}")
    weights = weights_of(config, algo, given)
    value, gradient, _ = installed(config, given, len(ROWS), rollout_is_weights=weights)
    for bounds, dp_size in (((0, 3, 4, 10), 1), ((0, 5, 10), 2)):
        parts = [
            installed(config, given.rows(slice(*ends)), len(ROWS), dp_size, rollout_is_weights=weights[slice(*ends)])
            for ends in pairwise(bounds)
        ]
        assert sum(part[0].item() for part in parts) / dp_size == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]) / dp_size, gradient, rtol=1e-12, atol=0)
    wide = widened(given)
    again = weights_of(config, algo, wide)
    assert torch.equal(again[:, : weights.shape[1]], weights)
    _, wider, _ = installed(config, wide, len(ROWS), rollout_is_weights=again)
    torch.testing.assert_close(wider[:, : gradient.shape[1]], gradient, rtol=1e-12, atol=0)
    assert not wider[:, gradient.shape[1] :].any()


@pytest.mark.parametrize("algo", RANGE)
def test_a_response_without_tokens_weighs_nothing_and_changes_no_other(actor: Callable[..., Any], algo: str) -> None:
    whole, config = ragged_batch("token"), actor(f"algo={algo}")
    rows = [*ROWS, 4]
    more = Batch(*(part[rows] for part in (whole.old, whole.new, whole.advantages, whole.mask)))
    weights = weights_of(config, algo, more, [*GROUPS, "b"])
    assert torch.equal(weights[:-1], weights_of(config, algo, batch()))
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("algo", RANGE)
def test_an_aggregation_that_is_not_a_sum_is_refused(actor: Callable[..., Any], algo: str, mode: str) -> None:
    with pytest.raises(ValueError, match=f"{algo}.*seq-mean-token-sum.*not {mode}"):
        installed(actor(f"algo={algo}", f"{ACTOR}.loss_agg_mode={mode}"), batch(), 10)


@pytest.mark.parametrize(
    ("algo", "changes", "words"),
    [
        ("vl_norm", {"algorithm.rollout_correction.rollout_is": "token"}, r"vl_norm .*rollout_is uses; set .*=null"),
        ("balanced", {"algorithm.rollout_correction.rollout_is": "token"}, "balanced weighs responses through"),
        ("balanced", {"harness.clip": "own"}, "balanced has no clip=own"),
    ],
)
def test_a_setting_that_would_break_the_weights_is_refused(
    flat: Callable[..., dict[str, Any]], algo: str, changes: dict[str, Any], words: str
) -> None:
    from harness.config import ConfigError
    from harness.doctor.rules import settings

    config = {**flat(f"algo={algo}"), "algorithm.rollout_correction.bypass_mode": False}
    settings(config)
    with pytest.raises(ConfigError, match=words):
        settings({**config, **changes})


def test_alpha_is_a_hyper_parameter_from_0_to_1(actor: Callable[..., Any]) -> None:
    from hydra.errors import InstantiationException

    assert actor("algo=vl_norm").policy_loss.alpha == ALPHA
    with pytest.raises(InstantiationException, match=r"alpha must be from 0 to 1, not 1\.5"):
        actor("algo=vl_norm", f"{ACTOR}.policy_loss.alpha=1.5")


def test_the_manifest_says_no_power_of_length() -> None:
    from harness.losses.registry import spec_of

    assert spec_of("vl_norm").described("seq-mean-token-sum-norm")["length_exponent"] is None


@pytest.mark.parametrize("algo", RANGE)
def test_the_trainer_puts_the_weights_where_the_loss_and_the_recorder_find_them(
    actor: Callable[..., Any], algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the queue, as verl's own weights go; the recorded pull of a response has its weight, the ratio not."""
    from functools import partial

    from verl.workers.utils.losses import ppo_loss

    from harness.plugin import response_weights
    from harness.plugin.recording import ROWS as RECORDED
    from harness.plugin.recording import WEIGHTS, RecordingLoss

    config, rows = actor(f"algo={algo}"), make_rows("token")
    stored: dict[str, Any] = {}

    def get(keys: Any, partition_id: str, select_fields: list[str]) -> Any:
        return micro_batch(rows).select(*select_fields)

    def put(keys: Any, partition_id: str, fields: Any) -> str:
        stored.update(fields.items())
        return "the batch after"

    monkeypatch.setattr(response_weights.tq, "kv_batch_get", get)
    monkeypatch.setattr(response_weights.tq, "kv_batch_put", put)

    class Keys(SimpleNamespace):
        def __len__(self) -> int:
            return len(rows)

    before: Any = Keys(keys=[str(i) for i in range(len(rows))], partition_id="train")
    assert response_weights.add(before, actor("algo=grpo")) is before
    assert not stored
    assert response_weights.add(before, config) == "the batch after"
    given = stored[WEIGHTS].to_padded_tensor(0.0)

    there = [i for i, row in enumerate(rows) if row.tokens]
    for i in there:
        row = rows[i]
        others = [rows[j] for j in there]
        if algo == "vl_norm":
            expected = row.tokens**-ALPHA / (sum(o.tokens**-ALPHA for o in others) / len(others))
        else:
            side = [o.tokens for o in others if o.index == row.index and o.advantage * row.advantage > 0]
            side = side or [row.tokens]  # advantage 0
            expected = len(side) / sum(side)
        assert given[i, : row.tokens].tolist() == pytest.approx([expected] * row.tokens, rel=1e-6)

    each = [[float(given[i, 0])] * len(row.response) for i, row in enumerate(rows)]
    recorder = RecordingLoss(partial(ppo_loss, config=config), config)
    _, metrics = recorder(model_output(rows)[0], micro_batch(rows, rollout_is_weights=nested(each)))
    low, high = RANGE[algo]
    for i in there:
        row, got = rows[i], metrics[RECORDED][i]
        ratios = [math.exp(n - o) for n, o in zip(row.new, row.old, strict=True)]
        a = row.advantage
        kept = [0.0 if (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low) else r for r in ratios]
        scale = GLOBAL_BATCH * (LONGEST if algo == "vl_norm" else 1)
        assert got["effective_ratio"] == pytest.approx(sum(kept) / row.tokens, rel=3e-5)
        assert got["clipped"] == (kept.count(0.0) if a else 0)
        assert got["gradient_weight"] == pytest.approx(abs(a) * sum(kept) * float(given[i, 0]) / scale, rel=3e-5)
