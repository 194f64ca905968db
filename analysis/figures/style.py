"""What all figures share: colours, axes, names at the ends of lines, captions, files. Nothing here needs a display."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import optimize

from analysis.runs.load import AnalysisError

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
SMALL, NAME, TITLE = 8, 9, 10  # points: ticks and captions; the arms' names and the x axis; titles
OUTLINE = withStroke(linewidth=2.5, foreground="white")  # keeps text on top of lines readable
CELL = (3.42, 3.05)  # inches of a panel with its ticks, title, x label and the arms' names
PANEL = (0.12, 0.2, 0.69, 0.69)  # left, bottom, width and height of the axes in its cell
CAPTION = 0.75  # inches below the panels

End = tuple[str, float, float, str]  # an arm's name, where its line ends (x, y) and its colour


def single_axes() -> Axes:
    """Axes of a figure of its own, with room for the arms' names at the right and a caption below.

    The margins are fixed: names are placed for this size, so nothing may change it afterwards.
    """
    return Figure(figsize=(6.4, 4.4)).add_axes((0.1, 0.24, 0.66, 0.67))


def panel_axes(n: int, ax: Axes | None = None, columns: int = 3) -> list[Axes]:
    """``n`` axes, up to ``columns`` a row, in a figure of their own or in the place of ``ax``, which is removed."""
    columns = min(n, columns)
    rows = -(-n // columns)
    if ax is None:
        height = CELL[1] * rows + CAPTION
        figure = Figure(figsize=(CELL[0] * columns, height))
        x0, y0, width, high = 0.0, CAPTION / height, 1 / columns, CELL[1] / height
    else:
        figure, box = figure_of(ax), ax.get_position()
        x0, y0, width, high = box.x0, box.y0, box.width / columns, box.height / rows
        ax.remove()
    left, bottom, w, h = PANEL
    return [
        figure.add_axes(
            (x0 + (at % columns + left) * width, y0 + (rows - 1 - at // columns + bottom) * high, w * width, h * high)
        )
        for at in range(n)
    ]


def prepare(ax: Axes, title: str, x_label: str = "step") -> None:
    """Spines, grid, ticks, x label and the title, which names what the y axis shows."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.tick_params(labelsize=SMALL, color="0.6")
    ax.set_xlabel(x_label, fontsize=NAME)
    ax.set_title(title, loc="left", fontsize=TITLE)


def leave_empty(ax: Axes, title: str, text: str = "not recorded") -> None:
    """A panel that has nothing to show, and says so."""
    prepare(ax, title, "")
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color="0.4")
    ax.set(xticks=[], yticks=[])


def line_styles(algos: Sequence[str]) -> Iterator[dict[str, Any]]:
    """For each arm ``color`` and ``linestyle``: colour by algorithm, another line style for its further arms.

    Of more unknown algorithms than there are colours, those that share a colour differ in their line style. No two of
    up to four arms of one colour are alike.
    """
    others = {algo: divmod(at, len(OTHER_COLOURS)) for at, algo in enumerate(sorted(set(algos) - set(COLOURS)))}
    first = {algo: (COLOURS[algo], 0) for algo in set(algos) & set(COLOURS)}
    first |= {algo: (OTHER_COLOURS[colour], again % len(LINE_STYLES)) for algo, (again, colour) in others.items()}
    taken = set(first.values())
    for at, algo in enumerate(algos):
        colour, line = first[algo]
        if algo in algos[:at]:
            line = next((free for free in range(len(LINE_STYLES)) if (colour, free) not in taken), line)
            taken.add((colour, line))
        yield {"color": colour, "linestyle": LINE_STYLES[line]}


def draw_band(ax: Axes, summary: pd.DataFrame, colour: str) -> None:
    """Shade between ``low`` and ``high`` of ``summary`` (index x; ``curves.pointwise``); none where they are NaN."""
    ax.fill_between(summary.index, summary["low"], summary["high"], color=colour, alpha=0.16, linewidth=0, zorder=1)


