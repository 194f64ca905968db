"""What the intervals and tests promise, by simulation with a known truth: coverage, false positives, power.

A simulation passes if its count lies within a binomial range that a right method leaves in 2 of 10,000 cases. Seeds are
fixed. The last tests show that the same check finds intervals which leave a source of variation out.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.benchmarks import crossed, sign_flip
from analysis.statistics.intervals import Interval, Values, holm, t_interval, welch

RUNS = (2, 3, 5, 10)
QUESTIONS, SAMPLES = 20, 8
EXPERIMENTS, EFFECT = 2000, 0.05

# Standard deviations of the difference of two arms over runs, questions and both, beside the noise of the samples.
SETTINGS = {
    "runs": (0.05, 0.0, 0.0),
    "questions": (0.0, 0.15, 0.0),
    "interaction": (0.0, 0.0, 0.15),
    "all": (0.03, 0.10, 0.10),
    "samples alone": (0.0, 0.0, 0.0),
}


def require_share(hits: Sequence[bool] | np.ndarray, least: float, most: float | None = None) -> None:
    """Fail unless the share of hits is compatible with a probability from ``least`` to ``most``."""
    n, hit = len(hits), int(np.sum(hits))
    low, high = stats.binom.ppf(1e-4, n, least), stats.binom.isf(1e-4, n, least if most is None else most)
    assert low <= hit <= high, f"{hit} of {n}: {hit / n:.4f}, expected {least} to {most or least}"


def covers(found: Interval, truth: float) -> bool:
    return found.low <= truth <= found.high


def rejects(found: Interval) -> bool:
    return found.p < 0.05


def differences(seed: int, runs: int, setting: str, effect: float = EFFECT) -> np.ndarray:
    """Experiments x runs x questions of paired differences, of which ``effect`` is the mean over everything.

    A draw of all three kinds of effects sets the two chances of being right, symmetric about one half, and the samples
    are binomial. Chances outside 0 to 1 are more than four standard deviations away.
    """
    rng = np.random.default_rng(seed)
    of_runs, of_questions, of_both = SETTINGS[setting]
    shape = (EXPERIMENTS, runs, QUESTIONS)
    difference = (
        effect
        + rng.normal(0, of_runs, (EXPERIMENTS, runs, 1))
        + rng.normal(0, of_questions, (EXPERIMENTS, 1, QUESTIONS))
        + rng.normal(0, of_both, shape)
    )
    right = [rng.binomial(SAMPLES, (1 + sign * np.clip(difference, -1, 1)) / 2) for sign in (1, -1)]
    return (right[0] - right[1]) / SAMPLES


@pytest.mark.parametrize("n", RUNS)
def test_students_interval_covers(n: int) -> None:
    x = np.random.default_rng(n).normal(0.3, 2, (4000, n))
    require_share([covers(t_interval(row), 0.3) for row in x], 0.95)
    require_share([covers(t_interval(row, 0.8), 0.3) for row in x], 0.8)


@pytest.mark.parametrize("n", RUNS)
@pytest.mark.parametrize("shared", [0.0, 3.0])
def test_the_paired_interval_covers_whatever_pairs_share(n: int, shared: float) -> None:
    rng = np.random.default_rng(10 + n)
    a, b = rng.normal(0, shared, (4000, n)) + rng.normal(0, [[[2]], [[1]]], (2, 4000, n))
    require_share([covers(t_interval(x + 0.3 - y), 0.3) for x, y in zip(a, b, strict=True)], 0.95)


@pytest.mark.parametrize("n", RUNS)
@pytest.mark.parametrize("ratio", [1, 3, 10])
def test_welchs_interval_covers_with_unequal_variances(n: int, ratio: float) -> None:
    rng = np.random.default_rng(20 + n)
    a, b = rng.normal(0.3, 1, (2000, n)), rng.normal(0, ratio, (2000, n))
    # Known of small samples: wide at equal variances, a little narrow in between, right in the limit.
    least, most = (0.945, 0.98) if n < 5 else (0.94, 0.96)
    require_share([covers(welch(x, y), 0.3) for x, y in zip(a, b, strict=True)], least, most)


@pytest.mark.parametrize("n", RUNS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_crossed_interval_covers_on_new_questions(n: int, setting: str) -> None:
    least, most = (0.94, 0.99) if n > 2 else (0.90, 0.995)
    require_share([covers(crossed([d]), EFFECT) for d in differences(30 + n, n, setting)], least, most)


@pytest.mark.parametrize("setting", ["runs", "samples alone", "interaction"])
def test_students_interval_over_run_means_covers_on_the_benchmark(setting: str) -> None:
    found = [t_interval(d.mean(axis=1)) for d in differences(40, 5, setting)]
    require_share([covers(f, EFFECT) for f in found], 0.945, 0.955)


# The tests of no difference, as functions of the run x question shares of two arms.
COMPARISONS: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "paired_t": lambda a, b: rejects(t_interval(a.mean(axis=1) - b.mean(axis=1))),
    "welch": lambda a, b: rejects(welch(a.mean(axis=1), b.mean(axis=1))),
    "crossed": lambda a, b: rejects(crossed([a - b])),
    "sign_flip": lambda a, b: sign_flip(a.mean(axis=1) - b.mean(axis=1))[0] <= 0.05,
}


@pytest.mark.parametrize("n", RUNS)
@pytest.mark.parametrize("name", COMPARISONS)
def test_false_positives_of_equal_arms(n: int, name: str) -> None:
    # Questions as benchmarks have them, most easy or hard; seeds matter; pairs share their half of that.
    rng = np.random.default_rng(50 + n)
    odds = rng.normal(0, 2.5, (EXPERIMENTS, 1, QUESTIONS)) + rng.normal(0, 0.3, (EXPERIMENTS, n, 1))
    a, b = (
        rng.binomial(SAMPLES, 1 / (1 + np.exp(-odds - rng.normal(0, 0.3, (EXPERIMENTS, n, 1))))) / SAMPLES
        for _ in range(2)
    )
    least, most = {"paired_t": (0.045, 0.055), "welch": (0.0, 0.055), "crossed": (0.0, 0.06), "sign_flip": (0.0, 0.05)}[
        name
    ]
    if (name, n) == ("crossed", 2):
        most = 0.10
    if (name, n) == ("sign_flip", 10):
        least = 0.04
    require_share([COMPARISONS[name](x, y) for x, y in zip(a, b, strict=True)], least, most)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_sign_flip_test_reaches_its_least_p_as_often_as_that_says(n: int) -> None:
    found = [sign_flip(x) for x in np.random.default_rng(60 + n).laplace(0, 1, (2000, n))]
    require_share([p <= least for p, least in found], found[0][1])


def power(effect: float, error: float, df: float) -> float:
    """Of the two-sided t test at 5 %, from the noncentral t distribution."""
    quantile = stats.t.ppf(0.975, df)
    return float(stats.nct.sf(quantile, df, effect / error) + stats.nct.cdf(-quantile, df, effect / error))


@pytest.mark.parametrize(("n", "effect"), [(2, 4.0), (3, 2.0), (5, 1.0), (10, 1.0)])
def test_power_over_runs(n: int, effect: float) -> None:
    a, b = np.random.default_rng(70 + n).normal(0, 1, (2, 3000, n))
    paired = [rejects(t_interval(x + effect - y)) for x, y in zip(a, b, strict=True)]
    require_share(paired, power(effect, math.sqrt(2 / n), n - 1))
    require_share([rejects(t_interval(x + effect)) for x in a], power(effect, math.sqrt(1 / n), n - 1))
    if n >= 5:  # with fewer runs Welch's estimated degrees of freedom cost power
        expected = power(effect, math.sqrt(2 / n), 2 * n - 2)
        require_share([rejects(welch(x + effect, y)) for x, y in zip(a, b, strict=True)], expected - 0.03, expected)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_power_on_new_questions(n: int) -> None:
    rng = np.random.default_rng(80 + n)
    shape = (EXPERIMENTS, n, QUESTIONS)
    by_run, by_question, rest = (rng.normal(0, 1, s) for s in ((shape[0], n, 1), (shape[0], 1, QUESTIONS), shape))
    # With one source of variation it is Student's test over that source ...
    found = [rejects(crossed([d])) for d in np.broadcast_to(1 + by_run, shape)]
    require_share(found, power(1, math.sqrt(1 / n), n - 1))
    found = [rejects(crossed([d])) for d in np.broadcast_to(0.6 + by_question, shape)]
    require_share(found, power(0.6, math.sqrt(1 / QUESTIONS), QUESTIONS - 1))
    # ... and with all of them nearly the one that the true variances give.
    d = 0.8 + 0.3 * by_run + by_question + rest
    of_run, of_question, of_rest = (
        0.09 / n + 1 / (n * QUESTIONS),
        1 / QUESTIONS + 1 / (n * QUESTIONS),
        1 / (n * QUESTIONS),
    )
    variance = of_run + of_question - of_rest
    df = variance**2 / (of_run**2 / (n - 1) + of_question**2 / (QUESTIONS - 1))
    expected = power(0.8, math.sqrt(variance), df)
    require_share([rejects(crossed([x])) for x in d], expected - 0.05, expected + 0.02)


@pytest.mark.parametrize("alternatives", [0, 3])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_holm_keeps_the_familywise_rate(alternatives: int, alpha: float) -> None:
    # Of five independent tests the true hypotheses; the others are so false that they are always rejected first.
    rng, true = np.random.default_rng(90), 5 - alternatives
    x = rng.normal(0, 1, (4000, 5, 6))
    x[:, true:] += 50
    adjusted = [holm(p, alpha)[0] for p in stats.ttest_1samp(x, 0, axis=2).pvalue]
    require_share([min(p[:true]) < alpha for p in adjusted], 1 - (1 - alpha / true) ** true)
    if alternatives:
        assert all(max(p[true:]) < alpha for p in adjusted)


def test_holm_keeps_the_familywise_rate_where_tests_share_their_runs() -> None:
    x = np.random.default_rng(91).multivariate_normal(np.zeros(5), 0.2 * np.eye(5) + 0.8, (4000, 6))
    adjusted = [holm(p)[0] for p in stats.ttest_1samp(x, 0, axis=1).pvalue]
    require_share([min(p) < 0.05 for p in adjusted], 0.01, 0.05)


def pooled(values: Values) -> Interval:
    """Every answer as if it were a run."""
    return t_interval(np.ravel(values))


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        (pooled, "runs"),
        (pooled, "questions"),
        (lambda d: t_interval(d.mean(axis=1)), "questions"),
        (lambda d: t_interval(d.mean(axis=0)), "runs"),
    ],
)
def test_the_check_finds_intervals_that_leave_a_source_out(
    wrong: Callable[[np.ndarray], Interval], setting: str
) -> None:
    with pytest.raises(AssertionError, match=r"expected 0\.94"):
        require_share([covers(wrong(d), EFFECT) for d in differences(92, 5, setting)], 0.94, 0.99)
