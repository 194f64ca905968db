"""Intervals against scipy, hand computation and simulation; every branch of the verdict."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from analysis.statistics.intervals import (
    Interval,
    Rule,
    detectable,
    holm,
    log_ratio,
    student,
    t_interval,
    verdict,
    welch,
)

A, B = [0.52, 0.41, 0.66, 0.49, 0.60], [0.02, 0.11, 0.05, -0.04, 0.20]


def interval(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate, low, high, n=5, df=4, sd=1, p=0.5, level=0.95)


def test_t_interval_by_hand() -> None:
    # Mean 3, sd sqrt(7), two degrees of freedom, 97.5 % point 4.302653.
    found = t_interval([1, 2, 6])
    half = 4.302653 * math.sqrt(7 / 3)
    assert (found.estimate, found.n, found.df) == (3, 3, 2)
    assert (found.low, found.high, found.sd) == pytest.approx((3 - half, 3 + half, math.sqrt(7)), rel=1e-6)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_as_scipy(level: float) -> None:
    for found, test in (
        (t_interval(np.subtract(A, B), level), stats.ttest_rel(A, B)),
        (t_interval(A, level), stats.ttest_1samp(A, 0)),
    ):
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(level)))
        assert found.p == pytest.approx(test.pvalue)
    test = stats.ttest_ind(A, B[:3], equal_var=False)
    found = welch(A, B[:3], level)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(level)))
    assert (found.p, found.df, found.n) == pytest.approx((test.pvalue, test.df, 3))


def test_coverage_and_false_positives_of_the_paired_interval() -> None:
    rng, runs, n = np.random.default_rng(0), 40_000, 5
    seed = rng.normal(0, 2, (runs, n))  # what a pair shares
    difference = (seed + rng.normal(0.3, 1, (runs, n))) - (seed + rng.normal(0, 1, (runs, n)))
    found = [t_interval(row) for row in difference[:500]]  # the function itself ...
    half = stats.t.ppf(0.975, n - 1) / math.sqrt(n) * difference.std(axis=1, ddof=1)
    assert [f.high - f.estimate for f in found] == pytest.approx(half[:500])  # ... and its formula, on all
    assert abs((np.abs(difference.mean(axis=1) - 0.3) < half).mean() - 0.95) < 0.005
    assert abs((np.abs(difference.mean(axis=1) - 0.3) > half).mean() - 0.05) < 0.005


@pytest.mark.parametrize("df", [0.4, 1, 2.7, 190.5])
def test_student_with_a_fraction_of_degrees_of_freedom_as_scipy(df: float) -> None:
    found = student(-1.5, 9, 0.6, n=3, df=df, level=0.9)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.9, df, -1.5, 0.6))
    assert found.p == pytest.approx(2 * stats.t.sf(2.5, df))
    assert math.isnan(student(-1.5, 9, 0.6, n=3, df=0).low)


def test_few_or_equal_values() -> None:
    none, one, same = t_interval([]), t_interval([0.3]), t_interval([0.3] * 4)
    assert none.n == 0
    assert math.isnan(none.estimate)
    assert one.estimate == 0.3
    assert math.isnan(one.low)
    assert (same.low, same.high, same.p) == (pytest.approx(0.3), pytest.approx(0.3), 0)
    assert t_interval([0.0, 0.0]).p == 1
    assert math.isnan(welch([1.0], [1.0, 2.0]).low)
    assert welch([1.0, 1.0], [1.0, 1.0]).low == 0


def test_log_ratio_and_detectable_difference() -> None:
    assert log_ratio(3, 2) == pytest.approx(math.log(1.5))
    assert log_ratio(2, 3) == pytest.approx(-math.log(1.5))
    assert math.isnan(log_ratio(0, 2))
    # 80 % power of the t test, as statsmodels has it
    for n in (3, 5, 10):
        power = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
        assert detectable(2, n) == pytest.approx(2 * power, rel=1e-3)
    assert detectable(1, 2, 0.999) > detectable(1, 3, 0.999) > 0
    assert math.isnan(detectable(1, 1))


def test_holm_by_hand() -> None:
    adjusted, own = holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert own == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])  # the third fails and keeps its divisor
    assert holm([math.nan, 0.02]) == (pytest.approx([1, 0.04]), pytest.approx([0.05, 0.025]))
    assert holm([]) == ([], [])


def test_holm_as_statsmodels(monkeypatch: pytest.MonkeyPatch) -> None:
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    monkeypatch.setattr("gc.collect", lambda: 0)  # it calls this each time, which takes a second beside torch
    rng = np.random.default_rng(2)
    for m in (1, 2, 5, 9):
        for p in rng.uniform(0, 1, (20, m)) ** 4:
            reject, adjusted, *_ = multipletests(p, 0.05, method="holm")
            found, _ = holm(p)
            assert found == pytest.approx(list(adjusted))
            assert [q < 0.05 for q in found] == list(reject)


def test_holm_rejects_where_the_interval_at_its_level_lies_beyond_0() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        samples = rng.normal(rng.uniform(0, 2, (4, 1)), 1, (4, 5))
        adjusted, own = holm([t_interval(x).p for x in samples])
        for x, p, alpha in zip(samples, adjusted, own, strict=True):
            found = t_interval(x, 1 - alpha)
            assert (p < 0.05) == (found.low > 0 or found.high < 0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (interval(0.3, 0.1, 0.5), "supported"),
        (interval(0.15, 0.05, 0.25), "undecided"),  # beyond 0, but smaller than delta, and not surely so
        (interval(0.10, 0.05, 0.15), "negligible"),  # beyond 0 and surely smaller than delta
        (interval(-0.3, -0.5, -0.1), "contradicted"),
        (interval(-0.1, -0.15, -0.05), "contradicted"),  # before negligible
        (interval(0.0, -0.1, 0.1), "negligible"),
        (interval(0.3, -0.1, 0.7), "undecided"),
        (interval(0.3, math.nan, math.nan), "undecided"),  # equal effects
        (replace(interval(0.3, math.nan, math.nan), n=1), "not tested"),
    ],
)
def test_verdict_of_a_direction(found: Interval, expected: str) -> None:
    assert verdict(found, Rule(">", delta=0.2)) == expected
    mirrored = replace(found, estimate=-found.estimate, low=-found.high, high=-found.low)
    assert verdict(mirrored, Rule("<", delta=0.2)) == expected
    shifted = replace(found, estimate=found.estimate + 1, low=found.low + 1, high=found.high + 1)
    assert verdict(shifted, Rule(">", delta=0.2, than=1)) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.25, 0.5, "supported"), (0.1, 0.3, "undecided"), (0.6, 0.7, "contradicted"), (-1, 0.1, "contradicted")],
)
def test_verdict_of_a_range(low: float, high: float, expected: str) -> None:
    assert verdict(interval((low + high) / 2, low, high), Rule("within", region=(0.24, 0.54))) == expected


def test_too_few_runs_come_before_a_failed_one_and_that_before_the_rest() -> None:
    found = interval(0.3, 0.1, 0.5)
    assert verdict(found, Rule(">"), enough=False, capped=True) == "not tested"
    assert verdict(found, Rule(">"), capped=True) == "undecided"
    assert verdict(t_interval([]), Rule(">"), capped=True) == "undecided"  # all runs failed
