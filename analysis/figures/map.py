"""The map: where one loss lengthens responses more than another, and whether the first steps foretold it."""

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from analysis.figures.layout import LEFT, LETTER, RIGHT, legend_above, panel_axes, write_common_caption, write_question
from analysis.figures.style import WIDTH, prepare
from analysis.statistics.arms import MIN_T_RUNS, named
from analysis.statistics.comparison import MARGINS
from analysis.statistics.grid import FIRST_STEPS, agreement

MARKS = {  # clip range -> marker and colour, by colour-blind safe pairs of shape and colour
    "narrow": ("v", "#D55E00"),
    "preset": ("o", "#0072B2"),
    "wide": ("^", "#009E73"),
}
HALF = WIDTH / 2 - LEFT - RIGHT  # inches of a panel
OTHERS = (("s", "#CC79A7"), ("D", "#000000"), ("P", "#56B4E9"))


def draw_map(table: pd.DataFrame, pair: tuple[str, str]) -> Figure:
    """Two panels of ``grid.grid``: ratio of lengths by experiment and clip range; the same against what was foretold.

    Grey: ratios nearer to 1 than the margin of a comparison. A cell without an interval is a mark alone.
    """
    left, right = panel_axes(2)
    first, second = map(named, pair)
    experiments = list(dict.fromkeys(table["experiment"]))
    clips = list(dict.fromkeys(table.sort_values("clipped", ascending=False)["clip"]))
    looks = {clip: MARKS.get(clip) or OTHERS[at % len(OTHERS)] for at, clip in enumerate(clips)}
    prepare(left, f"length at the end, {first} / {second}", "correlation of length and being right in step 1")
    prepare(right, f"length at the end, {first} / {second}", f"foretold by steps 1 to {FIRST_STEPS} (sd of length)")
    for at, clip in enumerate(clips):
        rows = table[table["clip"] == clip]
        places = [experiments.index(name) + 0.22 * (at - (len(clips) - 1) / 2) for name in rows["experiment"]]
        marker, colour = looks[clip]
        for ax, x in ((left, places), (right, list(rows["foretold"]))):
            label = f"{clip} clip range ({_share(rows['clipped'])} of tokens clipped)"
            ax.plot(x, rows["length"], marker, color=colour, markersize=5, label=label, zorder=3)
            ax.vlines(x, rows["length_low"], rows["length_high"], color=colour, linewidth=1.4, zorder=2)
        right.hlines(rows["length"], rows["foretold_low"], rows["foretold_high"], color=colour, linewidth=0.8, zorder=2)
    letters = int(HALF / len(experiments) / LETTER)
    left.set_xticks(range(len(experiments)), [_named(table, name, letters) for name in experiments])
    left.set_xlim(-0.5, len(experiments) - 0.5)
    right.xaxis.set_major_locator(MaxNLocator(4))
    right.axvline(0, color="0.4", linewidth=0.8, zorder=1)
    for ax in (left, right):
        _ratios(ax)
    right.set_ylim(left.get_ylim())
    legend_above([left, right], *left.get_legend_handles_labels())
    write_common_caption([left, right], _caption(table, pair))
    figure = left.figure
    assert isinstance(figure, Figure)
    write_question(figure, f"When does {first} make responses longer than {second}?")
    return figure


def _share(clipped: pd.Series) -> str:
    low, high = 100 * clipped.min(), 100 * clipped.max()
    return f"{low:.2g} %" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g} %"


def _named(table: pd.DataFrame, experiment: str, letters: int) -> str:
    """Correlation and name as a tick's label; a long name is broken at its underscores."""
    pays = table.loc[table["experiment"] == experiment, "pays"].iloc[0]
    lines = textwrap.wrap(experiment.replace("_", "_ "), letters, break_long_words=False)
    name = "\n".join(line.replace("_ ", "_") for line in lines)
    return f"{pays:.2f}\n{name}" if pd.notna(pays) else name


def _ratios(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.axhspan(1 / MARGINS["ratio"], MARGINS["ratio"], color="0.92", zorder=0)
    ax.axhline(1, color="0.4", linewidth=0.8, zorder=1)
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    low, high = ax.get_ylim()
    coarse = high / low > 2
    ax.set_yticks([tick for tick in ((0.25, 0.5, 0.7, 1, 1.4, 2, 4) if coarse else (0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4))
                   if low <= tick <= high])  # fmt: skip


def _caption(table: pd.DataFrame, pair: tuple[str, str]) -> list[str]:
    first, second = map(named, pair)
    shown = table[table["length"].notna()]
    n = shown["length_n"] if len(shown) else table["length_n"]
    pairs = f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
    said = [f"Mark: mean over {pairs} pairs of runs with one seed; grey: less than 10 %."]
    if n.max() >= MIN_T_RUNS:
        said.append("Lines: 95 % Student-t intervals over pairs.")
    said.append(
        f"Foretold: length pressure of {first} minus that of {second} on the same responses, those of {second}'s "
        "first steps; one natural-gradient step, which is not what Adam takes."
    )
    rank = agreement(table)
    if pd.notna(rank):
        said.append(
            f"Rank correlation of foretold and found over {len(shown.dropna(subset='foretold'))} cells: {rank:.2f}."
        )
    return said
