"""Seeds and power: against simulated paired runs, against a computation by hand, and what a plan cannot say."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from claim_runs import CLAIMS, LONGER, STEPS, decide, write_arm, write_lengths
from fake_runs import write_run
from scipy import stats

from analysis.runs.load import Runs, load_runs
from analysis.statistics.claims import Result, evaluate
from analysis.statistics.intervals import POWER, Rule, detectable, t_interval, t_power, verdict
from analysis.statistics.power import (
    CAPPED,
    MAX_SEEDS,
    NO_SPREAD,
    SEEDS,
    chances,
    command,
    cost,
    gpus_of,
    plan,
    sd_interval,
    seeds_to_decide,
    seeds_to_find,
    to_decide,
)

ROOT = Path(__file__).resolve().parents[4]
TRIALS = 4000
ERROR = 4 * math.sqrt(0.25 / TRIALS)  # four standard errors of a share, at most
Noise = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(0, 1, shape)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Skewness 1, mean 0, standard deviation 1."""
    return (rng.gamma(4, 1, shape) - 4) / 2


def rejected(effects: np.ndarray) -> float:
    """The share of rows whose two-sided paired t test rejects at 5 %."""
    return float((stats.ttest_1samp(effects, 0, axis=1).pvalue < 0.05).mean())


def paired_effects(rng: np.random.Generator, noise: Noise, effect: float, n: int) -> np.ndarray:
    """TRIALS experiments of n seeds: the runs of a seed share a part, each has its own noise; their difference has
    standard deviation 1."""
    seed = rng.normal(0, 3, (TRIALS, n))
    first, second = (seed + noise(rng, (TRIALS, n)) / math.sqrt(2) for _ in range(2))
    return effect + first - second


@pytest.mark.parametrize("n", SEEDS)
def test_the_stated_power_is_the_simulated_one(n: int) -> None:
    rng = np.random.default_rng(n)
    for stated in (0.5, 0.8, 0.95):
        effect = detectable(1, n, power=stated)
        assert t_power(effect, 1, n) == pytest.approx(stated, abs=1e-6)
        assert rejected(paired_effects(rng, normal, effect, n)) == pytest.approx(stated, abs=ERROR)


@pytest.mark.parametrize("n", SEEDS)
def test_the_stated_power_holds_for_noise_that_is_skewed_alike_in_both_arms(n: int) -> None:
    """At 80 %, which every number of seeds is made of, within the simulation's error; at 50 % up to 3 points more."""
    rng = np.random.default_rng(n)
    assert rejected(paired_effects(rng, skewed, detectable(1, n), n)) == pytest.approx(POWER, abs=ERROR)
    for stated in (0.5, 0.95):
        found = rejected(paired_effects(rng, skewed, detectable(1, n, power=stated), n))
        assert found == pytest.approx(stated, abs=0.03 + ERROR)


def test_noise_that_is_skewed_in_one_arm_alone_moves_the_power() -> None:
    """The limit of a t test, written down: at a stated 80 % between 74 and 92 %, by the sign of the effect."""
    rng = np.random.default_rng(0)
    for n in SEEDS:
        effect = detectable(1, n)
        found = [rejected(effect + sign * skewed(rng, (TRIALS, n))) for sign in (1, -1)]
        assert 0.80 < found[0] < 0.92
        assert 0.74 < found[1] < 0.80


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0, 1.7, 3.0])
def test_seeds_needed_reach_the_power_and_one_fewer_do_not(effect: float) -> None:
    n = int(seeds_to_find(effect, 1))
    assert t_power(effect, 1, n) >= POWER
    assert n == 2 or t_power(effect, 1, n - 1) < POWER
    assert seeds_to_find(-2 * effect, 2) == n  # of either sign, in any unit
    rng = np.random.default_rng(n)
    assert rejected(paired_effects(rng, normal, effect, n)) > POWER - ERROR
    if t_power(effect, 1, n - 1) < POWER - 2 * ERROR:
        assert rejected(paired_effects(rng, normal, effect, n - 1)) < POWER


def test_no_effect_needs_more_seeds_than_there_are() -> None:
    assert seeds_to_find(0.0, 1) == math.inf
    assert seeds_to_find(0.01, 1) == math.inf
    assert math.isnan(seeds_to_find(1, 0))
    assert math.isnan(t_power(1, 1, 1))
    assert t_power(1, 1, 5, 0.99) < t_power(1, 1, 5)