def name_lines(ax: Axes, ends: Sequence[End], beside: bool = False) -> None:
    """Name each arm level with its line's end but moved apart where two names would overlap.

    Names stand right of the axes, or ``beside`` their ends for lines that end anywhere. To be called when the axes'
    limits are final; of a line that ends outside them, the name is level with the edge.
    """
    if not ends:
        return
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    ends = [(name, np.clip(x, left, right), np.clip(y, bottom, top), colour) for name, x, y, colour in ends]
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = sorted(ends, key=lambda end: end[2])
    names = [_folded(name) for name, *_ in ends]
    wanted = np.array([to_axes.transform((x, y))[1] for _, x, y, _ in ends])
    heights = np.array([1.3 * NAME * (1 + name.count("\n")) for name in names]) / (72 * _inches(ax)[1])
    # Least squares under "at least one height above the one below" is isotonic regression of what exceeds the stack.
    stack = np.cumsum(np.append(0, (heights[1:] + heights[:-1]) / 2))
    base = np.clip(optimize.isotonic_regression(wanted - stack).x, 0, max(0, 1 - stack[-1]))
    for name, (_, x, y, colour), at in zip(names, ends, base + stack, strict=True):
        # Dotted, so that nobody takes it for the curve going on.
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "linestyle": (0, (1, 3))}
        leader |= {"relpos": (0, 0.5), "shrinkB": 1}
        style = {"va": "center", "fontsize": NAME, "color": colour, "path_effects": [OUTLINE], "zorder": 6}
        where = {"xytext": (1.03, at), "textcoords": ax.transAxes}
        if beside:
            away = 0.03 * (right - left)
            where = {"xytext": (x + away, at), "textcoords": ax.get_xaxis_transform()}
        ax.annotate(name, (x, y), xycoords="data", arrowprops=leader, annotation_clip=False, **where, **style)


def write_caption(ax: Axes, sentences: Sequence[str]) -> None:
    """Write ``sentences`` below a single axes, as wide as the axes with the arms' names."""
    style = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": SMALL, "color": "0.3"}
    ax.annotate(_wrapped(sentences, 1.3 * _inches(ax)[0]), (0, 0), xytext=(0, -34), va="top", **style)


def write_common_caption(axes: Sequence[Axes], sentences: Sequence[str]) -> None:
    """Write ``sentences``, each once, below the lowest of the panels ``axes``, as wide as all of them."""
    figure = figure_of(axes[0])
    boxes = [ax.get_position() for ax in axes]
    left, bottom = min(box.x0 for box in boxes), min(box.y0 for box in boxes)
    width, height = figure.get_size_inches()
    text = _wrapped(list(dict.fromkeys(sentences)), (max(box.x1 for box in boxes) - left) * width + 0.5)
    figure.text(left, bottom - 0.5 / height, text, fontsize=SMALL, color="0.3", va="top")


def log_axis(ax: Axes, values: np.ndarray) -> float | None:
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


def save(drawn: Figure | Axes, path: Path) -> list[Path]:
    """Write a figure as PNG and PDF (``path`` without suffix), cut to its content, without a date; both paths."""
    figure = figure_of(drawn) if isinstance(drawn, Axes) else drawn
    png, pdf = (path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf"))
    fit: dict[str, Any] = {"bbox_inches": figure.get_tightbbox().padded(0.08)}  # once for both, "tight" draws for each
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(png, dpi=200, **fit)
        with mpl.rc_context({"pdf.fonttype": 42}):  # text stays text
            figure.savefig(pdf, metadata={"CreationDate": None}, **fit)
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be written ({error.strerror})") from None
    return [png, pdf]


def figure_of(ax: Axes) -> Figure:
    """The figure that ``ax`` is in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _folded(name: str) -> str:
    """A long name on several lines, after its commas and its experiment."""
    return name.replace(",", ",\n").replace(": ", ":\n") if len(name) > 12 else name


def _wrapped(sentences: Sequence[str], inches: float) -> str:
    return textwrap.fill(" ".join(sentences), int(72 * inches / (0.5 * SMALL)))


def _inches(ax: Axes) -> np.ndarray:
    """Width and height of the axes."""
    return np.asarray(ax.get_window_extent().size) / figure_of(ax).dpi
