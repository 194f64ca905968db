"""Intervals over runs, and what they say of a claim. The unit is the run; effects are on the scale that is averaged.

Lengths and shares are compared as logarithms of ratios (``log_ratio``), so a ratio and its inverse are one size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

VERDICTS = ("supported", "contradicted", "negligible", "undecided", "not tested")

POWER = 0.8  # of the effect that is called detectable

Values = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean effect over runs with its confidence interval, in the unit of the effects.

    n: runs or pairs of runs. sd: of one effect; of the difference of two runs for Welch. p: two-sided, of no effect.
    NaN is what n is too small for: all but n for n = 0, all but n and estimate for n = 1.
    """

    estimate: float
    low: float
    high: float
    n: int
    df: float
    sd: float
    p: float
    level: float


@dataclass(frozen=True)
class Rule:
    """What a claim says of an effect: more than ``than`` (``>``), less (``<``), or inside ``region`` (``within``).

    delta: the smallest effect beyond ``than`` that matters, not negative. All in the effect's unit.
    """

    direction: str
    delta: float = 0.0
    than: float = 0.0
    region: tuple[float, float] = (-math.inf, math.inf)


def log_ratio(a: float, b: float) -> float:
    """ln(a / b) of two positive quantities in one unit; NaN where one of them is not positive."""
    return math.log(a / b) if a > 0 and b > 0 else math.nan


def student(estimate: float, sd: float, error: float, n: int, df: float, level: float = 0.95) -> Interval:
    """Estimate plus/minus the t quantile times its standard error; without any spread the interval is a point.

    df may be a fraction; where it is not positive there is no interval. n and sd: what ``Interval`` shall say.
    """
    if not df > 0:
        return Interval(estimate, math.nan, math.nan, n, math.nan, math.nan, math.nan, level)
    # What stats.t calls, without the fifty times longer way there: simulations call this very often.
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    p = float(2 * special.stdtr(df, -abs(estimate) / error)) if error else float(estimate == 0)
    return Interval(estimate, float(estimate - half), float(estimate + half), n, df, sd, p, level)


def t_interval(effects: Values, level: float = 0.95) -> Interval:
    """Student's interval and test of a mean: one effect a run (``scipy.stats.ttest_1samp``)."""
    x = np.asarray(effects, dtype=float)
    estimate, sd = (x.mean() if x.size else math.nan), (x.std(ddof=1) if x.size > 1 else math.nan)
    return student(float(estimate), float(sd), sd / math.sqrt(x.size or 1), x.size, x.size - 1, level)


def welch(a: Values, b: Values, level: float = 0.95) -> Interval:
    """The interval of mean(a) - mean(b) of independent runs, variances unequal (Welch 1947, Biometrika 34:28).

    Degrees of freedom after Satterthwaite (1946, Biometrics Bulletin 2:110). n: the smaller of the two numbers of runs.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    n = min(a.size, b.size)
    estimate = float(a.mean() - b.mean()) if n else math.nan
    if n < 2:
        return student(estimate, math.nan, math.nan, n, 0, level)
    va, vb = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    spread = va**2 / (a.size - 1) + vb**2 / (b.size - 1)
    df = (va + vb) ** 2 / spread if spread else a.size + b.size - 2
    sd = math.sqrt(a.var(ddof=1) + b.var(ddof=1))
    return student(estimate, sd, math.sqrt(va + vb), n, float(df), level)


def t_power(effect: float, sd: float, n: int, level: float = 0.95) -> float:
    """Probability that the t interval of n normal effects with this mean and sd lies beyond 0, on the effect's side.

    That is the power of the two-sided test, but for findings of the wrong sign. From the noncentral t distribution
    (``scipy.stats.nct``). NaN for fewer than 2 effects and where ``sd`` is not positive.
    """
    if n < 2 or not sd > 0:
        return math.nan
    from scipy import stats  # takes long to import, and few need it

    quantile = special.stdtrit(n - 1, (1 + level) / 2)
    return float(stats.nct.sf(quantile, n - 1, abs(effect) / sd * math.sqrt(n)))


def detectable(sd: float, n: int, level: float = 0.95, power: float = POWER) -> float:
    """The smallest true effect that such an experiment of n runs finds with probability ``power``, in the unit of
    ``sd``: 3.26 sd at 3 runs, 1.68 sd at 5. About 1.3 times the interval's half-width, at which power is half.

    ``sd`` is taken as the true one (``t_power``).
    """
    if n < 2 or not sd > 0:
        return 0.0 if n > 1 and sd == 0 else math.nan
    most = 20 * special.stdtrit(n - 1, (1 + level) / 2) / math.sqrt(n)
    return sd * float(optimize.brentq(lambda effect: t_power(effect, 1, n, level) - power, 0, most))


def holm(p: Values, alpha: float = 0.05) -> tuple[list[float], list[float]]:
    """Holm's step-down test of m hypotheses (1979, Scand. J. Statist. 6:65): (adjusted p, own alpha) of each.

    The smallest p is tested at alpha / m, the next at alpha / (m - 1) and so on, until one fails; that one's divisor
    stays for all that follow. So three things are one: Holm rejects, the adjusted p is below alpha, and the interval at
    level 1 - own alpha lies beyond 0. A NaN counts as 1: a test that was planned and not made stays in m.
    """
    p = np.nan_to_num(np.asarray(p, dtype=float), nan=1.0)
    adjusted, own = np.ones(p.size), np.full(p.size, alpha)
    divisor, floor, failed = p.size, 0.0, False
    for left, at in zip(range(p.size, 0, -1), np.argsort(p, kind="stable"), strict=True):
        divisor = divisor if failed else left
        floor = max(floor, min(1.0, left * p[at]))
        adjusted[at], own[at] = floor, alpha / divisor
        failed = failed or p[at] >= own[at]
    return adjusted.tolist(), own.tolist()


def verdict(found: Interval, rule: Rule, enough: bool = True, capped: bool = False) -> str:
    """One of ``VERDICTS``, the first that holds:

    - *not tested*: not ``enough`` runs;
    - *undecided*: ``capped`` (a run failed, diverged or is lost, which counts as a result);
    - *not tested*: no effect; *undecided*: effects of which no interval can be had, since they have no spread;
    - *supported*: interval beyond ``than`` in the direction and estimate at least delta beyond; within: inside region;
    - *contradicted*: interval wholly on the other side; within: wholly outside region;
    - *negligible*: interval inside ``than`` plus/minus delta (never for within);
    - *undecided*.

    ``found`` is at the level that decides: 95 %, for one of several primary claims 1 - its own alpha (``holm``).
    """
    if not enough:
        return "not tested"
    if capped:
        return "undecided"
    if math.isnan(found.low):
        return "undecided" if found.n > 1 and math.isfinite(found.estimate) else "not tested"
    if rule.direction == "within":
        low, high = rule.region
        inside, outside = low <= found.low and found.high <= high, found.high < low or found.low > high
        return "supported" if inside else "contradicted" if outside else "undecided"
    sign = {">": 1, "<": -1}[rule.direction]
    estimate, *bounds = (sign * (value - rule.than) for value in (found.estimate, found.low, found.high))
    low, high = sorted(bounds)
    if low > 0 and estimate >= rule.delta:
        return "supported"
    if high < 0:
        return "contradicted"
    return "negligible" if -rule.delta < low and high < rule.delta else "undecided"
