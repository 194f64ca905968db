"""An arm's runs as one table, x by runs: smoothing, the x axis, the interval over runs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.runs.load import AnalysisError
from analysis.statistics.movement import MOVEMENT

ORDER = ("grpo", "grpo_sum", "gspo", "luspo", "luspo_norm")  # in which algorithms are shown, before all others
MIN_T_RUNS = 3  # below it a t interval says more about t than about the runs
Tables = Mapping[str, tuple[str, pd.DataFrame]]  # arm's label -> (algo, table)


@dataclass(frozen=True)
class XAxis:
    """What curves are drawn against: a metric, or the sum over steps of its absolute values.

    unit: of the metric's values, in units of the axis. note: a sentence for the caption, or "". instead: the metric
    where that one has no value.
    """

    metric: str
    label: str
    summed: bool = True
    unit: float = 1.0
    note: str = ""
    instead: str = ""

    def column(self, metrics: pd.DataFrame) -> str:
        """The one of the two metrics that ``metrics`` has."""
        there = self.metric in metrics and metrics[self.metric].notna().any()
        return self.metric if there or not self.instead else self.instead


X_AXES = {
    "tokens": XAxis("cumulative_tokens", "response tokens generated so far", summed=False),
    "hours": XAxis("step_seconds", "hours of training steps", unit=3600.0),
    # Both estimate KL(pi_old || pi_theta) without bias, ppo_kl with either sign.
    "kl": XAxis(
        MOVEMENT,
        "KL to the behaviour policy, summed (nats/token)",
        note="KL of a step: mean of r - 1 - ln r over its responses, r = new/old probability; without recorded "
        "responses |mean of ln r|, with noise of either sign, so that the sum overstates small movements.",
        instead="ppo_kl",
    ),
}


def pointwise(table: pd.DataFrame, band: str = "t") -> pd.DataFrame:
    """Mean and interval over runs at each step.

    table: steps (or other x) by runs, NaN where a run has no value. Returns one row per step: mean, low, high, n (runs
    with a value). ``band="t"``: the 95 % Student-t interval of the mean where 3 or more runs have a value, and NaN
    elsewhere, so an interval cannot shrink because a run was lost; a table of two runs has their minimum and maximum
    instead. ``"share"``: the same of arcsin(sqrt), transformed back, for values between 0 and 1, within which it stays;
    the mean is still that of the runs. ``"minmax"``: minimum and maximum of 2 or more runs. ``"none"``: NaN.
    """
    if band not in ("t", "share", "minmax", "none"):
        raise AnalysisError(f"unknown band {band!r}; there are t, share, minmax, none")
    n, mean = table.notna().sum(axis=1), table.mean(axis=1)
    low = high = pd.Series(np.nan, index=table.index)
    if band in ("t", "share") and table.shape[1] >= MIN_T_RUNS:
        values = table if band == "t" else np.arcsin(np.sqrt(table.clip(0, 1)))
        centre = values.mean(axis=1)
        half = values.std(axis=1, ddof=1).where(n >= MIN_T_RUNS) / np.sqrt(n) * stats.t.ppf(0.975, n - 1)
        low, high = centre - half, centre + half
        if band == "share":
            low, high = (np.sin(end.clip(0, np.pi / 2)) ** 2 for end in (low, high))
    elif band != "none":
        low, high = table.min(axis=1).where(n >= 2), table.max(axis=1).where(n >= 2)
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": n})


def arm_tables(
    frame: pd.DataFrame, metric: str, smooth: int = 1, x: str = "step"
) -> dict[str, tuple[str, pd.DataFrame]]:
    """``{arm's label: (algo, table)}``; each table is x by runs, without runs and steps that have no value.

    Arms are told apart by experiment too, which is part of the label if there are several. ``smooth``: each run's
    centred moving mean over that many of its recorded points (fewer at the ends), before anything is averaged. ``x``:
    step, or an entry of ``X_AXES``: then each run is interpolated linearly onto equal distances inside the range that
    all runs of its arm have; a table without rows means that they have none in common.
    """
    require_view(smooth, x)
    several = frame["experiment"].nunique() > 1
    arms = frame[["experiment", "algo", "arm"]].drop_duplicates().itertuples(index=False)
    tables = {}
    for arm in sorted(arms, key=lambda a: (rank(str(a.algo)), *a)):
        rows = frame[(frame["experiment"] == arm.experiment) & (frame["arm"] == arm.arm)]
        table = rows.pivot(index="step", columns="run", values=metric)
        table = table.dropna(axis=0, how="all").dropna(axis=1, how="all")
        table = smoothed(table, smooth)
        label = f"{arm.experiment}: {arm.arm}" if several else arm.arm
        tables[label] = (arm.algo, table if x == "step" else _on_shared_grid(table, rows, x))
    return tables


def smoothed(table: pd.DataFrame, points: int) -> pd.DataFrame:
    """``table``, steps by runs, each run its centred moving mean over so many of its points, fewer at its ends."""
    if points == 1:
        return table
    means = {run: table[run].dropna().rolling(points, center=True, min_periods=1).mean() for run in table}
    return pd.DataFrame(means, index=table.index)


def rank(algo: str) -> int:
    """The place of an algorithm in ``ORDER``, the last for all that are not in it."""
    return ORDER.index(algo) if algo in ORDER else len(ORDER)


def require_view(smooth: int, x: str, paper_axes: bool = False) -> None:
    """Raise ``AnalysisError`` for what cannot be drawn: no point to smooth over, an unknown ``x``, the paper's axes
    over another ``x`` than the paper's."""
    if smooth < 1:
        raise AnalysisError(f"smooth must be at least 1 point, not {smooth}")
    if x != "step":
        x_axis(x)
        if paper_axes:
            raise AnalysisError(f"the paper's axes are of steps, not of {x}: leave out one of the two")


def positions(rows: pd.DataFrame, x: str) -> pd.Series:
    """Where each step of one run lies on the axis ``x`` of ``X_AXES``, by step.

    0 before the first step that was trained; NaN from a step on whose share of a sum was not recorded.
    """
    axis = x_axis(x)
    values = rows.set_index("step")[axis.column(rows)].sort_index()
    first = values.first_valid_index()
    if first is not None:  # rows before it are validation only
        values = values.mask(values.index < first, 0.0)
    return (values.abs().cumsum(skipna=False) if axis.summed else values) / axis.unit


def x_axis(x: str) -> XAxis:
    """The entry ``x`` of ``X_AXES``; raises ``AnalysisError`` for another name."""
    if x not in X_AXES:
        raise AnalysisError(f"unknown x axis {x!r}; there are step, {', '.join(X_AXES)}")
    return X_AXES[x]


def _on_shared_grid(table: pd.DataFrame, rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """``on_shared_grid`` of one arm's ``table``; ``rows``: the arm's metrics."""
    at = pd.DataFrame({run: positions(rows[rows["run"] == run], x) for run in table})
    return on_shared_grid(table, at, x)


def on_shared_grid(table: pd.DataFrame, at: pd.DataFrame, x: str) -> pd.DataFrame:
    """``table``, steps by runs of one arm, interpolated onto the axis ``x``; ``at``: ``positions``, steps by runs."""
    places, values = at.reindex(index=table.index, columns=table.columns).to_numpy(float), table.to_numpy(float)
    points = {}
    for column, run in enumerate(table):
        known = np.column_stack([places[:, column], values[:, column]])
        known = known[~np.isnan(known).any(axis=1)]
        if len(known) == 1 or (len(known) and known[-1, 0] > known[0, 0]):  # else it never moved
            points[run] = known
    if not points:
        return pd.DataFrame()
    low, high = max(known[0, 0] for known in points.values()), min(known[-1, 0] for known in points.values())
    n = 0 if low > high else 1 if low == high else max(map(len, points.values()))
    grid = pd.Index(np.linspace(low, high, n), name=x)
    return pd.DataFrame({run: np.interp(grid, *known.T) for run, known in points.items()}, index=grid)
