"""The decision rules on constructed runs: verdicts, special rules, seeds and runs that are not there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claim_runs import CLAIMS, LONGER, STEPS, decide, write_arm, write_lengths
from fake_runs import NARROW, write_run, write_sequences
from scipy import stats

from analysis import AnalysisError, load_runs
from analysis.statistics.claim_file import load_claims, three_digits
from analysis.statistics.claims import evaluate, results_frame


def write_validations(root: Path, arm: str, by_seed: Mapping[int, Sequence[float | None]], metric: str) -> None:
    for seed, values in by_seed.items():
        write_run(root, {"response_length": [9] * len(values), metric: values}, arm=arm, seed=seed, experiment="tiny")


def test_a_result_says_what_it_is_made_of(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    record = decide(tmp_path, "C1").record()
    assert record["estimate"] == pytest.approx(math.exp(np.log(LONGER).mean()))
    assert list(record["values"].values()) == pytest.approx(LONGER)
    assert (record["n"], record["n_runs"]) == (5, {"luspo": 5, "gspo": 5})
    assert (record["first_step"], record["last_step"]) == (17, 20)
    assert len(record["runs"]) == 10


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
            "clip_tokens": lambda seed: clipped * (1 + 0.01 * seed * share),
            "clip_tokens_of": lambda _: of,
        }

    for arm, share in (("gspo", 0.12), ("grpo", 0.004), ("gspo,clip=own", 0.4), ("grpo,clip=shared", 0.24)):
        write_arm(tmp_path, arm, **counts(share))
    preset, own, shared = (decide(tmp_path, "C6", row) for row in ("", "own ranges", "shared range"))
    assert preset.record()["values"][0] == pytest.approx(30)
    assert own.record()["values"][0] == pytest.approx(100)
    assert (own.sample.arms, shared.sample.arms) == (("gspo,clip=own", "grpo"), ("gspo", "grpo,clip=shared"))
    assert shared.record()["values"][0] == pytest.approx(0.5)
    assert [r.verdict for r in (preset, own, shared)] == ["supported", "supported", "contradicted"]


def test_c6_without_counts_says_so(tmp_path: Path) -> None:
    for arm in ("gspo", "grpo"):
        write_arm(tmp_path, arm, response_length=[9.0] * 5)
    result = decide(tmp_path, "C6")
    assert result.verdict == "not tested"
    assert "clip_tokens is not recorded" in result.reason


def write_responses(root: Path, arm: str, advantage: list[float], clipped: list[int], update: Any = 2) -> None:
    """Five runs of these responses; the tokens of the first one differ a little, so that runs do."""
    for seed in range(5):
        run = write_run(root, {"response_length": [10.0]}, arm=arm, seed=seed, experiment="tiny", manifest=NARROW)
        tokens = [100 + seed, *[100] * (len(advantage) - 1)]
        columns = {"tokens": tokens, "update": update, "advantage": advantage, "clipped": clipped}
        write_sequences(run.attempts()[-1], 1, **columns)  # pyright: ignore[reportArgumentType]


def test_c7_compares_clipped_shares_of_either_sign(tmp_path: Path) -> None:
    """Of four negatives two are clipped, of three positives one: 1/2 over 1/3. The first update and A = 0 are no
    part of it."""
    advantage = [-1, -1, -1, -1, 1, 1, 1, 0, 1, 1, -1]
    clipped = [10, 10, 0, 0, 10, 0, 0, 10, 0, 0, 0]
    write_responses(tmp_path, "gspo", advantage, clipped, [2] * 8 + [1] * 3)
    assert decide(tmp_path, "C7", "GSPO").record()["estimate"] == pytest.approx((2 / 4) / (1 / 3))


@pytest.mark.parametrize("right", [0.28, 0.5, 0.73])
def test_a_clip_that_is_blind_to_the_sign_is_no_evidence(tmp_path: Path, right: float) -> None:
    """Responses are clipped at random, whatever their sign, and are right more or less often: neither C7 nor C8 may
    follow the accuracy."""
    n = 8000
    for arm in ("gspo", "grpo"):
        for seed in range(5):
            rng = np.random.default_rng([seed, arm == "gspo"])
            groups = rng.random((n // 8, 8)) < right
            spread = groups.std(axis=1, ddof=1, keepdims=True)
            advantage = ((groups - groups.mean(axis=1, keepdims=True)) / (spread + 1e-6)).ravel()
            run = write_run(tmp_path, {"response_length": [9.0]}, arm=arm, seed=seed, experiment="tiny",
                            manifest=NARROW)  # fmt: skip
            clipped = 10 * (rng.random(n) < 0.1)
            write_sequences(run.attempts()[-1], 1, tokens=np.full(n, 10), update=np.full(n, 2), advantage=advantage,
                            clipped=clipped)  # fmt: skip
    negatives, share = decide(tmp_path, "C7", "GSPO").record(), decide(tmp_path, "C8", "GSPO").record()
    assert negatives["p"] > 0.01
    assert negatives["estimate"] == pytest.approx(1, abs=0.1)
    assert share["estimate"] == pytest.approx(0, abs=0.5)  # points


def test_c8_share_of_the_positive_in_what_is_kept(tmp_path: Path) -> None:
    write_responses(tmp_path, "gspo", [1, 1, -1, -1], [0, 0, 100, 0])
    write_responses(tmp_path, "grpo", [1, 1, -1, -1], [1, 10, 10, 0])
    gspo, grpo = decide(tmp_path, "C8", "GSPO"), decide(tmp_path, "C8", "negligible under GRPO")
    assert gspo.sample.values[0] == pytest.approx([100 * (2 / 3 - 1 / 2)])
    assert gspo.reason == "the effects are all equal, which gives no interval; p is the exact sign test's"
    assert grpo.verdict == "supported"


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
    assert result.record()["steps"] == [2, 4, 5]
    assert result.verdict == "supported"
    assert result.text.startswith("+10.1 points")


def test_how_often_a_run_validates_does_not_move_what_is_compared(tmp_path: Path) -> None:
    """GSPO at steps 5, 10, 15 and 20 and LUSPO at 4, 10, 15, 20 of a growing accuracy: the last three of both."""
    accuracy = np.arange(1, STEPS + 1) / 100
    for arm, more, at in (("gspo", 0.0, (5, 10, 15, 20)), ("luspo", 0.03, (1, 4, 10, 15, 20))):
        for seed in range(5):
            shown = [accuracy[s - 1] + more + seed * (arm == "gspo") / 1e4 if s in at else None for s in range(1, 21)]
            length = [30.0 + step if step in at else None for step in range(1, 21)]
            values = {"response_length": [9.0] * 20, "val_accuracy": shown, "val_response_length": length}
            write_run(tmp_path, values, arm=arm, seed=seed, experiment="tiny")
    record = decide(tmp_path, "C12").record()
    assert (record["values"][0], record["steps"]) == (pytest.approx(3), [10, 15, 20])
    assert decide(tmp_path, "C2").record()["steps"] == [20]
    write_validations(tmp_path / "none", "gspo", {s: [0.5, None, 0.5, None] for s in range(5)}, "val_accuracy")
    write_validations(tmp_path / "none", "luspo", {s: [None, 0.5, None, 0.5] for s in range(5)}, "val_accuracy")
    assert "val_accuracy was recorded 0 times at the same steps" in decide(tmp_path / "none", "C12").reason


MIX, VIRL = "multimodal_mix", "multimodal"
BETWEEN = "mix over ViRL39K"


def write_change(root: Path, experiment: str, changes: Sequence[float], first_seed: int = 0, **run: Any) -> None:
    """GSPO runs of 20 steps on their own data; the length is 100 in the first half and that times ``changes`` after."""
    for seed, change in enumerate(changes, first_seed):
        lengths = {"response_length": np.where(np.arange(STEPS) < 10, 100.0, 100.0 * change)}
        data = {"hash.train_data": experiment, "hash.heldout_data": experiment, "data.train_batch_size": 128}
        given = {"controlled": data, **run}
        write_run(root, lengths, arm="gspo", seed=seed, experiment=experiment, **given)


@pytest.mark.parametrize(
    ("mix", "virl", "expected"),
    [
        ([1.3, 1.35, 1.25, 1.3], [0.7, 0.72, 0.68], "supported"),
        ([0.7, 0.72, 0.68, 0.7], [1.3, 1.35, 1.25], "contradicted"),
        ([1.3, 0.9, 1.6, 1.1], [0.7, 1.6, 0.9], "undecided"),
        ([1.3, 1.35, 1.25, 1.3], [0.7, 0.72], "not tested"),
        ([1.3, 1.35], [0.7, 0.72, 0.68], "not tested"),
    ],
)
def test_c5_compares_runs_on_two_data_sets(tmp_path: Path, mix: list[float], virl: list[float], expected: str) -> None:
    write_change(tmp_path, MIX, mix)
    write_change(tmp_path, VIRL, virl, first_seed=7)  # seeds have nothing to do with each other
    result = decide(tmp_path, "C5", BETWEEN, MIX)
    record = result.record()
    assert result.verdict == expected
    independent = stats.ttest_ind(np.log(mix), np.log(virl), equal_var=False)
    low, high = np.exp(independent.confidence_interval(0.95))
    assert (result.plain.low, result.plain.high) == pytest.approx((np.log(low), np.log(high)))
    assert record["estimate"] == pytest.approx(np.exp(np.log(mix).mean() - np.log(virl).mean()))
    assert list(record["values"].values()) == pytest.approx(mix)
    assert list(record["other_values"].values()) == pytest.approx(virl)
    assert (record["against"], len(record["runs"])) == (VIRL, len(mix) + len(virl))
    if expected == "not tested":
        assert result.reason == "2 of 3 runs per arm"


def test_c5_is_not_tested_where_more_than_the_data_differs(tmp_path: Path) -> None:
    write_change(tmp_path, MIX, [1.3, 1.31, 1.29])
    assert decide(tmp_path, "C5", BETWEEN, MIX).reason == "no run of multimodal"
    write_change(tmp_path, VIRL, [0.7, 0.71, 0.69], controlled={"hash.train_data": VIRL, "data.train_batch_size": 64})
    result = decide(tmp_path, "C5", BETWEEN, MIX)
    assert result.verdict == "not tested"
    assert "differ in data.train_batch_size (64 | 128)" in result.reason
    assert decide(tmp_path, "C5", "grows on the mix", MIX).verdict == "supported"  # each alone is what it was
    assert decide(tmp_path, "C5", "shrinks on ViRL39K", VIRL).verdict == "supported"


def test_c5_needs_equal_plans_and_is_capped_by_a_failed_run_of_either(tmp_path: Path) -> None:
    write_change(tmp_path / "a", MIX, [1.3, 1.31, 1.29])
    write_change(tmp_path / "a", VIRL, [0.7, 0.71, 0.69])
    write_change(tmp_path / "a", VIRL, [0.7], first_seed=3, state="failed")
    result = decide(tmp_path / "a", "C5", BETWEEN, MIX)
    assert (result.verdict, result.reason) == ("undecided", "multimodal, seed 3: gspo failed")
    write_change(tmp_path / "b", MIX, [1.3] * 3)
    write_change(tmp_path / "b", VIRL, [0.7] * 3, planned=30)
    assert "so their windows differ" in decide(tmp_path / "b", "C5", BETWEEN, MIX).reason


def write_moe(root: Path, arm: str, fates: Sequence[str]) -> None:
    """Runs of 20 steps that end as their fate says."""
    for seed, fate in enumerate(fates):
        steps = 6 if fate == "failed" else STEPS
        lengths = np.where(np.arange(steps) < 10, 100.0, {"collapsed": 85.0, "shorter": 95.0}.get(fate, 120.0))
        norms = np.where((np.arange(steps) >= 12) & (fate == "diverged"), math.nan, 0.5)
        state = {"failed": "failed", "unfinished": "incomplete"}.get(fate, "done")
        metrics = {"response_length": lengths, "grad_norm": norms}
        write_run(root, metrics, arm=arm, seed=seed, experiment="text_moe", planned=STEPS, state=state)


FINE = ["fine"] * 5
LEFT = "4 of 5 runs per arm; "


@pytest.mark.parametrize(
    ("luspo", "gspo", "expected", "reason"),
    [
        # 5 to 0 has p = .0625 in the exact sign test, 6 to 0 has .031
        (FINE, ["failed", "diverged", "collapsed", "failed", "failed"], "undecided", "0 of 5 luspo, 5 of 5 gspo"),
        ([*FINE, "fine"], [*["failed"] * 4, "diverged", "collapsed"], "supported", "0 of 6 luspo, 6 of 6 gspo"),
        (["collapsed"] * 6, [*FINE, "fine"], "contradicted", "6 of 6 luspo, 0 of 6 gspo"),
        (FINE, ["failed"] * 4 + ["shorter"], "undecided", "0 of 5 luspo, 4 of 5 gspo"),
        (FINE, ["failed"] * 2 + ["fine"] * 3, "undecided", "0 of 5 luspo, 2 of 5 gspo"),
        (FINE, ["shorter"] * 5, "undecided", "0 of 5 luspo, 0 of 5 gspo"),
        (FINE[:4], ["failed"] * 4, "not tested", f"{LEFT}0 of 4 luspo, 4 of 4 gspo"),
        (
            FINE,
            ["unfinished"] + ["failed"] * 4,
            "not tested",
            f"{LEFT}seed 0: gspo is incomplete at step 20 of 20; 0 of 4 luspo, 4 of 4 gspo",
        ),
    ],
)
def test_c15_counts_lost_runs(tmp_path: Path, luspo: list[str], gspo: list[str], expected: str, reason: str) -> None:
    write_moe(tmp_path, "luspo", luspo)
    write_moe(tmp_path, "gspo", gspo)
    result = decide(tmp_path, "C15", experiment="text_moe")
    assert (result.verdict, result.reason) == (expected, reason)
    lost = [sum(fate in ("failed", "diverged", "collapsed") for fate in fates) for fates in (luspo, gspo)]
    assert result.record()["estimate"] == pytest.approx((lost[0] - lost[1]) / result.interval.n)
    assert result.text.split(" [")[0] == f"{(lost[0] - lost[1]) / result.interval.n:+.1f} runs"


def test_everything_else_says_why_it_is_not_tested_and_other_experiments_have_no_rows(tmp_path: Path) -> None:
    write_lengths(tmp_path, LONGER)
    write_lengths(tmp_path, LONGER, experiment="another")
    frame = results_frame(evaluate(load_runs(tmp_path), CLAIMS))
    assert len(frame) == len(CLAIMS.rows)
    assert set(frame["experiment"]) == {"tiny"}
    assert frame.loc[frame["verdict"] == "not tested", "reason"].str.len().min() > 0
    reasons = frame.set_index("id")["reason"]
    assert reasons["C4"].iloc[0] == "a claim about multimodal, mini_images"
    assert reasons["C13"] == "no benchmark evaluated for both arms and a common seed"
    assert reasons["C6"].iloc[0] == "no run of grpo"


def test_windows_of_the_papers_settings_and_pairs_that_began_alike(tmp_path: Path) -> None:
    for arm, length in (("gspo", 100.0), ("luspo", 150.0)):
        for seed in range(3):
            start = {"step1_responses": f"of {seed}"}
            lengths = {"response_length": np.full(50, length) + seed * (arm == "luspo")}
            write_run(tmp_path, lengths, arm=arm, seed=seed, experiment="text_dense", manifest=start)
    record = decide(tmp_path, "C1", experiment="text_dense").record()
    assert (record["verdict"], record["first_step"], record["last_step"]) == ("supported", 41, 50)
    assert (record["same_start"], record["paired"]) == (3, True)
    growth = decide(tmp_path, "C3", experiment="text_dense")
    assert "steps 21-60" in growth.reason


def test_the_claims_file_is_complete() -> None:
    assert list(dict.fromkeys(row.id for row in CLAIMS.rows)) == [f"C{i}" for i in range(1, 16)]
    assert sorted({row.id for row in CLAIMS.rows if row.primary}) == ["C1", "C11", "C6", "C9"]
    assert all(name in CLAIMS.experiments for row in CLAIMS.rows for name in row.experiments)


def test_a_mistake_in_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text("claims: [{id: C1, claim: x, wher: y}]")
    with pytest.raises(AnalysisError, match=r"claims.yaml:C1: unknown key 'wher'; did you mean where\?"):
        load_claims(file)
