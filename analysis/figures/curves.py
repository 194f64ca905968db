"""Curves over training: functions of tidy metrics (``Runs.metrics``) and an ``Axes``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from analysis.figures.captions import caption
from analysis.figures.layout import name_arms, panel_axes, single_axes, write_caption, write_common_caption
from analysis.figures.style import (
    FONT,
    OUTLINE,
    apart,
    draw_band,
    equal_groups,
    figure_of,
    leave_empty,
    line_styles,
    log_axis,
    prepare,
)
from analysis.runs.load import AnalysisError, require_metric
from analysis.statistics.arms import Tables, arm_tables, pointwise, x_axis

FEW = 12  # points of a line that are marked


@dataclass(frozen=True)
class Curve:
    """One learning curve: the column of ``metrics``, what it is called in a figure, whether its axis is logarithmic.

    share: it lies between 0 and 1, and so does its band (``pointwise``). window: steps of the moving mean that it needs
    to be read at all, at most a third of those there are.
    """

    metric: str
    label: str
    log: bool = False
    share: bool = False
    window: int = 1

    def smoothed(self, smooth: int, steps: int) -> int:
        """Points of the moving mean: ``smooth``, more if the curve needs more; odd, as it is centred."""
        needed = min(self.window, steps // 3)
        return max(smooth, needed - (needed + 1) % 2) if self.window > 1 else smooth


@dataclass(frozen=True)
class Limits:
    """Axis limits that are given, not found: x from and to; y ticks, of which the outer ones are the limits."""

    x: tuple[float, float]
    y_ticks: tuple[float, ...] = ()

    def apply(self, ax: Axes) -> None:
        """Set them, with a tenth of the ticks' range beyond, so that a line on a tick is whole."""
        ax.set_xlim(self.x)
        if self.y_ticks:
            low, high = min(self.y_ticks), max(self.y_ticks)
            ax.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
            ax.set_yticks(self.y_ticks)

    def cut(self, ax: Axes, tables: Tables) -> list[str]:
        """Names of the arms of which some values are outside ``ax``."""
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        cut = []
        for name, (_, table) in tables.items():
            values = table[(table.index >= left) & (table.index <= right)].to_numpy()
            inside = (values >= bottom) & (values <= top)
            if inside.sum() < table.notna().to_numpy().sum():
                cut.append(name)
        return cut


CLIP_WINDOW = 5  # a step clips few responses or none: its fraction alone jumps between 0 and the next possible value

CURVES = {
    "response_length": Curve("response_length", "response length (tokens)"),
    "clip_fraction": Curve("clip_frac_token", "clipped tokens (fraction)", True, True, CLIP_WINDOW),
    "reward": Curve("reward", "training reward"),
    "accuracy": Curve("accuracy", "training accuracy (fraction)", share=True),
    "val_accuracy": Curve("val_accuracy", "validation accuracy (fraction)", share=True),
    "val_response_length": Curve("val_response_length", "validation response length (tokens)"),
    "entropy": Curve("entropy", "entropy (nats per token)"),
}


def curve(
    frame: pd.DataFrame,
    metric: str,
    ax: Axes | None = None,
    smooth: int = 1,
    log: bool = False,
    band: str = "t",
    label: str | None = None,
    x: str = "step",
    share: bool = False,
    window: int = 1,
) -> Axes:
    """Draw ``metric`` over training: per arm a thin line per run, their mean, and its interval (``pointwise``).

    frame: rows of ``Runs.metrics``. ``smooth``, ``x``: see ``arm_tables``. ``log``: logarithmic axis; if some values
    are 0 it has a linear piece below, so that they are on it. ``band``: t, minmax or none. ``label``: in place of the
    metric's name. ``share``, ``window``: see ``Curve``. Nothing is extrapolated: a line ends where its run does, and
    the number of runs left stands there. A caption below the axis says n and the kind of interval. Raises
    ``AnalysisError`` for an unknown metric or one without value.
    """
    ax = ax or single_axes()
    write_caption(ax, draw_curves({ax: Curve(metric, label or metric, log, share, window)}, frame, smooth, band, x))
    return ax


def draw(
    name: str, frame: pd.DataFrame, ax: Axes | None = None, smooth: int = 1, band: str = "t", x: str = "step"
) -> Axes:
    """``curve`` of the entry ``name`` of ``CURVES``."""
    entry = CURVES[name]
    return curve(frame, entry.metric, ax, smooth, entry.log, band, entry.label, x, entry.share, entry.window)


