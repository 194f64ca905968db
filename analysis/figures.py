"""Learning curves: functions of tidy metrics (``Runs.metrics``) and an ``Axes``. Nothing here needs a display."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import optimize, stats

from analysis.load import AnalysisError, require_metric

# Okabe and Ito's palette: distinct under the common colour blindnesses, and by lightness in print.
COLOURS = {
    "grpo": "#0072B2",
    "grpo_sum": "#56B4E9",
    "gspo": "#E69F00",
    "luspo": "#009E73",
    "luspo_norm": "#CC79A7",
}
OTHER_COLOURS = ("#D55E00", "#000000", "#999999", "#B5A800")
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))  # arms of one algorithm share its colour
MIN_T_RUNS = 3  # below it a t interval says more about t than about the runs
SMALL, NAME = 8, 9  # points: ticks and captions; the arms' names
OUTLINE = withStroke(linewidth=2.5, foreground="white")  # keeps text on top of lines readable


@dataclass(frozen=True)
class Curve:
    """One learning curve: the column of ``metrics``, what it is called in a figure, whether its axis is logarithmic."""

    metric: str
    label: str
    log: bool = False


CURVES = {
    "response_length": Curve("response_length", "response length (tokens)"),
    "clip_fraction": Curve("clip_frac_token", "clipped tokens (fraction)", log=True),
    "reward": Curve("reward", "training reward"),
    "accuracy": Curve("accuracy", "training accuracy"),
}


def pointwise(table: pd.DataFrame, band: str = "t") -> pd.DataFrame:
    """Mean and interval over runs at each step.

    table: steps x runs, NaN where a run has no value. Returns one row per step: mean, low, high, n (runs with a value).
    ``band="t"``: the 95 % Student-t interval of the mean where 3 or more runs have a value, and NaN elsewhere, so an
    interval cannot shrink because a run was lost; a table of two runs has their minimum and maximum instead.
    ``"minmax"``: minimum and maximum of 2 or more runs. ``"none"``: NaN.
    """
    if band not in ("t", "minmax", "none"):
        raise AnalysisError(f"unknown band {band!r}; there are t, minmax, none")
    n, mean = table.notna().sum(axis=1), table.mean(axis=1)
    low = high = pd.Series(np.nan, index=table.index)
    if band == "t" and table.shape[1] >= MIN_T_RUNS:
        half = table.std(axis=1, ddof=1).where(n >= MIN_T_RUNS) / np.sqrt(n) * stats.t.ppf(0.975, n - 1)
        low, high = mean - half, mean + half
    elif band != "none":
        low, high = table.min(axis=1).where(n >= 2), table.max(axis=1).where(n >= 2)
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": n})


def arm_tables(frame: pd.DataFrame, metric: str, smooth: int = 1) -> dict[str, tuple[str, pd.DataFrame]]:
    """``{arm's label: (algo, table)}``; each table is steps x runs, without runs and steps that have no value.

    Arms are told apart by experiment too, which is part of the label if there are several. ``smooth``: each run's
    centred moving mean over that many of its recorded points (fewer at the ends), before anything is averaged.
    """
    if smooth < 1:
        raise AnalysisError(f"smooth must be at least 1 point, not {smooth}")
    several = frame["experiment"].nunique() > 1
    rank = {algo: at for at, algo in enumerate(COLOURS)}
    arms = frame[["experiment", "algo", "arm"]].drop_duplicates().itertuples(index=False)
    tables = {}
    for arm in sorted(arms, key=lambda a: (rank.get(str(a.algo), len(rank)), *a)):
        rows = frame[(frame["experiment"] == arm.experiment) & (frame["arm"] == arm.arm)]
        table = rows.pivot(index="step", columns="run", values=metric)
        table = table.dropna(axis=0, how="all").dropna(axis=1, how="all")
        if smooth > 1:
            smoothed = {run: table[run].dropna().rolling(smooth, center=True, min_periods=1).mean() for run in table}
            table = pd.DataFrame(smoothed, index=table.index)
        label = f"{arm.experiment}: {arm.arm}" if several else arm.arm
        tables[label] = (arm.algo, table)
    return tables


def curve(
    frame: pd.DataFrame,
    metric: str,
    ax: Axes | None = None,
    smooth: int = 1,
    log: bool = False,
    band: str = "t",
    label: str | None = None,
) -> Axes:
    """Draw ``metric`` against the step: per arm a thin line per run, their mean, and its interval (``pointwise``).

    frame: rows of ``Runs.metrics``. ``smooth``: see ``arm_tables``. ``log``: logarithmic axis; if some values are 0 it
    has a linear piece below, so that they are on it. ``band``: t, minmax or none. ``label``: in place of the metric's
    name. Nothing is extrapolated: a line ends where its run does, and the number of runs left stands there. A caption
    below the axis says n and the kind of interval. Raises ``AnalysisError`` for an unknown metric or one without value.
    """
    if ax is None:
        # Fixed margins: the names at the right are placed for this size, so nothing may change it afterwards.
        ax = Figure(figsize=(6.4, 4.4)).add_axes((0.1, 0.24, 0.66, 0.67))
    notes = _draw(ax, frame, Curve(metric, label or metric, log), smooth, band)
    characters = int(1.3 * 72 * _inches(ax)[0] / (0.5 * SMALL))
    style = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": SMALL, "color": "0.3"}
    ax.annotate(textwrap.fill(" ".join(notes), characters), (0, 0), xytext=(0, -34), va="top", **style)
    return ax


def draw(name: str, frame: pd.DataFrame, ax: Axes | None = None, smooth: int = 1, band: str = "t") -> Axes:
    """``curve`` of the entry ``name`` of ``CURVES``."""
    entry = CURVES[name]
    return curve(frame, entry.metric, ax, smooth, entry.log, band, entry.label)


length_curve = partial(draw, "response_length")
clip_curve = partial(draw, "clip_fraction")
reward_curve = partial(draw, "reward")
accuracy_curve = partial(draw, "accuracy")


def three_panels(frame: pd.DataFrame, smooth: int = 1) -> Figure:
    """Response length, clip fraction and accuracy side by side under one caption; a panel without values says so."""
    figure = Figure(figsize=(10.5, 3.6))
    notes: list[str] = []
    for at, name in enumerate(("response_length", "clip_fraction", "accuracy")):
        ax = figure.add_axes((0.04 + at * 0.325, 0.25, 0.225, 0.65))
        try:
            notes += [note for note in _draw(ax, frame, CURVES[name], smooth, "t") if note not in notes]
        except AnalysisError:
            ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="0.4")
            ax.set(xticks=[], yticks=[])
    figure.text(0.04, 0.1, textwrap.fill(" ".join(notes), 200), fontsize=SMALL, color="0.3", va="top")
    return figure


def save(drawn: Figure | Axes, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF (``path`` without suffix), without a date; returns both paths."""
    figure = _figure(drawn) if isinstance(drawn, Axes) else drawn
    png, pdf = (path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(png, dpi=200)
        with mpl.rc_context({"pdf.fonttype": 42}):  # text stays text
            figure.savefig(pdf, metadata={"CreationDate": None})
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be written ({error.strerror})") from None
    return [png, pdf]


def _draw(ax: Axes, frame: pd.DataFrame, entry: Curve, smooth: int, band: str) -> list[str]:
    """Draw into ``ax``; returns the sentences of its caption."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.tick_params(labelsize=SMALL, color="0.6")
    ax.set_xlabel("step", fontsize=9)
    ax.set_title(entry.label, loc="left", fontsize=10)
    require_metric(frame, entry.metric)
    tables = arm_tables(frame, entry.metric, smooth)
    drawn = {name: table for name, (_, table) in tables.items() if table.size}
    ends = []
    for (name, table), style in zip(drawn.items(), _styles([tables[name][0] for name in drawn]), strict=True):
        ends.append((name, *_draw_arm(ax, table, pointwise(table, band), style)))
    ax.margins(x=0)
    ax.autoscale_view()
    values = np.concatenate([table.stack().dropna() for table in drawn.values()])
    linear_below = _log_axis(ax, values) if entry.log else None
    _name_lines(ax, ends)
    return _caption({name: table.shape[1] for name, (_, table) in tables.items()}, smooth, band, linear_below)


def _draw_arm(ax: Axes, table: pd.DataFrame, summary: pd.DataFrame, style: dict[str, Any]) -> tuple[int, float, str]:
    """Draw one arm's lines and band; returns where its mean ends (step, value) and its colour."""
    colour = style["color"]
    for run in table if table.shape[1] > 1 else ():
        values = table[run].dropna()
        ax.plot(values.index, values, linewidth=0.7, alpha=0.35, color=colour, gid=run, zorder=2)
    ax.fill_between(summary.index, summary["low"], summary["high"], color=colour, alpha=0.16, linewidth=0, zorder=1)
    marker = "o" if len(summary) == 1 else ""  # a line of one point is invisible
    ax.plot(summary.index, summary["mean"], linewidth=2, gid="mean", zorder=3, marker=marker, **style)

    ends = pd.Series({run: table[run].last_valid_index() for run in table})
    for step in sorted(ends[ends < table.index[-1]].unique()):
        at = (step, summary["mean"][step])
        ax.plot(*at, "o", color=colour, markersize=5, markeredgecolor="white", zorder=4)
        left = {"fontsize": SMALL, "fontweight": "bold", "color": colour, "zorder": 5, "path_effects": [OUTLINE]}
        ax.annotate(f"n={(ends > step).sum()}", at, xytext=(2, 6), textcoords="offset points", **left)
    return summary.index[-1], summary["mean"].iloc[-1], colour


def _styles(algos: list[str]) -> Iterator[dict[str, Any]]:
    """Colour by algorithm; a further arm of the same algorithm gets another line style."""
    others = dict(zip(sorted(set(algos) - set(COLOURS)), cycle(OTHER_COLOURS), strict=False))
    for at, algo in enumerate(algos):
        line = LINE_STYLES[algos[:at].count(algo) % len(LINE_STYLES)]
        yield {"color": COLOURS.get(algo) or others[algo], "linestyle": line}


def _log_axis(ax: Axes, values: np.ndarray) -> float | None:
    """Make the y axis logarithmic; where ``values`` has zeros, linear below the returned value, so that 0 is on it.

    The axis ends at the values: a t interval that reaches below 0 is cut there. Zeros only: the axis stays linear.
    """
    positive = values[values > 0]
    if not positive.size:
        return None
    top = ax.get_ylim()[1] * 1.3
    if positive.size == values.size:
        ax.set_yscale("log")
        ax.set_ylim(positive.min() / 1.3, top)
        return None
    # The decade of the small values, not of one outlier among them.
    linear_below = float(10 ** np.floor(np.log10(np.quantile(positive, 0.02))))
    ax.set_yscale("symlog", linthresh=linear_below, linscale=0.4)
    ax.set_ylim(min(0, values.min()), top)
    return linear_below


def _inches(ax: Axes) -> np.ndarray:
    """Width and height of the axes."""
    return np.asarray(ax.get_window_extent().size) / _figure(ax).dpi


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _name_lines(ax: Axes, ends: list[tuple[str, int, float, str]]) -> None:
    """Name each arm right of the axes, level with its line's end but moved apart where two names would overlap.

    ends: one (name, step, value, colour) per arm.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = sorted(ends, key=lambda end: end[2])
    names = [name.replace(",", ",\n") if len(name) > 12 else name for name, *_ in ends]
    wanted = np.array([to_axes.transform((step, value))[1] for _, step, value, _ in ends])
    heights = np.array([1.3 * NAME * (1 + name.count("\n")) for name in names]) / (72 * _inches(ax)[1])
    # Least squares under "at least one height above the one below" is isotonic regression of what exceeds the stack.
    stack = np.cumsum(np.append(0, (heights[1:] + heights[:-1]) / 2))
    base = np.clip(optimize.isotonic_regression(wanted - stack).x, 0, max(0, 1 - stack[-1]))
    for name, (_, step, value, colour), y in zip(names, ends, base + stack, strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkB": 1}
        style = {"xycoords": "data", "textcoords": ax.transAxes, "va": "center", "fontsize": NAME, "color": colour}
        ax.annotate(name, (step, value), xytext=(1.03, y), arrowprops=leader, **style)


def _caption(runs: dict[str, int], smooth: int, band: str, linear_below: float | None) -> list[str]:
    """Sentences that say what is drawn. runs: number of runs per arm, 0 where the metric is not recorded."""
    counts = sorted({n for n in runs.values() if n}, reverse=True)
    names = {n: ", ".join(name for name, count in runs.items() if count == n) for n in counts}
    n = f"{counts[0]} per arm" if len(counts) == 1 else "; ".join(f"{n} of {names[n]}" for n in counts)
    notes = [f"Runs: n = {n}."]
    if counts[0] > 1:
        notes.append("Bold: mean, thin: runs.")
    if band == "t" and counts[0] >= MIN_T_RUNS:
        notes.append("Band: pointwise 95 % Student-t interval of the mean.")
    if (band == "t" and 2 in counts) or (band == "minmax" and counts[0] > 1):
        notes.append("Band: minimum to maximum." if band == "minmax" else "Band of two runs: minimum to maximum.")
    if 1 in counts:
        notes.append("A single run has no interval.")
    if smooth > 1:
        notes.append(f"Each run smoothed by a centred moving mean of {smooth} points.")
    if linear_below is not None:
        notes.append(f"Linear below {linear_below:g}, so that 0 is shown.")
    if 0 in runs.values():
        notes.append(f"Not recorded: {', '.join(name for name, n in runs.items() if not n)}.")
    return notes
