"""An arm's runs as one table, x by runs: smoothing, the x axis, the interval over runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.runs.load import AnalysisError
from analysis.statistics.movement import MOVEMENT

ORDER = ("grpo", "grpo_sum", "gspo", "luspo", "luspo_norm")  # in which algorithms are shown, before all others
KNOWN = ("grpo", "gspo", "luspo", "gmpo", "sapo", "cispo", "fspo", "vespo", "dro", "gpg")  # so written in their papers
MIN_T_RUNS = 3  # below it a t interval says more about t than about the runs
Tables = Mapping[str, tuple[str, pd.DataFrame]]  # arm's label -> (algo, table)


def named(arm: str) -> str:
    """An arm as a reader knows it: LUSPO; what is no name of a paper stays as it was typed."""
    return arm.upper() if arm in KNOWN else arm


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
    values = table.to_numpy(float)
    there = ~np.isnan(values)
    n = there.sum(axis=1)
    low = high = np.full(len(n), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where there is no run
        mean = _mean(values, there, n)
        if band in ("t", "share") and table.shape[1] >= MIN_T_RUNS:
            scaled = values if band == "t" else np.arcsin(np.sqrt(np.clip(values, 0, 1)))
            centre = _mean(scaled, there, n)
            sd = np.sqrt(np.where(there, (centre[:, None] - scaled) ** 2, 0.0).sum(axis=1) / (n - 1))
            half = np.where(n >= MIN_T_RUNS, sd / np.sqrt(n) * special.stdtrit(n - 1.0, 0.975), np.nan)
            low, high = centre - half, centre + half
            if band == "share":
                low, high = (np.sin(np.clip(end, 0, np.pi / 2)) ** 2 for end in (low, high))
        elif band != "none":
            low = np.where(n >= 2, np.where(there, values, np.inf).min(axis=1, initial=np.inf), np.nan)
            high = np.where(n >= 2, np.where(there, values, -np.inf).max(axis=1, initial=-np.inf), np.nan)
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": n}, index=table.index)


def _mean(values: np.ndarray, there: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Of each row, over the ``n`` values that are there."""
    return np.where(there, values, 0.0).sum(axis=1) / n


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
    wanted = ["experiment", "algo", "arm", "run", "step", metric]
    wanted += [] if x == "step" else [x_axis(x).column(frame)]
    rows = frame[list(dict.fromkeys(wanted))]  # of hundreds of metrics
    of_arm = _places(rows, ["algo", "experiment", "arm"])
    several = len({experiment for _, experiment, _ in of_arm}) > 1
    tables = {}
    for algo, experiment, arm in sorted(of_arm, key=lambda a: (rank(str(a[0])), a[1], a[0], a[2])):
        part = rows.take(of_arm[algo, experiment, arm])
        table = smoothed(_by_step(part, metric), smooth)
        label = f"{experiment}: {arm}" if several else arm
        tables[label] = (algo, table if x == "step" else _on_shared_grid(table, part, x))
    return tables


def _places(rows: pd.DataFrame, by: str | list[str]) -> dict[Any, np.ndarray]:
    """The places of the rows of each group."""
    return {key: np.asarray(places) for key, places in rows.groupby(by, sort=False).indices.items()}


def _by_step(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Steps by runs, without runs and steps that have no value: what ``DataFrame.pivot`` gives, in less time."""
    runs, column = np.unique(rows["run"].to_numpy(object), return_inverse=True)
    steps, row = np.unique(rows["step"].to_numpy(), return_inverse=True)
    values = np.full((len(steps), len(runs)), np.nan)
    values[row, column] = rows[metric].to_numpy(float)
    there = ~np.isnan(values)
    kept, of = there.any(axis=1), there.any(axis=0)
    return pd.DataFrame(
        values[np.ix_(kept, of)], pd.Index(steps[kept], name="step"), pd.Index(runs[of], dtype="str", name="run")
    )


def smoothed(table: pd.DataFrame, points: int) -> pd.DataFrame:
    """``table``, steps by runs, each run its centred moving mean over so many of its points, fewer at its ends."""
    if points == 1:
        return table
    if not table.isna().to_numpy().any():
        return table.rolling(points, center=True, min_periods=1).mean().rename_axis(columns=None)
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
    steps, values = rows["step"].to_numpy(), rows[axis.column(rows)].to_numpy(float)
    order = np.argsort(steps, kind="stable")
    values = values[order]
    known = ~np.isnan(values)
    if known.any():  # rows before the first are validation only
        values = np.where(np.arange(len(values)) < known.argmax(), 0.0, values)
    places = np.cumsum(np.abs(values)) if axis.summed else values
    return pd.Series(places / axis.unit, pd.Index(steps[order], name="step"))


def x_axis(x: str) -> XAxis:
    """The entry ``x`` of ``X_AXES``; raises ``AnalysisError`` for another name."""
    if x not in X_AXES:
        raise AnalysisError(f"unknown x axis {x!r}; there are step, {', '.join(X_AXES)}")
    return X_AXES[x]


def _on_shared_grid(table: pd.DataFrame, rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """``on_shared_grid`` of one arm's ``table``; ``rows``: the arm's metrics."""
    of_run = _places(rows, "run")
    at = pd.DataFrame({run: positions(rows.take(of_run[run]), x) for run in table})
    return on_shared_grid(table, at, x)


def on_shared_grid(table: pd.DataFrame, at: pd.DataFrame, x: str) -> pd.DataFrame:
    """``table``, steps by runs of one arm, interpolated onto the axis ``x``; ``at``: ``positions``, steps by runs."""
    if not (at.index.equals(table.index) and at.columns.equals(table.columns)):
        at = at.reindex(index=table.index, columns=table.columns)
    places, values = at.to_numpy(float), table.to_numpy(float)
    points = {}
    for column, run in enumerate(table.columns):
        known = np.column_stack([places[:, column], values[:, column]])
        known = known[~np.isnan(known).any(axis=1)]
        if len(known) == 1 or (len(known) and known[-1, 0] > known[0, 0]):  # else it never moved
            points[run] = known
    if not points:
        return pd.DataFrame()
    low, high = max(known[0, 0] for known in points.values()), min(known[-1, 0] for known in points.values())
    n = 0 if low > high else 1 if low == high else max(map(len, points.values()))
    grid = pd.Index(np.linspace(low, high, n), name=x)
    found = np.column_stack([np.interp(grid, *known.T) for known in points.values()])
    return pd.DataFrame(found, index=grid, columns=list(points))
