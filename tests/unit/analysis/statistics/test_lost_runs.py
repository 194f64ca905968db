"""Runs that failed, diverged, collapsed or never ended: a result of the loss, or of the machine, and never silent."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claim_runs import CLAIMS, LONGER, STEPS, decide, write_arm, write_lengths
from fake_runs import write_run
from scipy import stats

from analysis import load_runs
from analysis.report.numbers import build_report
from analysis.report.warnings import warnings


def write_sixth_pair(root: Path, state: str, steps: int = 9, **status: Any) -> None:
    """A pair more, whose LUSPO run came so far."""
    write_lengths(root, LONGER)
    begun = {"response_length": [30.0] * steps}
    write_run(root, begun, arm="luspo", seed=5, experiment="tiny", planned=20, state=state, **status)
    write_run(root, {"response_length": [20.0] * 20}, arm="gspo", seed=5, experiment="tiny")


def test_a_run_that_waits_its_turn_is_not_counted(tmp_path: Path) -> None:
    write_sixth_pair(tmp_path, "planned")
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.sample.left_out) == ("supported", {5: "luspo is planned at step 9 of 20"})


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        ("incomplete", {}, "seed 5: luspo is incomplete at step 9 of 20"),
        ("failed", {"cause": "disk"}, "seed 5: luspo is failed (disk) at step 9 of 20"),
        ("failed", {"cause": "error"}, "seed 5: luspo failed"),
        ("failed", {}, "seed 5: luspo failed"),
    ],
)
def test_a_run_that_was_started_and_has_no_value_caps_the_verdict(
    tmp_path: Path, state: str, status: dict[str, str], reason: str
) -> None:
    """Six seeds, five of them whole: what is lost may be lost because of its value."""
    write_sixth_pair(tmp_path, state, **status)
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.reason, result.interval.n) == ("undecided", reason, 5)


def test_a_machine_that_failed_after_the_last_step_says_nothing_of_the_loss(tmp_path: Path) -> None:
    write_sixth_pair(tmp_path, "failed", steps=20, cause="disk")
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.reason, result.interval.n) == ("supported", "", 6)


def test_a_length_that_is_no_number_caps_the_verdict(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    lengths = [30.0] * 18 + [math.nan, 30.0]
    write_run(tmp_path, {"response_length": lengths}, arm="luspo", seed=5, experiment="tiny")
    write_run(tmp_path, {"response_length": [20.0] * 20}, arm="gspo", seed=5, experiment="tiny")
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.reason) == ("undecided", "seed 5: no response_length at step 19")


def test_runs_that_are_lost_by_their_outcome_give_no_verdict(tmp_path: Path) -> None:
    """Ten seeds of equal arms, of which the pairs with the shorter LUSPO run were left incomplete."""
    rng = np.random.default_rng(1)
    lengths = 30 * np.exp(rng.normal(0, 0.2, (10, 2)))
    for seed, (gspo, luspo) in enumerate(lengths):
        state = "done" if luspo > gspo else "incomplete"
        write_run(tmp_path, {"response_length": [gspo] * 20}, arm="gspo", seed=seed, experiment="tiny")
        write_run(tmp_path, {"response_length": [luspo] * 20}, arm="luspo", seed=seed, experiment="tiny", state=state)
    result = decide(tmp_path, "C1")
    assert result.sample.results >= 5
    assert result.plain.low > 0  # what is left looks like an effect
    assert result.verdict == "undecided"
    assert "luspo is incomplete at step 20 of 20" in result.reason


def test_a_collapsed_run_caps_the_verdict_and_brings_a_rank_test(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    collapsing = {"response_length": np.where(np.arange(STEPS) < 10, 60.0, 29.0)}
    write_run(tmp_path, collapsing, arm="luspo", seed=5, experiment="tiny")
    write_run(tmp_path, {"response_length": [20.0] * 20}, arm="gspo", seed=5, experiment="tiny")
    result = decide(tmp_path, "C1")
    assert result.verdict == "undecided"
    p = stats.wilcoxon(result.sample.effects, method="exact").pvalue
    assert result.reason == (
        "1 of 6 luspo runs collapsed in length (seed 5), where a t interval covers too little; "
        f"Wilcoxon's signed ranks p = {p:.3g}"
    )
    # where all runs of an arm do so it is what the loss does, and no reason against an interval
    for seed in range(5):
        write_run(tmp_path / "all", collapsing, arm="luspo", seed=seed, experiment="tiny")
        ours = {"response_length": [20.0 + seed] * 20}
        write_run(tmp_path / "all", ours, arm="gspo", seed=seed, experiment="tiny")
    assert decide(tmp_path / "all", "C1").verdict == "supported"


def test_equal_effects_have_no_interval_and_the_p_of_the_sign_test(tmp_path: Path) -> None:
    write_lengths(tmp_path, [1.5] * 5)
    result = decide(tmp_path, "C1")
    assert result.verdict == "undecided"
    assert math.isnan(result.plain.low)
    assert result.plain.p == pytest.approx(stats.binomtest(5, 5).pvalue)
    assert result.reason.startswith("the effects are all equal, which gives no interval")
    assert result.stated == result.text == "1.50 x"
    write_lengths(tmp_path / "none", [1.0] * 5)  # no difference at all is one
    assert decide(tmp_path / "none", "C1").verdict == "negligible"


def test_equal_runs_of_two_independent_arms_have_no_interval_either(tmp_path: Path) -> None:
    """Five runs of 20 tokens and five of 30, of other seeds: Welch's t would be infinite."""
    write_arm(tmp_path, "gspo", range(5), response_length=[20.0] * 5)
    write_arm(tmp_path, "luspo", range(10, 15), response_length=[30.0] * 5)
    result = decide(tmp_path, "C1")
    assert result.verdict == "undecided"
    exact = stats.permutation_test(
        ([30.0] * 5, [20.0] * 5), lambda a, b: np.mean(a) - np.mean(b), permutation_type="independent", n_resamples=1000
    )
    assert result.plain.p == pytest.approx(exact.pvalue)
    assert "the runs of each arm are all equal, which gives no interval" in result.reason