length_curve = partial(draw, "response_length")
clip_curve = partial(draw, "clip_fraction")
reward_curve = partial(draw, "reward")
accuracy_curve = partial(draw, "accuracy")


def panels(
    frame: pd.DataFrame,
    curves: Sequence[Curve],
    ax: Axes | None = None,
    smooth: int = 1,
    x: str = "step",
    share: bool = True,
    notes: Sequence[str] = (),
) -> Figure:
    """Several curves side by side under one caption, in the place of ``ax`` if it is given; ``share``: one y axis.

    notes: further sentences of the caption. A panel without values says so. Raises ``AnalysisError`` if none has any.
    """
    axes = dict(zip(panel_axes(len(curves), ax), curves, strict=True))
    drawn = {ax: entry for ax, entry in axes.items() if entry.metric in frame and frame[entry.metric].notna().any()}
    if not drawn:
        require_metric(frame, curves[0].metric)
    for ax in axes.keys() - drawn.keys():
        leave_empty(ax, axes[ax].label)
    write_common_caption(list(axes), [*draw_curves(drawn, frame, smooth, x=x, share=share), *notes])
    return figure_of(next(iter(axes)))


def three_panels(frame: pd.DataFrame, smooth: int = 1) -> Figure:
    """Response length, clip fraction and accuracy side by side under one caption; a panel without values says so."""
    curves = [CURVES[name] for name in ("response_length", "clip_fraction", "accuracy")]
    return panels(frame, curves, smooth=smooth, share=False)


def draw_curves(
    curves: Mapping[Axes, Curve],
    frame: pd.DataFrame,
    smooth: int = 1,
    band: str = "t",
    x: str = "step",
    share: bool = False,
    limits: Limits | None = None,
    named: bool = True,
) -> list[str]:
    """Draw a curve into each of the axes, ``share``: on one y axis; returns the sentences of their caption.

    ``named``: with the arms' names above them.
    """
    if x != "step":
        require_metric(frame, x_axis(x).column(frame))
    tables: dict[Axes, Tables] = {}
    windows: dict[Axes, int] = {}
    for ax, entry in curves.items():
        require_metric(frame, entry.metric)
        prepare_over(ax, entry.label, x)
        windows[ax] = entry.smoothed(smooth, int(frame.loc[frame[entry.metric].notna(), "step"].nunique()))
        tables[ax] = arm_tables(frame, entry.metric, windows[ax], x)
        if not any(table.size for _, table in tables[ax].values()):
            raise AnalysisError(f"{entry.metric} over {x}: no arm has runs with both and a range in common")
    bands = {ax: "share" if entry.share and band == "t" else band for ax, entry in curves.items()}
    together = [list(curves)] if share else [[ax] for ax in curves]
    linear = {
        draw_tables({ax: tables[ax] for ax in axes}, bands[axes[0]], curves[axes[0]].log, limits) for axes in together
    }
    of_panels = {curves[ax].label: arms for ax, arms in tables.items()}
    notes = caption(of_panels, set(bands.values()), {curves[ax].label: windows[ax] for ax in curves}, x)
    notes += name_tables(list(curves), of_panels) if named else equal_notes(of_panels)
    outside = dict.fromkeys(name for ax in curves for name in (limits.cut(ax, tables[ax]) if limits else ()))
    if outside:
        notes.append(f"Some values lie outside these axes: {', '.join(outside)}.")
    return notes + [f"Linear below {below:g}, so that 0 is shown." for below in linear if below is not None]


def name_tables(axes: Sequence[Axes], tables: Mapping[str, Tables]) -> list[str]:
    """``name_arms`` of the arms that are drawn in any of the panels ``axes``, and ``equal_notes`` of the caption.

    tables: of each panel, by its title.
    """
    looks: dict[str, dict[str, Any]] = {}
    groups = [equal_arms(of_panel) for of_panel in tables.values()]
    everywhere = groups[0] if all(found == groups[0] for found in groups) else []
    for of_panel in tables.values():
        drawn = {name for name, (_, table) in of_panel.items() if table.size}
        looks |= {name: style for name, style in arm_styles(of_panel, everywhere).items() if name in drawn}
    order = [name for name in next(iter(tables.values())) if name in looks]
    name_arms(axes, {name: looks[name] for name in order}, everywhere)
    return equal_notes(tables)


