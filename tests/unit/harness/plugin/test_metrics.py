"""Metrics of a step against plain-Python recomputation from random rows: sums over sums, missing instead of NaN."""

import math
import random
import statistics
import struct
from collections.abc import Callable
from typing import Any

import pytest

from harness.losses.registry import spec_of
from harness.plugin.metrics import clip_metrics, frame, step_metrics, validation_metrics

PER_UPDATE, UPDATES, GROUP = 12, 4, 4
PRECISION = 1e-6  # the columns are float32
Row = dict[str, Any]


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]


def random_rows(seed: int, padding: int = 0) -> list[Row]:
    """Rows in the order in which verl returns them; the last ``padding`` ones have no tokens."""
    rng = random.Random(seed)
    rows = []
    for i in range(PER_UPDATE * UPDATES):
        tokens = 0 if i >= PER_UPDATE * UPDATES - padding else rng.randint(1, 30)
        low, high = rng.randint(0, tokens // 2), rng.randint(0, tokens // 2)
        advantage = rng.choice((-1.5, -0.5, 0.0, 0.25, 1.0)) if tokens else 0.0
        right = rng.random() < 0.5
        rows.append(
            {
                "prompt_id": i // GROUP,
                "sample": i % GROUP,
                "prompt_tokens": 5,
                "tokens": tokens,
                "reward": right - 0.125 * (i % 3 == 0) if i // GROUP % 3 else 1.0,
                "advantage": advantage,
                "log_ratio": float32(rng.gauss(0, 0.01)),
                "out_of_range_low": low,
                "out_of_range_high": high,
                "clipped": 0 if advantage == 0 else low if advantage < 0 else high,
                "effective_ratio": 1.0,
                "gradient_weight": 0.125,
                "entropy": float32(rng.uniform(0, 2)),
                "response_hash": i,
                "rollout_logprob_diff": float32(rng.gauss(0, 1e-6)),
                "accuracy": float(right),
                "truncated": rng.random() < 0.2,
                "reward_accuracy": float(right),
                "reward_length": -0.125 * (i % 3 == 0),
            }
        )
    return rows


def with_updates(rows: list[Row]) -> list[Row]:
    """The rows with their update, padding left out: what ``frame`` means, in plain Python."""
    return [{**row, "update": i // PER_UPDATE + 1} for i, row in enumerate(rows) if row["tokens"] > 0]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def quantile(values: list[float], q: float) -> float:
    """Linear interpolation between order statistics."""
    ordered, place = sorted(values), q * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def pooled(rows: list[Row], name: str) -> float:
    return sum(row[name] for row in rows) / sum(row["tokens"] for row in rows)


def token_mean(rows: list[Row], value: Callable[[Row], float]) -> float:
    return sum(value(row) * row["tokens"] for row in rows) / sum(row["tokens"] for row in rows)


def expected_clip_metrics(rows: list[Row]) -> dict[str, float]:
    later = [row for row in rows if row["update"] > 1 and row["advantage"] != 0]
    positive, negative = ([row for row in later if sign * row["advantage"] > 0] for sign in (1, -1))
    return {
        "clip_frac_token": pooled(later, "clipped"),
        "clip_frac_seq": mean([row["clipped"] / row["tokens"] for row in later]),
        "clip_frac_pos": pooled(positive, "clipped"),
        "clip_frac_neg": pooled(negative, "clipped"),
        "clip_tokens": sum(row["clipped"] for row in later),
        "clip_tokens_of": sum(row["tokens"] for row in later),
        "clip_seqs": sum(row["clipped"] / row["tokens"] for row in later),
        "clip_seqs_of": len(later),
        "onpolicy_log_ratio_rms": math.sqrt(mean([row["log_ratio"] ** 2 for row in rows if row["update"] == 1])),
        **{
            f"clip_frac_token_update{update}": pooled([row for row in later if row["update"] == update], "clipped")
            for update in range(2, UPDATES + 1)
        },
    }


def expected_step_metrics(rows: list[Row]) -> dict[str, float]:
    lengths = [row["tokens"] for row in rows]
    groups = [[row["reward"] for row in rows if row["prompt_id"] == key] for key in {row["prompt_id"] for row in rows}]

    def length_where(name: str, value: Any) -> float:
        return mean([row["tokens"] for row in rows if row[name] == value])

    return {
        "response_length": mean(lengths),
        "response_length_median": statistics.median(lengths),
        "response_length_p90": quantile(lengths, 0.9),
        "response_length_correct": length_where("accuracy", 1),
        "response_length_incorrect": length_where("accuracy", 0),
        "response_length_finished": length_where("truncated", False),
        "response_length_truncated": length_where("truncated", True),
        "truncated": mean([row["truncated"] for row in rows]),
        "reward": mean([row["reward"] for row in rows]),
        "reward_accuracy": mean([row["reward_accuracy"] for row in rows]),
        "reward_length": mean([row["reward_length"] for row in rows]),
        "accuracy": mean([row["accuracy"] for row in rows]),
        "frac_reward_zero_std": mean([len(set(group)) == 1 for group in groups]),
        "ppo_kl": -token_mean(rows, lambda row: row["log_ratio"]),
        "entropy": token_mean(rows, lambda row: row["entropy"]),
        "rollout_logprob_diff": token_mean(rows, lambda row: abs(row["rollout_logprob_diff"])),
        "tokens": sum(lengths),
        "responses": len(rows),
    }


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loss_mode", ["vanilla", "gspo", "luspo"])
def test_step_metrics_are_those_of_a_plain_recomputation(loss_mode: str, seed: int, padding: int) -> None:
    rows = random_rows(seed, padding)
    metrics = step_metrics(frame(rows, step=7, rows_per_update=PER_UPDATE), spec_of(loss_mode))
    kept = with_updates(rows)
    expected = expected_step_metrics(kept) | expected_clip_metrics(kept)
    assert set(expected) | {"out_of_range_low_frac", "out_of_range_high_frac"} <= set(metrics)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=PRECISION)
    assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize("seed", range(3))
def test_outside_counts_every_response_whatever_its_advantage(seed: int) -> None:
    rows = random_rows(seed)
    metrics = clip_metrics(frame(rows, 1, PER_UPDATE), spec_of("gspo"))
    later = [row for row in with_updates(rows) if row["update"] > 1]
    assert metrics["out_of_range_low_frac"] == pytest.approx(pooled(later, "out_of_range_low"))
    assert metrics["out_of_range_high_frac"] == pytest.approx(pooled(later, "out_of_range_high"))


def test_an_update_is_told_from_a_rows_place_before_padding_is_dropped() -> None:
    rows = random_rows(seed=1)
    for i in (3, PER_UPDATE, 2 * PER_UPDATE + 5):  # padding anywhere must not move the others
        rows[i]["tokens"] = 0
    got = frame(rows, step=9, rows_per_update=PER_UPDATE)
    assert got["update"].tolist() == [row["update"] for row in with_updates(rows)]
    assert got["response_hash"].tolist() == [row["response_hash"] for row in with_updates(rows)]
    assert set(got["step"]) == {9}
    assert got.index.tolist() == list(range(len(rows) - 3))


def test_all_recorded_columns_survive() -> None:
    rows = random_rows(seed=1)
    got = frame(rows, 1, PER_UPDATE)
    assert set(got.columns) == {*rows[0], "step", "update"}
    assert got.drop(columns=["step", "update"]).to_dict("records") == rows


@pytest.mark.parametrize("rows", [0, 1, PER_UPDATE - 1, PER_UPDATE + 1])
def test_rows_that_are_no_whole_number_of_updates_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"step 3: {rows} recorded rows .* updates of {PER_UPDATE}"):
        frame(random_rows(seed=0)[:rows], 3, PER_UPDATE)


@pytest.mark.parametrize("loss_mode", ["vanilla", "gspo", "cispo"])
def test_one_update_reports_nothing_about_clipping(loss_mode: str) -> None:
    sequences = frame(random_rows(seed=2), 1, rows_per_update=PER_UPDATE * UPDATES)
    metrics = step_metrics(sequences, spec_of(loss_mode))
    assert not [name for name in metrics if name.startswith(("clip_", "outside_"))]
    assert "onpolicy_log_ratio_rms" in metrics


def test_clip_fractions_are_missing_where_every_advantage_is_0() -> None:
    rows = [{**row, "advantage": 0.0, "clipped": 0} for row in random_rows(seed=3)]
    assert not [name for name in step_metrics(frame(rows, 1, PER_UPDATE), spec_of("gspo")) if name.startswith("clip_")]


@pytest.mark.parametrize(("sign", "missing"), [(1, "clip_frac_neg"), (-1, "clip_frac_pos")])
def test_clip_fraction_within_a_sign_is_missing_without_that_sign(sign: int, missing: str) -> None:
    rows = [{**row, "advantage": sign * abs(row["advantage"])} for row in random_rows(seed=4)]
    metrics = step_metrics(frame(rows, 1, PER_UPDATE), spec_of("luspo"))
    assert missing not in metrics
    assert {"clip_frac_pos", "clip_frac_neg"} - {missing} <= set(metrics)


@pytest.mark.parametrize("loss_mode", ["cispo", "sapo"])
def test_losses_whose_gradient_is_never_0_have_no_clip_fraction(loss_mode: str) -> None:
    metrics = step_metrics(frame(random_rows(seed=5), 1, PER_UPDATE), spec_of(loss_mode))
    assert not [name for name in metrics if name.startswith("clip_")]


def test_cispo_reports_what_is_outside_and_sapo_which_has_no_range_does_not() -> None:
    sequences = frame(random_rows(seed=5), 1, PER_UPDATE)
    assert {"out_of_range_low_frac", "out_of_range_high_frac"} <= set(clip_metrics(sequences, spec_of("cispo")))
    assert set(clip_metrics(sequences, spec_of("sapo"))) == {"onpolicy_log_ratio_rms"}


@pytest.mark.parametrize(
    ("column", "value", "missing", "present"),
    [
        ("truncated", False, "response_length_truncated", "response_length_finished"),
        ("truncated", True, "response_length_finished", "response_length_truncated"),
        ("accuracy", 0.0, "response_length_correct", "response_length_incorrect"),
        ("accuracy", 1.0, "response_length_incorrect", "response_length_correct"),
        ("reward", math.nan, "reward", "response_length"),
    ],
)
def test_a_value_that_does_not_exist_is_missing_and_not_nan(
    column: str, value: Any, missing: str, present: str
) -> None:
    metrics = step_metrics(frame([{**row, column: value} for row in random_rows(6)], 1, PER_UPDATE), spec_of("gspo"))
    assert missing not in metrics
    assert present in metrics
    assert all(math.isfinite(number) for number in metrics.values())


def test_responses_without_a_verdict_are_neither_right_nor_wrong() -> None:
    rows = [{**row, "accuracy": math.nan} for row in random_rows(seed=6)]
    metrics = step_metrics(frame(rows, 1, PER_UPDATE), spec_of("gspo"))
    assert not {"accuracy", "response_length_correct", "response_length_incorrect"} & set(metrics)


def test_runs_that_record_no_rollout_gap_have_none() -> None:
    rows = [
        {name: value for name, value in row.items() if name != "rollout_logprob_diff"} for row in random_rows(seed=7)
    ]
    assert "rollout_logprob_diff" not in step_metrics(frame(rows, 1, PER_UPDATE), spec_of("gspo"))


def test_windows_of_steps_pool_exactly_from_the_recorded_sums() -> None:
    steps = [random_rows(seed) for seed in range(3)]
    metrics = [step_metrics(frame(rows, i, PER_UPDATE), spec_of("gspo")) for i, rows in enumerate(steps)]
    together = [row for rows in steps for row in with_updates(rows)]
    expected = expected_clip_metrics(together)
    token = sum(one["clip_tokens"] for one in metrics) / sum(one["clip_tokens_of"] for one in metrics)
    sequence = sum(one["clip_seqs"] for one in metrics) / sum(one["clip_seqs_of"] for one in metrics)
    assert token == pytest.approx(expected["clip_frac_token"])
    assert sequence == pytest.approx(expected["clip_frac_seq"])


def test_sequence_level_clip_fraction_is_the_share_of_clipped_responses() -> None:
    rows = random_rows(seed=8)
    for i, row in enumerate(rows):
        row["clipped"] = row["tokens"] if i % 3 == 0 and row["advantage"] != 0 else 0
    later = [row for row in with_updates(rows) if row["update"] > 1 and row["advantage"] != 0]
    metrics = clip_metrics(frame(rows, 1, PER_UPDATE), spec_of("gspo"))
    assert metrics["clip_frac_seq"] == pytest.approx(mean([row["clipped"] > 0 for row in later]))


@pytest.mark.parametrize("source", ["tiny", "openai/gsm8k"])
def test_validation_columns_are_found_whatever_the_source_is_called(source: str) -> None:
    metrics = {
        f"val-core/{source}/acc/mean@4": 0.5,
        f"val-core/{source}/acc/best@4/mean": 0.9,
        f"val-aux/{source}/response_length/mean@4": 20.0,
        f"val-aux/{source}/response_length/best@4/mean": 50.0,
        f"val-aux/{source}/reward/mean@4": 0.1,
        "val-aux/num_turns/mean": 2.0,
        "actor/entropy": 1.0,
    }
    assert validation_metrics(metrics) == {"val_response_length": 20.0, "val_accuracy": 0.5}


def test_validation_columns_are_means_over_sources() -> None:
    metrics = {"val-core/a/acc/mean@2": 0.5, "val-core/b/acc/mean@2": 0.25, "val-aux/b/response_length/mean@2": 8}
    assert validation_metrics(metrics) == {"val_accuracy": 0.375, "val_response_length": 8.0}


def test_no_validation_gives_no_columns() -> None:
    assert validation_metrics({"actor/entropy": 1.0}) == {}


def test_more_responses_than_the_settings_give_are_refused() -> None:
    """Rows that came home twice are a whole number of updates too."""
    rows = [{"prompt_id": i, "sample": 0, "tokens": 3, "log_ratio": 0.0} for i in range(8)]
    assert len(frame(rows, 1, rows_per_update=4, responses=8)) == 8
    with pytest.raises(ValueError, match="step 1: 16 responses are recorded, the settings give 8"):
        frame(rows * 2, 1, rows_per_update=4, responses=8)
    masked = [{**row, "tokens": 0} if i == 0 else row for i, row in enumerate(rows)]
    assert len(frame(masked, 1, rows_per_update=4, responses=8)) == 7
