"""Which runs are compared: matched arms of one experiment, paired by seed, and what became of every seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.intervals import Interval, t_interval, welch
from analysis.statistics.matched import DATA_KEYS, require_matched
from analysis.statistics.robust import without_spread
from analysis.statistics.windows import MissingError, Run, Window, windows

Quantity = Callable[[Sequence[Run], str], list[float]]


@dataclass(frozen=True)
class Sample:
    """A quantity's values over the seeds that every arm has.

    values: seed -> the value of each arm's run. failed: seed -> runs that failed or diverged, a result that caps the
    verdict (a value is there too if the window was complete). lost: seed -> why runs that were started have no value;
    they cap the verdict too, since what is lost may be lost because of its value. left_out: seed -> why there is
    nothing to compare, and never was. n_runs: all runs of each arm. steps: of the validations that were
    compared, () for any other quantity. same_start: pairs with a value whose first
    responses were identical, None if that is not recorded. missing: why nothing could be compared, or "". remark: what
    else is to be said of the values. mixed: that runs of one arm collapsed and others did not (``robust.mixed_arms``),
    which caps the verdict. at_level: an interval other than t over the effects. other: the same of other runs, which
    are independent of these; then the effect is the difference of the two means.
    """

    arms: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    n_runs: dict[str, int] = field(default_factory=dict)
    window: Window | None = None
    steps: tuple[int, ...] = ()
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    lost: dict[int, str] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    same_start: int | None = None
    missing: str = ""
    remark: str = ""
    mixed: str = ""
    at_level: Callable[[float], Interval] | None = None
    other: "Sample | None" = None

    @property
    def effects(self) -> list[float]:
        """One effect a seed: the first arm's value minus the second's; of a single arm its value."""
        return [value[0] if len(value) == 1 else value[0] - value[1] for value in self.values.values()]

    def interval(self, level: float) -> Interval:
        """The interval of the mean effect that decides: over runs, unless ``at_level`` says otherwise."""
        if self.other:
            here, there = self.effects, self.other.effects
            return without_spread(welch(here, there, level), max(len(here), len(there)))
        if self.at_level:
            return self.at_level(level)
        if not self.paired and self.values:
            return without_spread(_welch_of(self.values, level), len(self.values))
        return without_spread(t_interval(self.effects, level))

    @property
    def paired(self) -> bool:
        """Whether the two runs of a seed began alike, so that the seed is a pair: not known to be untrue."""
        return len(self.arms) != 2 or self.same_start is None or self.same_start >= len(self.values)

    @property
    def results(self) -> int:
        """Seeds that say something: those with a value and those that failed; the fewer of two experiments."""
        own = len({*self.values, *self.failed})
        return min(own, self.other.results) if self.other else own

    @property
    def capped(self) -> bool:
        """Whether a run failed or diverged, is lost, or collapsed as others of its arm did not."""
        return bool(self.failed or self.lost or self.mixed or (self.other and self.other.capped))

    @property
    def correlation(self) -> float:
        """Pearson's r of the two arms' values over seeds; NaN for fewer than 3 pairs or without any spread."""
        table = np.array(list(self.values.values()))
        if table.ndim != 2 or table.shape[0] < 3 or table.shape[1] != 2 or np.isclose(np.ptp(table, axis=0), 0).any():
            return float("nan")
        return float(np.corrcoef(table.T)[0, 1])


def _welch_of(values: Mapping[int, tuple[float, ...]], level: float) -> Interval:
    first, second = np.array(list(values.values())).T
    return welch(first, second, level)


def experiment_runs(runs: Runs, rules: Mapping[str, Any]) -> list[Run]:
    """Runs of one experiment as the quantities see them, with the windows of its entry of ``rules``."""
    metrics = {str(name): rows.set_index("step") for name, rows in runs.metrics.groupby("run")}
    return [
        Run(
            name=row["run"],
            arm=row["arm"],
            seed=row["seed"],
            state=row["state"],
            cause=row["cause"],
            last_step=row["last_step"],
            planned=row["planned_steps"],
            windows=windows(rules, row["planned_steps"]),
            metrics=metrics.get(row["run"], runs.metrics.iloc[:0].set_index("step")),
            source=runs,
        )
        for row in runs.runs.to_dict("records")
    ]


def collect(members: Sequence[Run], arms: Sequence[str], quantity: Quantity, window: str, caps: bool = True) -> Sample:
    """The quantity's values in ``arms``, paired by seed; ``members``: all runs of one experiment (``experiment_runs``).

    An arm ``a|b`` is the first of the two that has runs. ``caps``: whether a run that failed is noted in ``failed``.
    Two arms without a common seed are compared unpaired, the second in ``other``. Raises ``AnalysisError`` if the
    compared runs are not matched or planned different numbers of steps, so that their windows differ.
    """
    there = {run.arm for run in members}
    arms = tuple(next((arm for arm in names.split("|") if arm in there), names) for names in arms)
    absent = [arm for arm in arms if arm not in there]
    if absent:
        return Sample(arms=arms, missing=f"no run of {' and '.join(absent)}".replace("|", " or "))
    members = sorted((run for run in members if run.arm in arms), key=lambda run: (arms.index(run.arm), run.seed))
    require_matched(members[0].source.select(run=[run.name for run in members]))
    _require_equal_plans(members)

    if len(arms) == 2 and not set.intersection(*({run.seed for run in members if run.arm == arm} for arm in arms)):
        return _unpaired(members, arms, quantity, window, caps)
    values: dict[int, tuple[float, ...]] = {}
    failed: dict[int, str] = {}
    lost: dict[int, str] = {}
    left_out: dict[int, str] = {}
    same_start = 0
    for seed in sorted({run.seed for run in members}):
        group = [run for run in members if run.seed == seed]
        unfinished = [run.unfinished for run in group if run.unfinished]
        if len(group) < len(arms):
            left_out[seed] = f"only {group[0].arm}"
            continue
        if unfinished:
            # One that is still being trained is not lost: it will have its value.
            waiting = all(run.state in ("planned", "running") for run in group if run.unfinished)
            (left_out if waiting else lost)[seed] = ", ".join(unfinished)
            continue
        if caps and (bad := failures(group)):
            failed[seed] = bad
        try:
            values[seed] = tuple(quantity(group, window))
            if not np.isfinite(values[seed]).all():
                del values[seed]
                raise MissingError("its value is no finite number")
        except MissingError as error:
            (left_out if seed in failed else lost)[seed] = str(error)
        else:
            same_start += len({run.manifest.get("step1_responses") for run in group}) == 1
    recorded = len(arms) > 1 and all("step1_responses" in run.manifest for run in members)
    return Sample(
        arms=arms,
        runs=tuple(run.name for run in members),
        n_runs={arm: sum(run.arm == arm for run in members) for arm in arms},
        window=members[0].windows[window],
        values=values,
        failed=failed,
        lost=lost,
        left_out=left_out,
        same_start=same_start if recorded else None,
    )


def _unpaired(members: Sequence[Run], arms: Sequence[str], quantity: Quantity, window: str, caps: bool) -> Sample:
    """Each arm's own values; a quantity that needs both runs of a seed (``quantities.each`` marks others) has none."""
    seeds = " and ".join(f"{arm} {_spans([run.seed for run in members if run.arm == arm])}" for arm in arms)
    apart = f"the arms have no seed in common ({seeds})"
    if not getattr(quantity, "of_one_run", False):
        return Sample(tuple(arms), missing=f"{apart}, and this compares the two runs of one seed")
    here, there = (collect([run for run in members if run.arm == arm], [arm], quantity, window, caps) for arm in arms)
    apart = f"unpaired (Welch): {apart}"
    runs, n_runs = (*here.runs, *there.runs), {**here.n_runs, **there.n_runs}
    return replace(here, arms=tuple(arms), runs=runs, n_runs=n_runs, other=there, remark=apart)


