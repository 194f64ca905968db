"""What a t interval cannot be trusted with: binary outcomes, no spread at all, an arm of which some runs collapsed."""

import math
from collections.abc import Sequence

from analysis.statistics.intervals import Interval, Values
from analysis.statistics.windows import MissingError, Run, series

COLLAPSE = math.log(0.9)  # of claims C4 and C15: a length at the end below it, over that at the start
COLLAPSED = math.log(0.5)  # of a single run, whose length also moves by chance
FLAT = 1e-12  # effects that differ by less, relatively, are one number


def length_change(run: Run, window: str) -> float:
    """ln of the mean length in the window over that in the window ``start``."""
    now, then = (series(run, "response_length", name).mean() for name in (window, "start"))
    return math.log(now / then) if now > 0 and then > 0 else math.nan


def collapsed(run: Run) -> bool:
    """Whether the run's length at its end is below half of that at its start; False where that is not recorded."""
    try:
        return length_change(run, "end") < COLLAPSED
    except MissingError:
        return False


def mixed_arms(members: Sequence[Run], arms: Sequence[str]) -> str:
    """Arms of which some runs collapsed and others did not, in one phrase: their runs are no sample of one normal
    distribution (a t interval of 5 runs, one in five collapsed, covers 67 % where it says 95 %)."""
    parts = []
    for arm in arms:
        runs = [run for run in members if run.arm == arm]
        gone = [run.seed for run in runs if collapsed(run)]
        if 0 < len(gone) < len(runs):
            parts.append(f"{len(gone)} of {len(runs)} {arm} runs collapsed in length (seed {_listed(gone)})")
    return ", ".join(parts)


def signed_rank_p(effects: Values) -> float:
    """Two-sided p of Wilcoxon's signed-rank test, exact (``scipy.stats.wilcoxon``); at 5 runs at least .0625."""
    from scipy import stats  # takes long to import, and few need it

    effects = [effect for effect in effects if effect != 0]
    return float(stats.wilcoxon(effects, method="exact").pvalue) if effects else 1.0


def without_spread(found: Interval, others: int = 0) -> Interval:
    """An interval as it is, but one of equal effects that are not 0: no interval, and the p of the exact sign test.

    others: of independent runs, how many the second arm has; then p is the exact permutation test's of two arms without
    any overlap. Student's t and Welch's would call such effects certain whatever their number.
    """
    if found.n < 2 or not math.isfinite(found.sd) or found.sd > FLAT * abs(found.estimate) or not found.estimate:
        return found
    p = 2 / math.comb(found.n + others, found.n) if others else 2.0 ** (1 - found.n)
    return Interval(found.estimate, math.nan, math.nan, found.n, found.df, found.sd, p, found.level)


def discordant(effects: Values, level: float = 0.95) -> Interval:
    """The mean of paired differences of what happened or not (1, 0 or -1), exact given how many pairs differ.

    p: the sign test (McNemar's, exact: ``scipy.stats.binomtest``). The interval: Clopper and Pearson's of the share of
    +1 among the pairs that differ, on the scale of the mean. Without such a pair there is no interval and p is 1.
    """
    plus, minus = sum(effect > 0 for effect in effects), sum(effect < 0 for effect in effects)
    n, differ = len(effects), plus + minus
    estimate = (plus - minus) / n if n else math.nan
    if not differ:
        return Interval(estimate, math.nan, math.nan, n, math.nan, math.nan, 1.0 if n else math.nan, level)
    from scipy import stats  # takes long to import, and few need it

    test = stats.binomtest(plus, differ)
    share = test.proportion_ci(level, method="exact")
    low, high = (float(differ / n * (2 * bound - 1)) for bound in (share.low, share.high))
    return Interval(estimate, low, high, n, math.nan, math.nan, float(test.pvalue), level)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