RULES = [Rule(">"), Rule(">", delta=1.0), Rule("<", delta=0.5, than=0.2), Rule("within", region=(-0.4, 0.9))]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("effect", "n"), [(0.9, 5), (0.2, 20), (1.5, 8), (-0.8, 10)])
def test_the_chance_of_a_verdict_is_how_often_it_is_given(rule: Rule, effect: float, n: int) -> None:
    rows = np.random.default_rng(n).normal(effect, 1, (2000, n))
    given = [verdict(t_interval(row), rule) for row in rows]
    for name, chance in chances(rule, effect, 1, n).items():
        assert given.count(name) / len(given) == pytest.approx(chance, abs=4 * math.sqrt(0.25 / len(given)))


def test_the_chance_of_support_without_a_smallest_effect_is_the_power() -> None:
    for n in (2, 3, 5, 40, 300):
        for effect in (0.1, 0.5, 1, 3, 10):
            assert chances(RULES[0], effect, 1, n)["supported"] == pytest.approx(t_power(effect, 1, n), abs=1e-3)


@pytest.mark.parametrize(
    ("rule", "effect", "most_likely"),
    [
        (RULES[1], 1.5, "supported"),
        (RULES[1], 0.1, "negligible"),
        (RULES[1], -2.0, "contradicted"),
        (RULES[3], 0.3, "supported"),
        (RULES[3], 1.5, "contradicted"),
    ],
)
def test_seeds_to_decide_reach_the_power_and_one_fewer_do_not(rule: Rule, effect: float, most_likely: str) -> None:
    n = int(seeds_to_decide(rule, effect, 1))
    at, before = (chances(rule, effect, 1, seeds) for seeds in (n, n - 1))
    assert sum(at.values()) >= POWER > sum(before.values())
    assert max(at, key=lambda name: at[name]) == most_likely


def test_an_effect_at_the_border_of_two_verdicts_is_never_decided() -> None:
    assert seeds_to_decide(RULES[1], 1.0, 1) == math.inf
    assert seeds_to_find(1.0, 1) == 10


def test_the_interval_of_the_standard_deviation_covers_it() -> None:
    low, high = sd_interval(2.0, 4)
    assert (low, high) == (pytest.approx(2 * 0.599, rel=1e-3), pytest.approx(2 * 2.874, rel=1e-3))
    found = np.random.default_rng(1).normal(0, 1, (TRIALS, 5)).std(axis=1, ddof=1)
    covered = [bound[0] <= 1 <= bound[1] for bound in (sd_interval(sd, 4) for sd in found)]
    assert np.mean(covered) == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / TRIALS))
    assert math.isnan(sd_interval(1, 0)[0])


@pytest.fixture(scope="module")
def reference() -> tuple[Runs, list[Result]]:
    runs = load_runs(ROOT / "results" / "reference" / "tiny")
    return runs, evaluate(runs, CLAIMS)


@pytest.mark.parametrize(("name", "row"), [("C1", ""), ("C11", "equal steps")])
def test_a_plan_of_the_reference_runs_by_hand(reference: tuple[Runs, list[Result]], name: str, row: str) -> None:
    runs, results = reference
    (result,) = [r for r in results if (r.claim.id, r.claim.row) == (name, row)]
    found = plan(result, runs, 0.95)

    metrics = runs.metrics
    if name == "C1":  # ln of the ratio of mean lengths over the last fifth of 60 steps
        means = metrics[metrics["step"] > 48].groupby(["arm", "seed"])["response_length"].mean()
        effects, smallest, unit = np.log(means["luspo"] / means["gspo"]), math.log(1.1), np.exp
    else:  # the difference of mean accuracy over all steps, percentage points
        means = 100 * metrics.groupby(["arm", "seed"])["accuracy"].mean()
        effects, smallest, unit = means["luspo"] - means["gspo"], 1.0, float
    sd = effects.std(ddof=1)
    assert found["n"] == 5
    assert found["effects"] == pytest.approx(list(effects))
    assert found["sd"] == pytest.approx(sd)
    low, high = (sd * math.sqrt(4 / stats.chi2.ppf(q, 4)) for q in (0.975, 0.025))
    assert (found["sd_low"], found["sd_high"]) == (pytest.approx(low), pytest.approx(high))

    def power(effect: float, spread: float, n: int) -> float:
        return float(stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, abs(effect) / spread * math.sqrt(n)))

    for n, effect in found["detectable"].items():
        size = math.log(effect) if name == "C1" else effect
        assert power(size, sd, n) == pytest.approx(0.8, abs=1e-6)
    for key, effect in (("to_find_smallest", smallest), ("to_find_observed", effects.mean())):
        ends = zip(found[key].values(), (sd, low, high), strict=True)
        assert all(n == next(k for k in range(2, MAX_SEEDS) if power(effect, s, k) >= 0.8) for n, s in ends)
    assert found["observed"] == pytest.approx(unit(effects.mean()))
    minutes = runs.runs.groupby("arm")["minutes"].mean()
    assert found["minutes"] == pytest.approx(minutes["luspo"] + minutes["gspo"])
    assert found["gpu_hours"] == 0


