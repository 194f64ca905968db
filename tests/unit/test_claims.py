"""The decision rules on constructed runs: verdicts, special rules, seeds and runs that are not there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import write_run, write_sequences

from analysis import AnalysisError, load_runs
from analysis.claims import Result, evaluate, load_claims, results_frame, three_digits

CLAIMS = load_claims()
STEPS = 20
LONGER, SAME = [1.5, 1.55, 1.45, 1.6, 1.5], [1.01, 1.0, 0.99, 1.005, 0.995]
NARROW = {  # a sequence-level range
    "treatment": {f"actor_rollout_ref.actor.clip_ratio_{side}": at for side, at in (("low", 3e-3), ("high", 4e-3))}
}


def write_arm(root: Path, arm: str, seeds: Sequence[int] = range(5), experiment: str = "tiny", **metrics: Any) -> None:
    """Runs of 20 steps; a metric is a constant per seed, or a function of the seed that returns an array."""
    for at, seed in enumerate(seeds):
        arrays: dict[str, Any] = {
            k: v(seed) if callable(v) else np.full(STEPS, v[at], dtype=float) for k, v in metrics.items()
        }
        write_run(root, arrays, arm=arm, seed=seed, experiment=experiment)


def decide(root: Path, claim: str, row: str = "", experiment: str = "tiny") -> Result:
    results = evaluate(load_runs(root), CLAIMS)
    (result,) = [r for r in results if (r.claim.id, r.claim.row, r.experiment) == (claim, row, experiment)]
    return result


def write_lengths(root: Path, ratios: Sequence[float], **kwargs: Any) -> None:
    write_arm(root, "gspo", response_length=[20, 22, 24, 21, 23][: len(ratios)], seeds=range(len(ratios)), **kwargs)
    lengths = np.array([20, 22, 24, 21, 23][: len(ratios)]) * ratios
    write_arm(root, "luspo", response_length=lengths, seeds=range(len(ratios)), **kwargs)


def write_validations(root: Path, arm: str, by_seed: Mapping[int, Sequence[float | None]], metric: str) -> None:
    for seed, values in by_seed.items():
        write_run(root, {"response_length": [9] * len(values), metric: values}, arm=arm, seed=seed, experiment="tiny")


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        (LONGER, "supported"),
        ([0.7, 0.75, 0.65, 0.7, 0.72], "contradicted"),
        (SAME, "negligible"),
        ([0.8, 1.9, 1.0, 1.6, 1.2], "undecided"),
        (LONGER[:4], "not tested"),
    ],
)
def test_verdicts_on_c1(tmp_path: Path, ratios: list[float], expected: str) -> None:
    write_lengths(tmp_path, ratios)
    result = decide(tmp_path, "C1")
    assert result.verdict == expected
    record = result.record()
    assert record["estimate"] == pytest.approx(math.exp(np.log(ratios).mean()))
    assert list(record["values"].values()) == pytest.approx(ratios)
    assert (record["n"], record["n_runs"]) == (len(ratios), {"luspo": len(ratios), "gspo": len(ratios)})
    assert (record["first_step"], record["last_step"]) == (17, 20)
    assert len(record["runs"]) == 2 * len(ratios)


def test_text_and_reason(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    assert decide(tmp_path, "C1").text.startswith("1.52 x [1.")
    write_lengths(tmp_path, LONGER[:1], experiment="smollm2")
    single = decide(tmp_path, "C1", experiment="smollm2")
    assert (single.text, single.reason) == ("1.50 x", "1 of 5 runs per arm")
    assert math.isnan(single.record()["low"])
    assert [three_digits(v) for v in (0.03123, 1.5, 27.62, 3940, 0)] == ["0.0312", "1.50", "27.6", "3940", "0"]


def test_primary_claims_are_decided_at_holms_level(tmp_path: Path) -> None:
    write_lengths(tmp_path, [1.1, 1.6, 1.2, 1.5, 1.3])
    result = decide(tmp_path, "C1")
    assert result.interval.level == pytest.approx(0.99)  # five primary rows, the others not tested
    assert result.p_holm == pytest.approx(5 * result.plain.p)
    assert result.plain.low > 0
    assert result.interval.low < 0.05 < result.plain.low  # wider
    assert decide(tmp_path, "C3").interval.level == pytest.approx(0.95)  # not a primary claim


def test_only_the_end_counts(tmp_path: Path) -> None:
    def late(seed: int) -> np.ndarray:
        return np.where(np.arange(1, STEPS + 1) >= 17, 30.0 + seed, 1.0)

    write_arm(tmp_path, "gspo", response_length=[20.0] * 5)
    write_arm(tmp_path, "luspo", response_length=late)
    assert decide(tmp_path, "C1").record()["values"][0] == pytest.approx(1.5)


def test_a_seed_of_one_arm_is_left_out_and_named(tmp_path: Path) -> None:
    write_arm(tmp_path, "gspo", range(6), response_length=[20] * 6)
    write_arm(tmp_path, "luspo", range(5), response_length=np.array(LONGER) * 20)
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.sample.left_out, result.interval.n) == ("supported", {5: "only gspo"}, 5)


@pytest.mark.parametrize("state", ["incomplete", "planned"])
def test_an_unfinished_run_is_left_out_and_not_counted(tmp_path: Path, state: str) -> None:
    write_lengths(tmp_path, LONGER)
    begun = {"response_length": [30.0] * 9}
    write_run(tmp_path, begun, arm="luspo", seed=5, experiment="tiny", planned=20, state=state)
    write_run(tmp_path, {"response_length": [20.0] * 20}, arm="gspo", seed=5, experiment="tiny")
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.sample.left_out) == ("supported", {5: f"luspo is {state}"})


def test_a_failed_run_caps_the_verdict_and_counts(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER[:4])
    write_run(tmp_path, {"response_length": [20.0] * 20}, arm="gspo", seed=4, experiment="tiny")
    begun = {"response_length": [30.0] * 9}
    write_run(tmp_path, begun, arm="luspo", seed=4, experiment="tiny", planned=20, state="failed")
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.interval.n) == ("undecided", 4)
    assert result.reason == "seed 4: luspo failed"


def test_nan_in_the_gradient_caps_the_verdict(tmp_path: Path) -> None:
    write_arm(tmp_path, "gspo", response_length=[20.0] * 5, grad_norm=[0.5] * 5)
    norms = np.full(STEPS, 0.5)
    write_arm(
        tmp_path,
        "luspo",
        response_length=[30.0] * 5,
        grad_norm=lambda seed: np.where((np.arange(STEPS) == 7) & (seed == 2), math.nan, norms),
    )
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.reason, result.interval.n) == ("undecided", "seed 2: luspo diverged", 5)


def test_unmatched_runs_are_refused(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    changed = {"data.train_batch_size": 32}
    write_run(tmp_path, {"response_length": [9.0] * 20}, arm="luspo", seed=5, experiment="tiny", controlled=changed)
    with pytest.raises(AnalysisError, match=r"not matched: .* differ in data.train_batch_size"):
        decide(tmp_path, "C1")


def test_runs_of_different_length_are_refused(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    write_run(tmp_path, {"response_length": [9.0] * 30}, arm="luspo", seed=5, experiment="tiny")
    with pytest.raises(AnalysisError, match="planned 20 steps"):
        decide(tmp_path, "C1")


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1.5, "supported"), (1.0, "contradicted"), (2.0, "contradicted"), (1.27, "undecided")]
)
def test_c2_asks_for_an_interval_within_a_range(tmp_path: Path, ratio: float, expected: str) -> None:
    for arm, factor in (("gspo", 1.0), ("luspo", ratio)):
        values = {s: [None, 99.0, None, 20 * factor * (1 + 0.01 * s * (arm == "luspo"))] for s in range(5)}
        write_validations(tmp_path, arm, values, "val_response_length")
    assert decide(tmp_path, "C2").verdict == expected


def test_c3_growth_over_twenty_steps(tmp_path: Path) -> None:
    def growing(rate: float):
        return lambda seed: 20 * np.exp((rate + 1e-4 * seed) * np.arange(STEPS))

    write_arm(tmp_path, "gspo", response_length=growing(0.01))
    write_arm(tmp_path, "luspo", response_length=lambda seed: growing(0.02)(2 * seed))
    result = decide(tmp_path, "C3")
    assert result.verdict == "supported"
    assert result.record()["values"][0] == pytest.approx(math.exp(0.01 * 20))


def test_c6_pools_sums_and_has_a_row_for_every_range(tmp_path: Path) -> None:
    def counts(share: float) -> dict[str, Any]:
        of = np.tile([10.0, 1000.0], 10)
        clipped = of * share * np.tile([0, 1010 / 1000], 10)  # the mean of shares would be another number
        return {
            "response_length": [9.0] * 5,
            "clip_tokens": lambda seed: clipped * (1 + 0.01 * seed),
            "clip_tokens_of": lambda _: of,
        }

    for arm, share in (("gspo", 0.12), ("grpo", 0.004), ("gspo,clip=own", 0.4), ("grpo,clip=shared", 0.24)):
        write_arm(tmp_path, arm, **counts(share))
    preset, own, shared = (decide(tmp_path, "C6", row) for row in ("", "own ranges", "shared range"))
    assert preset.record()["estimate"] == pytest.approx(30)
    assert own.record()["estimate"] == pytest.approx(100)
    assert (own.sample.arms, shared.sample.arms) == (("gspo,clip=own", "grpo"), ("gspo", "grpo,clip=shared"))
    assert shared.record()["estimate"] == pytest.approx(0.5)
    assert [r.verdict for r in (preset, own, shared)] == ["supported", "supported", "contradicted"]


def test_c6_without_counts_says_so(tmp_path: Path) -> None:
    for arm in ("gspo", "grpo"):
        write_arm(tmp_path, arm, response_length=[9.0] * 5)
    result = decide(tmp_path, "C6")
    assert result.verdict == "not tested"
    assert "clip_tokens is not recorded" in result.reason


def write_responses(root: Path, arm: str, log_ratio: list[float], advantage: list[float], clipped: list[int]) -> None:
    for seed in range(5):
        run = write_run(root, {"response_length": [10.0]}, arm=arm, seed=seed, experiment="tiny", manifest=NARROW)
        columns = {"tokens": 10, "log_ratio": log_ratio, "advantage": advantage, "clipped": clipped}
        write_sequences(run.attempts()[-1], 1, **columns)  # pyright: ignore[reportArgumentType]


def test_c7_reclips_the_recorded_log_ratios(tmp_path: Path) -> None:
    # Two negatives below 1 - .003 and one positive above 1 + .004; at .0035 one negative and two positives.
    log_ratio = [-0.0032, -0.0040, 0.0038, 0.0050, -0.01, 0.0]
    write_responses(tmp_path, "gspo", log_ratio, [-1, -1, 1, 1, 1, 0], [10, 10, 0, 10, 0, 0])
    assert decide(tmp_path, "C7", "GSPO").record()["estimate"] == pytest.approx(2)
    assert decide(tmp_path, "C7", "less with a symmetric range").record()["estimate"] == pytest.approx(2 / 0.5)


def test_c8_share_of_the_positive_in_what_is_kept(tmp_path: Path) -> None:
    write_responses(tmp_path, "gspo", [0.0] * 4, [1, 1, -1, -1], [0, 0, 10, 0])
    write_responses(tmp_path, "grpo", [0.0] * 4, [1, 1, -1, -1], [0, 1, 1, 0])
    gspo, grpo = decide(tmp_path, "C8", "GSPO"), decide(tmp_path, "C8", "negligible under GRPO")
    assert gspo.text == "+16.7 points [+16.7, +16.7]"
    assert (gspo.verdict, grpo.verdict) == ("supported", "supported")


def test_c11_at_equal_tokens_compares_one_stretch_of_tokens(tmp_path: Path) -> None:
    accuracy = np.linspace(0.2, 0.8, STEPS)
    write_arm(tmp_path, "gspo", response_length=[9] * 5, tokens=[100.0] * 5, accuracy=lambda _: accuracy)
    write_arm(tmp_path, "luspo", response_length=[9] * 5, tokens=[150.0] * 5, accuracy=lambda _: accuracy)
    assert decide(tmp_path, "C11", "equal steps").record()["estimate"] == 0
    # LUSPO reaches 2000 tokens a third into step 14.
    reached = (accuracy[:13].sum() * 150 + accuracy[13] * 50) / 2000
    equal = decide(tmp_path, "C11", "equal tokens").record()["estimate"]
    assert equal == pytest.approx(100 * (reached - accuracy.mean()))
    # Steps 10 to 19 of GSPO are tokens 900 to 1900: LUSPO's steps 7 to 12 and two thirds of step 13.
    reached = (accuracy[6:12].sum() * 150 + accuracy[12] * 100) / 1000
    early = decide(tmp_path, "C11", "equal tokens, early").record()["estimate"]
    assert early == pytest.approx(100 * (reached - accuracy[9:19].mean()))


def test_c12_is_the_mean_of_the_last_three_validations(tmp_path: Path) -> None:
    write_validations(tmp_path, "gspo", {s: [0.9, 0.5, None, 0.5, 0.5] for s in range(5)}, "val_accuracy")
    write_validations(tmp_path, "luspo", {s: [0.1, 0.5, None, 0.6, 0.7 + s / 1e3] for s in range(5)}, "val_accuracy")
    result = decide(tmp_path, "C12")
    assert result.record()["values"][0] == pytest.approx(10)
    assert result.verdict == "supported"
    assert result.text.startswith("+10.1 points")


def test_everything_else_says_why_it_is_not_tested(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    write_lengths(tmp_path, LONGER, experiment="another")
    frame = results_frame(evaluate(load_runs(tmp_path), CLAIMS))
    assert len(frame) == 2 * len(CLAIMS.rows)
    assert frame.loc[frame["verdict"] == "not tested", "reason"].str.len().min() > 0
    assert set(frame.loc[frame["experiment"] == "another", "reason"]) == {
        "claims.yaml has no rules for this experiment"
    }
    reasons = frame[frame["experiment"] == "tiny"].set_index("id")["reason"]
    assert reasons["C4"].iloc[0] == "a claim about multimodal"
    assert reasons["C13"] == "needs benchmark evaluations"
    assert reasons["C6"].iloc[0] == "no run of grpo"


def test_windows_of_the_papers_settings_and_pairs_that_began_alike(tmp_path: Path) -> None:
    for arm, length in (("gspo", 100.0), ("luspo", 150.0)):
        for seed in range(3):
            start = {"step1_responses": f"{seed}{arm if seed else ''}"}
            lengths = {"response_length": np.full(50, length) + seed * (arm == "luspo")}
            write_run(tmp_path, lengths, arm=arm, seed=seed, experiment="text_dense", manifest=start)
    record = decide(tmp_path, "C1", experiment="text_dense").record()
    assert (record["verdict"], record["first_step"], record["last_step"]) == ("supported", 41, 50)
    assert record["same_start"] == 1
    growth = decide(tmp_path, "C3", experiment="text_dense")
    assert "steps 21-60" in growth.reason


def test_the_claims_file_is_complete() -> None:
    assert list(dict.fromkeys(row.id for row in CLAIMS.rows)) == [f"C{i}" for i in range(1, 16)]
    assert sorted({row.id for row in CLAIMS.rows if row.primary}) == ["C1", "C11", "C6", "C9"]
    assert all(name in CLAIMS.experiments for row in CLAIMS.rows for name in row.experiments)


def test_a_mistake_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text("claims: [{id: C1, claim: x, wher: y}]")
    with pytest.raises(AnalysisError, match=r"claim C1: .*wher"):
        load_claims(file)
