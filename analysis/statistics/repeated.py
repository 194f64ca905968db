"""Which intervals belong to runs of a sweep that trained seeds until it was decided: repeated ones, not Student's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from analysis.runs.load import Runs
from analysis.statistics.intervals import Interval
from analysis.statistics.pairs import Sample
from analysis.statistics.sequential import Plan
from harness.rundir.decisions import find_decisions


def plans_of(runs: Runs) -> list[Plan]:
    """The plans by which seeds of these runs of one experiment were added, from the files beside them."""
    if "path" not in runs.runs:  # made in memory
        return []
    experiments, arms = set(runs.runs["experiment"]), set(runs.runs["arm"])
    roots = {path.parents[2] for path in map(Path, runs.runs["path"]) if len(path.parents) > 2}
    plans = []
    for decision in (found for root in sorted(roots) for found in find_decisions(root)):
        try:
            if decision["rule"]["experiment"] in experiments and decision["looks"]:
                plans.append(Plan.read(decision["rule"]))
        except (KeyError, TypeError, ValueError):  # written by another version, or by hand
            continue
    return [plan for plan in plans if any(arms.issuperset(pair) for pair in plan.pairs)]


def repeated_interval(plans: Sequence[Plan], level: float) -> Callable[[Sample], Interval] | None:
    """The interval of a sample by the plan that has its pair of arms; None without any plan.

    A pair that no plan has, or a single arm, shares its runs with one that was looked at, so it gets the interval of
    the largest family. Two arms without a common seed are no pairs of runs; they keep Welch's interval at ``level``.
    """
    if not plans:
        return None
    widest = max(plans, key=lambda plan: plan.hypotheses)

    def interval(sample: Sample) -> Interval:
        if sample.other:
            return sample.interval(level)
        of_pair = (plan for plan in plans if set(sample.arms) in map(set, plan.pairs))
        return next(of_pair, widest).interval(sample.effects)

    return interval


def can_be_repeated(sample: Sample) -> bool:
    """Whether the effects are one a seed and paired, so that an interval can allow for the looks at them."""
    return bool(sample.values) and not sample.other and not sample.at_level and sample.paired


def both(one: Interval, other: Interval) -> Interval:
    """``one``, as wide as it must be to hold ``other`` too; without bounds where one of them has none."""
    low, high = (f(getattr(i, end) for i in (one, other)) for f, end in ((min, "low"), (max, "high")))
    if any(math.isnan(interval.low) for interval in (one, other)):
        low = high = math.nan
    return replace(one, low=low, high=high)