def collect_apart(
    runs: Runs, here: Sequence[Run], there: Sequence[Run], arms: Sequence[str], quantity: Quantity, window: str
) -> Sample:
    """The quantity's values in one arm of two experiments, the second in ``other``; runs: all of both.

    They may differ in their data and must be matched in all else, or ``missing`` says in what they are not.
    """
    sample, other = (collect(members, arms, quantity, window) for members in (here, there))
    if sample.missing or other.missing:
        return replace(sample, missing=sample.missing or other.missing)
    both = [run for run in (*here, *there) if run.name in {*sample.runs, *other.runs}]
    try:
        require_matched(runs.select(run=[run.name for run in both]), DATA_KEYS)
        _require_equal_plans(both)
    except AnalysisError as error:
        return Sample(sample.arms, missing=str(error))
    return replace(sample, other=other)


def failures(group: Sequence[Run]) -> str:
    """Which of the compared runs of one seed failed or diverged, in one phrase; "" if none did."""
    bad = (run for run in group if run.failed)
    return ", ".join(f"{run.arm} failed" if run.state == "failed" else f"{run.arm} diverged" for run in bad)


def _spans(seeds: Sequence[int]) -> str:
    """1, 3-5 for 1, 3, 4, 5."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _require_equal_plans(members: Sequence[Run]) -> None:
    first, *others = members
    for other in others:
        if other.planned != first.planned:
            raise AnalysisError(
                f"not matched: {first.name} planned {first.planned} steps and {other.name} {other.planned}, "
                "so their windows differ"
            )