def test_an_undecided_row_says_how_many_seeds_are_missing(reference: tuple[Runs, list[Result]]) -> None:
    runs, results = reference
    for result in results:
        if result.verdict != "undecided":
            continue
        found = to_decide(result, runs)
        total = found["more"] + 5
        assert found["more"] >= 1
        assert found["seeds"]["n"] == total
        assert found["seeds"]["low"] <= total <= found["seeds"]["high"]
        estimate, sd, level = result.interval.estimate, result.interval.sd, result.interval.level
        decided, fewer = (chances(result.rule, estimate, sd, n, level) for n in (total, total - 1))
        assert sum(decided.values()) >= POWER > sum(fewer.values())
        inside = result.rule.direction == ">" and abs(estimate) < result.rule.delta
        assert (found["verdict"] == "negligible") == inside
        listed = "25," if found["more"] <= 6 else f"$(seq -s, 25 {24 + found['more']})"
        assert found["command"].startswith(f"make sweep EXPERIMENT=tiny ALGOS=gspo,luspo SEEDS={listed}")


def test_more_seeds_do_not_decide_what_is_capped_or_flat(tmp_path: Path) -> None:
    write_lengths(tmp_path / "flat", [1.05] * 5)
    assert to_decide(decide(tmp_path / "flat", "C1"), load_runs(tmp_path / "flat"))["why_not"] == NO_SPREAD
    write_lengths(tmp_path / "failed", LONGER)
    for arm in ("gspo", "luspo"):
        write_run(tmp_path / "failed", {"response_length": [9.0] * STEPS}, arm=arm, seed=5, experiment="tiny",
                  state="failed" if arm == "luspo" else "done", cause="error")  # fmt: skip
    assert to_decide(decide(tmp_path / "failed", "C1"), load_runs(tmp_path / "failed"))["why_not"] == CAPPED


def test_the_command_fills_half_pairs_first_and_repeats_the_overrides(tmp_path: Path) -> None:
    write_lengths(tmp_path, [1.02, 1.3, 1.1, 0.9, 1.2])
    write_arm(tmp_path, "gspo", [7], response_length=[20.0])
    assert command(decide(tmp_path, "C1"), load_runs(tmp_path), 3).endswith("ALGOS=gspo,luspo SEEDS=7,8,9")
    words = ["algo=gspo,luspo", "experiment=tiny", "seed=0", "trainer.total_training_steps=20", "harness.root=x"]
    for arm in ("gspo", "luspo"):
        for seed in range(3):
            write_run(tmp_path / "more", {"response_length": [20.0 + seed] * STEPS}, arm=arm, seed=seed,
                      experiment="tiny", manifest={"overrides": words})  # fmt: skip
    found = command(decide(tmp_path / "more", "C1"), load_runs(tmp_path / "more"), 1)
    assert found == (
        "make sweep EXPERIMENT=tiny ALGOS=gspo,luspo SEEDS=3 "
        'ARGS="trainer.total_training_steps=20 harness.root=x"'
    )  # fmt: skip


def test_gpus_are_those_of_the_settings(tmp_path: Path) -> None:
    on_gpus = {"trainer.device": "cuda", "trainer.nnodes": 2, "trainer.n_gpus_per_node": 8}
    for arm, length in (("gspo", 20.0), ("luspo", 30.0)):
        for seed in range(3):
            values = {"response_length": [length + seed] * STEPS}
            write_run(tmp_path, values, arm=arm, seed=seed, experiment="tiny", controlled=on_gpus, seconds=1800.0)
    runs = load_runs(tmp_path)
    assert {gpus_of(runs, run) for run in runs.runs["run"]} == {16}
    assert cost(decide(tmp_path, "C1"), runs) == {"minutes": 60, "gpu_hours": 16}
    write_lengths(tmp_path / "unknown", LONGER)
    found = cost(decide(tmp_path / "unknown", "C1"), load_runs(tmp_path / "unknown"))
    assert found["minutes"] == 2
    assert math.isnan(found["gpu_hours"])
