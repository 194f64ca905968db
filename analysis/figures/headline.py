"""The one picture of a report: mean response length of each loss, smooth, with its band and its name at its end."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.curves import arm_styles, equal_arms
from analysis.figures.layout import BOTTOM, LEFT, TOP
from analysis.figures.style import FONT, OWN, WIDTH, draw_band, figure_of, name_ends, prepare, save
from analysis.runs.load import require_metric
from analysis.statistics.arms import MIN_T_RUNS, arm_tables, named, pointwise

METRIC, SMOOTH = "response_length", 5
HEIGHT, DPI = 2.6, 240  # inches of the axes; the one picture of the README is sharp at 1400 pixels


def headline(frame: pd.DataFrame, ax: Axes | None = None, smooth: int = SMOOTH) -> Axes:
    """Mean over runs of the response length by step, a line per arm, and its pointwise 95 % Student-t interval.

    frame: rows of ``Runs.metrics``. ``smooth``: each run's centred moving mean over that many steps, before anything is
    averaged. No line of a single run, no legend, no caption: whoever shows it says n and what the band is
    (``said_of``). Raises ``AnalysisError`` where no length was recorded.
    """
    require_metric(frame, METRIC)
    tables = arm_tables(frame, METRIC, smooth)
    ax = ax or _axes(max(map(len, tables)))
    prepare(ax, "Do responses get longer? Mean response length (tokens)", "training step")
    equal = equal_arms(tables)
    second = {name for group in equal for name in group[1:]}
    styles = arm_styles(tables, equal)
    ends = []
    for name, (_, table) in tables.items():
        if not table.size:
            continue
        summary, style = pointwise(table), styles[name]
        draw_band(ax, summary, style["color"])
        look = {"linewidth": 2.2, **({"marker": "o"} if len(summary) == 1 else {}), **style}
        ax.plot(summary.index, summary["mean"], gid="mean", zorder=3, **look)
        label = f"{'= ' if name in second else ''}{named(name)}"
        ends.append((label, float(summary.index[-1]), float(summary["mean"].iloc[-1]), style["color"]))
    ax.margins(x=0)
    ax.set_ylim(bottom=0)
    name_ends(ax, ends)
    return ax


def _axes(letters: int) -> Axes:
    """Axes of a figure of their own, with room at the right for names of so many letters."""
    right, high = min(0.75 * FONT / 72 * (letters + 2), WIDTH / 3), TOP + HEIGHT + BOTTOM
    figure = Figure(figsize=(WIDTH, high), gid=OWN)
    return figure.add_axes((LEFT / WIDTH, BOTTOM / high, 1 - (LEFT + right) / WIDTH, HEIGHT / high))


def save_headline(ax: Axes, path: Path) -> Path:
    """Write the figure of ``ax`` as the PNG file ``path``; the path."""
    return save(figure_of(ax), path.with_suffix(""), ("png",), DPI)[0]


def said_of(counts: dict[str, int], smooth: int = SMOOTH) -> str:
    """What the picture shows, in a sentence. counts: finished runs of each arm."""
    if set(counts.values()) == {1}:
        return f"Line: one run of each loss, smoothed over {smooth} steps."
    if len(set(counts.values())) == 1:
        n = f"{next(iter(counts.values()))} runs of each loss"
    else:
        n = " and ".join(f"{count} run{'s' * (count > 1)} of {arm}" for arm, count in counts.items())
    band = "; band: 95 % interval of the mean over runs" if max(counts.values()) >= MIN_T_RUNS else ""
    return f"Line: mean of {n}, each smoothed over {smooth} steps{band}."
