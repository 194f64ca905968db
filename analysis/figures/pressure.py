"""Figures of length pressure: functions of the frames of ``analysis.statistics.length_pressure`` and an ``Axes``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.curves import Curve, draw_curves
from analysis.figures.layout import legend_above, panel_axes, single_axes, write_caption, write_common_caption
from analysis.figures.style import LINE_STYLES, figure_of, line_styles, prepare
from analysis.runs.load import KEYS, AnalysisError
from analysis.statistics.arms import MIN_T_RUNS, rank
from analysis.statistics.length_pressure import STAGES, TERMS, arm_intervals

UNITS = {"value": "tokens per sqrt(2 KL)", "in_sd": "sd of length"}  # of the columns of ``run_means``
CURVES = {"total": f"length pressure ({UNITS['value']})", "bias": f"loss bias ({UNITS['value']})"}
TICKS = {
    "reference": "reward\n(c = A)",
    "1/L": "x 1/L",
    "clipping": "x kept",
    "s": "x ratio",
    "total": "loss\n(the sum)",
    "bias": "loss bias",
}
HATCHES = dict(zip(LINE_STYLES, ("", "///", "...", "xxx"), strict=True))  # arms that share a colour
STEP = "Of one natural-gradient step; this is not the answer of Adam or of the plain gradient."
BIAS = "Loss bias: pressure of the loss minus that of c = A, which is what the reward itself asks for."


def pressure_curves(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    terms: Sequence[str] = ("total", "bias"),
    smooth: int = 1,
    notes: Sequence[str] = (),
) -> Figure:
    """``terms`` by step, a panel each on one y axis: per arm the runs, their mean and its t band (``curves.curve``).

    frame: ``pressure_frame``, of one loss per run; a step is the mean over its updates. ``smooth``: each run's moving
    mean over that many steps. ``notes``: more sentences for the caption. In the place of ``ax`` if it is given.
    Raises ``AnalysisError`` for several losses.
    """
    losses = frame.groupby("run")["loss"].nunique()
    if losses.max() > 1:
        raise AnalysisError(f"{losses.idxmax()}: {losses.max()} losses; curves are of one loss per run, select it")
    steps = frame.pivot_table(index=[*KEYS, "step"], columns="term", values="value").reset_index()
    axes = panel_axes(len(terms), ax)
    curves = {panel: Curve(term, CURVES.get(term, term)) for panel, term in zip(axes, terms, strict=True)}
    drawn = draw_curves(curves, steps, smooth, share=True)
    for panel in axes:
        _mark_zero(panel)
    write_common_caption(axes, [*drawn, *([BIAS] if "bias" in terms else []), STEP, *notes])
    return figure_of(axes[0])


def decomposition_bars(
    means: pd.DataFrame, ax: Axes | None = None, value: str = "value", notes: Sequence[str] = ()
) -> Axes:
    """What each factor of c adds to the pressure: a group of bars per term, in it a bar per arm and loss.

    means: ``run_means``. value: its column, an entry of ``UNITS``. Whiskers: t intervals over runs, where there are 3
    or more; dots: the runs. ``notes``: more sentences for the caption.
    """
    ax = ax or single_axes()
    prepare(ax, f"length pressure ({UNITS[value]})", "")
    intervals = arm_intervals(means, value)
    bars = _by_algorithm(intervals[["experiment", "arm", "algo", "loss"]].drop_duplicates())
    width = 0.8 / len(bars)
    algos = bars["algo"].tolist()
    for at, (bar, style) in enumerate(zip(bars.to_dict("records"), line_styles(algos), strict=True)):
        rows = _where(intervals, bar).set_index("term").loc[list(TERMS)]
        x = np.arange(len(TERMS)) + (at - (len(bars) - 1) / 2) * width
        label = f"{_bar_name(bar, bars)} (n = {rows['n'].max()})"
        look = {"color": style["color"], "hatch": HATCHES[style["linestyle"]], "alpha": 0.7, "edgecolor": "w"}
        ax.bar(x, rows["estimate"], 0.9 * width, label=label, **look)
        if rows["n"].max() >= MIN_T_RUNS:
            whiskers = np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy())
            ax.errorbar(x, rows["estimate"], whiskers, fmt="none", ecolor="0.2", elinewidth=1, capsize=2)
        for place, term in zip(x, TERMS, strict=True):
            runs = _where(means, {**bar, "term": term})[value]
            ax.plot(np.full(len(runs), place), runs, "o", color="0.2", markersize=1.8, alpha=0.6, zorder=4)
    _mark_zero(ax)
    ax.axvline(len(STAGES) - 0.5, color="0.75", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(TERMS)), [TICKS[term] for term in TERMS])
    legend_above([ax], *ax.get_legend_handles_labels())
    said = ["From the left: the reward's pressure and what each factor of c adds to it.", BIAS, "Dots: runs."]
    if intervals["n"].max() >= MIN_T_RUNS:
        said.append("Whiskers: 95 % Student-t intervals of the mean over runs.")
    if means["loss"].isin(["grpo", "grpo_sum"]).any():
        said.append("Approximate for losses that clip tokens.")
    write_caption(ax, [*said, STEP, *notes])
    return ax


def _mark_zero(ax: Axes) -> None:
    ax.axhline(0, color="0.4", linewidth=0.8, zorder=1.5)


def _where(frame: pd.DataFrame, values: dict[Any, Any]) -> pd.DataFrame:
    """The rows that have ``values``, of columns."""
    return frame[(frame[list(values)] == pd.Series(values)).all(axis=1)]


def _by_algorithm(arms: pd.DataFrame) -> pd.DataFrame:
    """``arms`` in the order in which algorithms are shown."""
    return arms.sort_values("algo", key=lambda algos: algos.map(rank), kind="stable")


def _bar_name(bar: dict[Any, Any], bars: pd.DataFrame) -> str:
    """The arm, with its experiment and the loss where the arm alone does not say which."""
    name = bar["arm"] if bars["experiment"].nunique() == 1 else f"{bar['experiment']}: {bar['arm']}"
    return name if (bars[["experiment", "arm"]].value_counts() == 1).all() else f"{name}, loss {bar['loss']}"
