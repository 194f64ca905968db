"""Where things are in a figure: its question, the arms' names, panels, caption. One width; as high as its content."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from analysis.figures.style import FONT, GREY, OWN, WIDTH, figure_of, own

LINE = 1.3 * FONT / 72  # inches of a line of text
LETTER = 0.51 * FONT / 72  # inches of a letter, on average; a little more, so that no line is too long
LEFT, RIGHT, TOP, BOTTOM = 0.62, 0.16, 0.3, 0.5  # inches around axes: ticks, title of one line, x label
MORE = {1: 0.0, 2: 0.0, 3: LINE}  # for titles: those above narrow axes have two lines
HEIGHT = {1: 2.7, 2: 1.95, 3: 1.6}  # inches of the axes, by the number of panels in a row
SAMPLE = 0.55  # inches of a name's piece of line and of the gap to the next


def single_axes() -> Axes:
    """Axes of a figure of their own."""
    return panel_axes(1)[0]


def panel_axes(n: int, ax: Axes | None = None, columns: int | None = None) -> list[Axes]:
    """``n`` axes, ``columns`` in a row (2 of 4, else up to 3), in a figure of their own or in the place of ``ax``,
    which is removed."""
    columns = min(n, columns or (2 if n == 4 else 3))
    rows = -(-n // columns)
    cell, high = WIDTH / columns, TOP + MORE[columns] + HEIGHT[columns] + BOTTOM
    if ax is None:
        figure = Figure(figsize=(WIDTH, rows * high), gid=OWN)
        x0, y0, width, height = 0.0, 0.0, 1.0, 1.0
    else:
        figure, box = figure_of(ax), ax.get_position()
        x0, y0, width, height = box.x0, box.y0, box.width, box.height
        ax.remove()
    left, bottom = LEFT / cell, BOTTOM / high
    w, h = 1 - left - RIGHT / cell, HEIGHT[columns] / high
    return [
        figure.add_axes(
            (
                x0 + (at % columns + left) * width / columns,
                y0 + (rows - 1 - at // columns + bottom) * height / rows,
                w * width / columns,
                h * height / rows,
            )
        )
        for at in range(n)
    ]


def make_room(figure: Figure, top: float = 0.0, bottom: float = 0.0) -> None:
    """Make the figure so many inches higher; what is in it keeps its size and moves up by ``bottom``."""
    width, old = figure.get_size_inches()
    new = old + top + bottom
    figure.set_size_inches(width, new)
    for ax in figure.axes:
        box = ax.get_position()
        ax.set_position((box.x0, (box.y0 * old + bottom) / new, box.width, box.height * old / new))
    for text in figure.texts:
        text.set_y((text.get_position()[1] * old + bottom) / new)


def write_question(figure: Figure, question: str) -> None:
    """Write the question that the figure answers above all else; nothing in a figure that is not of this module."""
    if not own(figure):
        return
    lines = textwrap.wrap(question, int((WIDTH - LEFT - RIGHT) / LETTER))
    make_room(figure, top=LINE * len(lines) + 0.1)
    height = figure.get_size_inches()[1]
    figure.text(LEFT / WIDTH, 1 - 0.07 / height, "\n".join(lines), fontsize=FONT, va="top", gid="question")


def name_arms(
    axes: Sequence[Axes], styles: Mapping[str, Mapping[str, Any]], equal: Sequence[Sequence[str]] = ()
) -> None:
    """The arms' names beside a piece of their line, in their colour, above the panels ``axes``; ``equal``: groups of
    arms whose curves are equal, which their names say. In a figure of somebody else's inside the first panel."""
    names = {name: name for name in styles}
    for group in equal:
        names |= {name: f"{name} (equal to {group[0]})" for name in group[1:]}
    looks = [{"linewidth": 2, **style} for style in styles.values()]
    handles = [Line2D([], [], **{**look, "linewidth": min(look["linewidth"], 5)}) for look in looks]
    legend_above(axes, handles, list(names.values()))


def legend_above(axes: Sequence[Axes], handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend above the panels ``axes``, over their whole width, each name in the colour of its handle."""
    first, figure = axes[0], figure_of(axes[0])
    style: dict[str, Any] = {"fontsize": FONT, "frameon": False, "handlelength": 1.8, "handletextpad": 0.5}
    if not own(figure):
        first.legend(handles, names, loc="best", **style)
        return
    per_row = max(1, int((WIDTH - LEFT) / (LETTER * max(map(len, names)) + SAMPLE)))
    rows = -(-len(names) // per_row)
    order = [at for column in range(per_row) for at in range(column, len(names), per_row)]  # it fills columns first
    handles, names = [handles[at] for at in order], [names[at] for at in order]
    lines = max(ax.get_title(loc="left").count("\n") for ax in axes)
    above = first.transAxes + ScaledTranslation(0, TOP + 0.02 + LINE * lines, figure.dpi_scale_trans)
    style |= {"ncols": min(per_row, len(names)), "bbox_transform": above, "bbox_to_anchor": (0, 1), "loc": "lower left"}
    first.legend(handles, names, borderaxespad=0, borderpad=0, columnspacing=1.4, labelspacing=0.25, **style)
    free = (1 - first.get_position().y1) * figure.get_figheight()
    make_room(figure, top=1.1 * LINE * rows + 0.04 + max(0.0, TOP + LINE * lines - free))  # above the longest title


def write_caption(ax: Axes, sentences: Sequence[str]) -> None:
    """Write ``sentences`` below a single axes."""
    style = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": FONT, "color": GREY}
    wide = figure_of(ax).get_figwidth() * ax.get_position().width
    text = _wrapped(sentences, wide)
    below = -72 * (BOTTOM + _extra(ax))
    ax.annotate(text, (0, 0), xytext=(0, below), va="top", gid="caption", annotation_clip=False, **style)
    if own(figure_of(ax)):
        make_room(figure_of(ax), bottom=LINE * (1 + text.count("\n")) + 0.1 + _extra(ax))


def write_common_caption(axes: Sequence[Axes], sentences: Sequence[str]) -> None:
    """Write ``sentences``, each once, below the lowest of the panels ``axes``, as wide as all of them."""
    figure = figure_of(axes[0])
    boxes = [ax.get_position() for ax in axes]
    left, right, bottom = min(box.x0 for box in boxes), max(box.x1 for box in boxes), min(box.y0 for box in boxes)
    width, height = figure.get_size_inches()
    text = _wrapped(list(dict.fromkeys(sentences)), (right - left) * width)
    extra = max(map(_extra, axes))
    at = bottom - (BOTTOM + extra) / height
    figure.text(left, at, text, fontsize=FONT, color=GREY, va="top", gid="caption", linespacing=1.2)
    if own(figure):
        make_room(figure, bottom=LINE * (1 + text.count("\n")) + 0.1 + extra)


def _extra(ax: Axes) -> float:
    """Inches that tick labels and x label need beyond one line each."""
    more = max((label.get_text().count("\n") for label in ax.get_xticklabels()), default=0)
    return LINE * (more + ax.get_xlabel().count("\n"))


def _wrapped(sentences: Sequence[str], inches: float) -> str:
    bound = " ".join(sentences).replace(" %", "\u00a0%")  # on one line with its number
    return textwrap.fill(bound, int(inches / LETTER)).replace("\u00a0", " ")
