"""What all figures share: their width and font, colours, axes, names of arms, files. Nothing here needs a display."""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image
from scipy import optimize

from analysis.figures.pdf_fonts import fonts_once
from analysis.runs.load import AnalysisError

WIDTH = 6.0  # inches of every figure, so that letters are of one size wherever figures are shown at one width
FONT = 9  # points of every text in a figure
DPI = 180
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
GREY = "0.3"  # of captions
OUTLINE = withStroke(linewidth=2.5, foreground="white")  # keeps text on top of lines readable
DASHED = (0, (2.5, 2))
OWN = "own"  # marks a figure of ``layout``

End = tuple[str, float, float, str]  # an arm's name, where its line ends (x, y) and its colour


def prepare(ax: Axes, title: str, x_label: str = "step") -> None:
    """Spines, grid, ticks, x label and the title, which names what the y axis shows."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.tick_params(which="both", labelsize=FONT, color="0.6")
    letters = max(12, int((ax.get_position().width * figure_of(ax).get_figwidth() + 0.1) * 72 / (0.53 * FONT)))
    ax.set_xlabel(textwrap.fill(x_label, letters), fontsize=FONT)
    ax.set_title(textwrap.fill(title, letters), loc="left", fontsize=FONT)


def leave_empty(ax: Axes, title: str, text: str = "not recorded") -> None:
    """A panel that has nothing to show, and says so."""
    prepare(ax, title, "")
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color="0.4", fontsize=FONT)
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


def equal_groups(means: Mapping[str, pd.Series]) -> list[list[str]]:
    """Names of arms whose mean curves are equal, up to a 10-millionth of the largest value that any of them has: sums
    are rounded. Each list has two or more."""
    groups: list[list[str]] = []
    near = 1e-7 * max((float(np.nanmax(np.abs(mean), initial=0.0)) for mean in means.values()), default=0.0)
    for name, mean in means.items():
        for group in groups:
            first = means[group[0]]
            if first.index.equals(mean.index) and np.allclose(first, mean, rtol=0, atol=near, equal_nan=True):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def apart(styles: Mapping[str, dict[str, Any]], groups: Sequence[Sequence[str]]) -> dict[str, dict[str, Any]]:
    """``styles`` by arm, in which those of equal arms lie visibly on one another: wide and pale below, thin and dashed
    on top."""
    changed = {name: dict(style) for name, style in styles.items()}
    for group in groups:
        for at, name in enumerate(group):
            above = len(group) - 1 - at
            look = {"linewidth": 2 + 2.5 * above, "alpha": 0.4} if above else {"linewidth": 1.8, "linestyle": DASHED}
            changed[name] |= look | ({"markersize": 4 + 4.0 * above} if above else {"markersize": 3})
    return changed


def draw_band(ax: Axes, summary: pd.DataFrame, colour: str) -> None:
    """Shade between ``low`` and ``high`` of ``summary`` (index x; ``arms.pointwise``); none where they are NaN.

    A lone point has a bar in place of a band, which would have no width.
    """
    if len(summary) == 1:
        ax.vlines(summary.index, summary["low"], summary["high"], color=colour, alpha=0.3, linewidth=5, zorder=1)
        return
    ax.fill_between(summary.index, summary["low"], summary["high"], color=colour, alpha=0.16, linewidth=0, zorder=1)


def name_ends(ax: Axes, ends: Sequence[End]) -> None:
    """Name each arm right of the axes, level with its line's end but moved apart where two names would overlap.

    Only colour joins a name with its line: whatever was drawn between them would be read as data. To be called when the
    axes' limits are final; of a line that ends outside them, the name is level with the edge.
    """
    if not ends:
        return
    bottom, top = ax.get_ylim()
    to_axes = ax.transData + ax.transAxes.inverted()
    ends = sorted(((name, x, np.clip(y, bottom, top), colour) for name, x, y, colour in ends), key=lambda end: end[2])
    names = [_folded(name) for name, *_ in ends]
    wanted = np.array([to_axes.transform((x, y))[1] for _, x, y, _ in ends])
    inches = ax.get_window_extent().height / figure_of(ax).dpi
    heights = np.array([1.3 * FONT * (1 + name.count("\n")) for name in names]) / (72 * inches)
    # Least squares under "at least one height above the one below" is isotonic regression of what exceeds the stack.
    stack = np.cumsum(np.append(0, (heights[1:] + heights[:-1]) / 2))
    base = np.clip(optimize.isotonic_regression(wanted - stack).x, 0, max(0, 1 - stack[-1]))
    for name, (*_, colour), at in zip(names, ends, base + stack, strict=True):
        ax.text(1.015, at, name, transform=ax.transAxes, va="center", fontsize=FONT, color=colour, gid="name")


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


def save(drawn: Figure | Axes, path: Path, kinds: Sequence[str] = ("png", "pdf"), dpi: int = DPI) -> list[Path]:
    """Write a figure as ``path`` with each of ``kinds`` as suffix, without a date; the paths.

    The same figure is the same bytes. A figure of ``layout`` is written as it is, another one cut to its content.
    """
    figure = figure_of(drawn) if isinstance(drawn, Axes) else drawn
    files = [path.with_name(f"{path.name}.{kind}") for kind in kinds]
    # Once for all kinds: "tight" would draw for each.
    fit: dict[str, Any] = {} if own(figure) else {"bbox_inches": figure.get_tightbbox().padded(0.08)}
    if own(figure):
        _settle(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for kind, file in zip(kinds, files, strict=True):
            if kind == "png":
                file.write_bytes(_png(figure, dpi, fit))
                continue
            # Text stays text.
            with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": path.name}), fonts_once():
                figure.savefig(file, metadata={"CreationDate" if kind == "pdf" else "Date": None}, **fit)
    except OSError as error:
        raise AnalysisError(f"{path}: cannot be written ({error.strerror})") from None
    return files


def _settle(figure: Figure) -> None:
    """Say where titles and y labels are, where that is known: to find it out matplotlib lays out all ticks again."""
    for ax in figure.axes:
        formatter = ax.yaxis.get_major_formatter()
        formatter.format_ticks(list(ax.get_yticks()))
        if not formatter.get_offset():  # the factor of an axis would move the title
            ax.set_title(ax.get_title(loc="left"), loc="left", y=1.0, fontsize=FONT)
        if not ax.get_ylabel():
            ax.yaxis.set_label_coords(0, 0.5)


def _png(figure: Figure, dpi: int, fit: Mapping[str, Any]) -> bytes:
    """The figure as PNG with 256 colours: a third of the size of one with all, and the same to the eye."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    if fit:
        figure.savefig(drawn, format="png", dpi=dpi, pil_kwargs={"compress_level": 0}, **fit)
        picture = Image.open(drawn).convert("RGB")
    else:  # the same pixels without the way through a PNG of all colours
        figure.savefig(drawn, format="rgba", dpi=dpi)
        wide, high = (int(inches * dpi) for inches in figure.get_size_inches())
        picture = Image.frombuffer("RGBA", (wide, high), drawn.getvalue()).convert("RGB")
    picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(packed, "PNG")
    return packed.getvalue()


def own(figure: Figure) -> bool:
    """Whether the figure is of ``layout``: of one width, and grown to hold all that was written in it."""
    return figure.get_gid() == OWN


def figure_of(ax: Axes) -> Figure:
    """The figure that ``ax`` is in."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def _folded(name: str) -> str:
    """A long name on several lines, after its commas and its experiment."""
    return name.replace(",", ",\n").replace(": ", ":\n") if len(name) > 12 else name
