"""The one picture of a report: mean response length of each loss, smooth, with its band and its name at its end."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import draw_band, figure_of, line_styles, name_lines, prepare
from analysis.runs.load import AnalysisError, require_metric
from analysis.statistics.arms import MIN_T_RUNS, arm_tables, pointwise

METRIC, SMOOTH = "response_length", 5
SIZE, DPI = (5.0, 3.0), 290  # inches and pixels an inch: letters of 9 pixels on a telephone, sharp at 1400 pixels


def headline(frame: pd.DataFrame, ax: Axes | None = None, smooth: int = SMOOTH) -> Axes:
    """Mean over runs of the response length by step, a line per arm, and its pointwise 95 % Student-t interval.

    frame: rows of ``Runs.metrics``. ``smooth``: each run's centred moving mean over that many steps, before anything is
    averaged. No line of a single run, no legend, no caption: whoever shows it says n and what the band is
    (``said_of``). Raises ``AnalysisError`` where no length was recorded.
    """
    require_metric(frame, METRIC)
    ax = ax or Figure(figsize=SIZE).add_axes((0.1, 0.14, 0.74, 0.74))
    prepare(ax, "mean response length (tokens)", "training step")
    tables = arm_tables(frame, METRIC, smooth)
    ends = []
    for (name, (_, table)), style in zip(
        tables.items(), line_styles([algo for algo, _ in tables.values()]), strict=True
    ):
        summary = pointwise(table)
        draw_band(ax, summary, style["color"])
        ax.plot(summary.index, summary["mean"], linewidth=2.2, gid="mean", zorder=3, **style)
        ends.append((name.upper(), float(summary.index[-1]), float(summary["mean"].iloc[-1]), style["color"]))
    ax.margins(x=0)
    ax.set_ylim(bottom=0)
    name_lines(ax, ends)
    return ax


def save_headline(ax: Axes, path: Path) -> Path:
    """Write the figure of ``ax`` as the PNG file ``path``, at the size that a README shows it in; the path."""
    figure = figure_of(ax)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, bbox_inches=figure.get_tightbbox().padded(0.08))
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def said_of(counts: dict[str, int], smooth: int = SMOOTH) -> str:
    """What the picture shows, in a sentence. counts: finished runs of each arm."""
    if len(set(counts.values())) == 1:
        n = f"{next(iter(counts.values()))} runs of each loss"
    else:
        n = " and ".join(f"{count} runs of {arm}" for arm, count in counts.items())
    band = "; band: 95 % interval of the mean over runs" if max(counts.values()) >= MIN_T_RUNS else ""
    return f"Line: mean of {n}, each smoothed over {smooth} steps{band}."