def test_arms_without_a_common_seed_are_compared_unpaired(tmp_path: Path) -> None:
    lengths = {"gspo": [20, 22, 24, 21, 23], "luspo": [30, 35, 36, 31, 36]}
    for arm, seeds in (("gspo", range(5)), ("luspo", (10, 11, 12, 13, 20))):
        write_arm(tmp_path, arm, seeds, response_length=lengths[arm], accuracy=[0.5, 0.52, 0.48, 0.5, 0.51],
                  tokens=[100.0] * 5)  # fmt: skip
    result = decide(tmp_path, "C1")
    apart = "the arms have no seed in common (luspo 10-13, 20 and gspo 0-4)"
    assert result.reason == f"unpaired (Welch): {apart}"
    independent = stats.ttest_ind(np.log(lengths["luspo"]), np.log(lengths["gspo"]), equal_var=False)
    assert result.plain.p == pytest.approx(independent.pvalue)
    assert not result.record()["paired"]
    equal = decide(tmp_path, "C11", "equal tokens")
    assert (equal.verdict, equal.reason) == (
        "not tested",
        f"{apart}, and this compares the two runs of one seed",
    )


def test_a_failed_run_caps_the_verdict_and_counts(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER[:4])
    write_run(tmp_path, {"response_length": [20.0] * 20}, arm="gspo", seed=4, experiment="tiny")
    begun = {"response_length": [30.0] * 9}
    write_run(tmp_path, begun, arm="luspo", seed=4, experiment="tiny", planned=20, state="failed")
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.interval.n) == ("undecided", 4)
    assert result.reason == "seed 4: luspo failed"


@pytest.mark.parametrize(
    ("without", "expected", "reason"),
    [
        (range(7, 8), "supported", ""),  # verl makes no update there and goes on
        (range(15, 20), "undecided", "seed 2: luspo diverged"),
        (range(20), "supported", ""),  # never recorded: nobody knows, and all else is finite
    ],
)
def test_a_run_diverged_if_its_last_steps_brought_no_update(
    tmp_path: Path, without: range, expected: str, reason: str
) -> None:
    write_arm(tmp_path, "gspo", response_length=[20.0, 21, 19, 20, 22], grad_norm=[0.5] * 5)

    def norms(seed: int) -> np.ndarray:
        return np.where(np.isin(np.arange(STEPS), list(without)) & (seed == 2), math.nan, 0.5)

    write_arm(tmp_path, "luspo", response_length=[30.0, 31, 32, 30, 31], grad_norm=norms)
    result = decide(tmp_path, "C1")
    assert (result.verdict, result.reason, result.interval.n) == (expected, reason, 5)


def test_what_became_of_every_run_that_was_started(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    begun, whole = {"response_length": [30.0] * 9}, {"response_length": [30.0] * STEPS}
    norms = np.where(np.arange(STEPS) < 15, 0.5, math.inf)
    write_run(tmp_path, begun, arm="luspo", seed=5, experiment="tiny", planned=20, state="failed", cause="disk")
    write_run(tmp_path, whole, arm="luspo", seed=6, experiment="tiny", state="failed", cause="disk")
    write_run(tmp_path, begun, arm="luspo", seed=7, experiment="tiny", planned=20, state="failed", cause="error")
    write_run(tmp_path, {**whole, "grad_norm": norms}, arm="luspo", seed=8, experiment="tiny")
    write_run(tmp_path, begun, arm="luspo", seed=9, experiment="tiny", planned=20, state="incomplete")
    left_out = {"tiny/luspo/seed=10": "planned for 2 steps", "tiny/luspo/seed=11": "excluded"}
    report = build_report(load_runs(tmp_path).leaving_out(left_out), CLAIMS)
    gspo, luspo = report["experiments"]["tiny"]["attrition"]
    assert (gspo["arm"], gspo["started"], gspo["finished"], gspo["why"]) == ("gspo", 5, 5, [])
    # five, and the one that the machine stopped after its last step; one was left out, and one nobody asked for
    counts = {"finished": 6, "failed": 1, "diverged": 1, "stopped by the machine": 1, "not finished": 1, "left out": 1}
    assert {name: luspo[name] for name in counts} == counts
    assert luspo["started"] == 11
    assert luspo["why"] == [
        "seed=5: stopped by the machine (disk)",
        "seed=7: failed (error)",
        "seed=8: diverged",
        "seed=9: not finished",
        "seed=10: planned for 2 steps",
    ]
    assert any(said.startswith("4 of 11 runs of luspo did not finish") for said in warnings(report))