def equal_notes(tables: Mapping[str, Tables]) -> list[str]:
    """A caption's sentence for each group of arms whose curves are equal, with its panel where others differ."""
    groups = {panel: equal_arms(of_panel) for panel, of_panel in tables.items()}
    where = {panel: f", {panel}" for panel in groups} if len({str(of) for of in groups.values()}) > 1 else {}
    return list(dict.fromkeys(
        f"Equal{where.get(panel, '')}: {', '.join(group)}; wide and pale under thin and dashed."
        for panel, of in groups.items() for group in of
    ))  # fmt: skip


def equal_arms(tables: Tables) -> list[list[str]]:
    """``equal_groups`` of the arms' means."""
    return equal_groups({name: table.mean(axis=1) for name, (_, table) in tables.items() if table.size})


def arm_styles(tables: Tables, equal: Sequence[Sequence[str]]) -> dict[str, dict[str, Any]]:
    """By arm how its mean is drawn: alike in all panels, drawn or not; ``equal`` ones on one another (``apart``)."""
    styles = line_styles([algo for algo, _ in tables.values()])
    return apart(dict(zip(tables, styles, strict=True)), equal)


def prepare_over(ax: Axes, title: str, x: str) -> None:
    """``prepare`` for a curve over ``x``: step or an entry of ``X_AXES``."""
    prepare(ax, title, x if x == "step" else x_axis(x).label)
    if x == "tokens":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def draw_tables(
    tables: Mapping[Axes, Tables], band: str = "t", log: bool = False, limits: Limits | None = None
) -> float | None:
    """Draw the arms of each axes (runs, mean, band of ``pointwise``) on one y axis, within ``limits`` if given.

    ``log``: logarithmic; returns the value below which it is linear so that 0 is on it, or None.
    """
    for ax, arms in tables.items():
        drawn = {name: table for name, (_, table) in arms.items() if table.size}
        styles = arm_styles(arms, equal_arms(arms))
        for name, table in drawn.items():
            draw_arm(ax, table, pointwise(table, band), styles[name])
        few = all(len(table) <= FEW for table in drawn.values())
        ax.margins(x=0.03 if few else 0)  # room for the marks
        places = {place for table in drawn.values() for place in table.index}
        if len(places) == 1:  # no other place means anything
            ax.set_xticks(list(places))
        ax.autoscale_view()
    found = np.array([ax.get_ylim() for ax in tables])
    values = np.concatenate([table.stack().dropna() for arms in tables.values() for _, table in arms.values()])
    linear_below = None
    for ax in tables:
        ax.set_ylim(found[:, 0].min(), found[:, 1].max())
        linear_below = log_axis(ax, values) if log else None
        if limits:
            limits.apply(ax)
    return linear_below


def draw_arm(ax: Axes, table: pd.DataFrame, summary: pd.DataFrame, style: dict[str, Any]) -> None:
    """Draw one arm: a thin line per run of ``table``, mean and band of ``summary`` (``pointwise``).

    ``style``: of ``arm_styles``.
    """
    colour = style["color"]
    for run in table if table.shape[1] > 1 else ():
        values = table[run].dropna()
        ax.plot(values.index, values, linewidth=0.7, alpha=0.35, color=colour, gid=str(run), zorder=2)
    draw_band(ax, summary, colour)
    # Few measurements are marked, points of an interpolated grid are not; a line of one point would be invisible.
    marked = len(summary) == 1 or (len(summary) <= FEW and table.index.name == "step")
    look = {"linewidth": 2, "markersize": 4, **({"marker": "o"} if marked else {}), **style}
    ax.plot(summary.index, summary["mean"], gid="mean", zorder=3, **look)
    mark_dropouts(ax, table, summary["mean"], colour)


def mark_dropouts(ax: Axes, table: pd.DataFrame, mean: pd.Series, colour: str) -> None:
    """Write the number of runs left where a run of ``table`` ends before the others, onto the line ``mean``.

    Ends that are close together have one number, behind the last of them.
    """
    ends = pd.Series({run: table[run].last_valid_index() for run in table})
    steps = np.sort(ends[ends < table.index[-1]].unique())
    close = np.append(np.diff(steps) < 0.06 * (table.index[-1] - table.index[0]), False)
    for step, next_is_close in zip(steps, close, strict=False):
        at = (step, mean[step])
        ax.plot(*at, "o", color=colour, markersize=5, markeredgecolor="white", zorder=4)
        if next_is_close:
            continue
        left = {"fontsize": FONT, "fontweight": "bold", "color": colour, "zorder": 5, "path_effects": [OUTLINE]}
        ax.annotate(f"n={(ends > step).sum()}", at, xytext=(2, 6), textcoords="offset points", **left)
