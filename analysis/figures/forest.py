"""Every pair of arms as a forest plot: length and accuracy, at equal steps, tokens and movement side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from analysis.figures.style import NAME, SMALL, TITLE, write_caption

ROW = 0.62  # inches of a pair
MARKS = {  # basis -> (its words, marker, colour), by colour-blind safe pairs of shape and colour
    "config-matched": ("equal steps", "o", "#0072B2"),
    "token-matched": ("equal tokens", "s", "#D55E00"),
    "movement-matched": ("equal movement (KL)", "^", "#009E73"),
}
PANELS = {  # outcome -> (its title, x label, where there is no effect)
    "response length": ("How much longer?", "length at the end, times the other's", 1.0),
    "accuracy": ("How much more accurate?", "training accuracy, percentage points more", 0.0),
}


def forest(comparisons: Sequence[Mapping[str, Any]], margins: Mapping[str, float]) -> Figure:
    """One row for each pair of ``comparisons`` (records of ``analysis.statistics.comparison``), a mark for each basis
    with its interval, a panel for each outcome. Grey: effects smaller than the margin of their unit.

    A record without a value is left out, one without an interval is a mark alone.
    """
    pairs = list(dict.fromkeys(tuple(record["arms"]) for record in comparisons if record["n"]))
    height = 1.75 + ROW * len(pairs)
    figure = Figure(figsize=(9.0, height))
    for at, outcome in enumerate(PANELS):
        ax = figure.add_axes((0.2 + 0.41 * at, 1.1 / height, 0.36, (height - 1.55) / height))
        records = [record for record in comparisons if record["quantity"] == outcome and record["n"]]
        _panel(ax, outcome, records, pairs, margins)
        if at:
            ax.set_yticklabels([])
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower left", bbox_to_anchor=(0.19, 0.25 / height), ncols=3, frameon=False,
                  fontsize=SMALL)  # fmt: skip
    write_caption(figure.axes[0], ["Mark: mean over seeds; line: 95 % interval; grey: too small to matter."])
    return figure


def _panel(
    ax: Axes,
    outcome: str,
    records: Sequence[Mapping[str, Any]],
    pairs: Sequence[tuple[str, ...]],
    margins: Mapping[str, float],
) -> None:
    title, label, none = PANELS[outcome]
    ratio = outcome == "response length"
    if ratio:
        ax.set_xscale("log")
    margin = margins["ratio" if ratio else "points"]
    ax.axvspan(none / margin if ratio else -margin, none * margin if ratio else margin, color="0.92", zorder=0)
    ax.axvline(none, color="0.4", linewidth=0.8, zorder=1)
    for at, (basis, (words, marker, colour)) in enumerate(MARKS.items()):
        of = {tuple(record["arms"]): record for record in records if record["basis"] == basis}
        rows = [(row + 0.2 * (at - 1), of[pair]) for row, pair in enumerate(pairs) if pair in of]
        for y, record in rows:
            if record["low"] is not None:
                ax.plot([record["low"], record["high"]], [y, y], color=colour, linewidth=1.6, zorder=2)
        ax.plot([r["estimate"] for _, r in rows], [y for y, _ in rows], marker, color=colour, label=words, markersize=5,
                linestyle="none", zorder=3)  # fmt: skip
    ax.set_yticks(range(len(pairs)), [f"{first} over {second}" for first, second in pairs], fontsize=NAME)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    ax.set_xlabel(label, fontsize=NAME)
    ax.set_title(title, loc="left", fontsize=TITLE)
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.tick_params(axis="y", length=0)
    if ratio:
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        low, high = ax.get_xlim()
        ax.set_xticks([tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if low <= tick <= high])
    ax.spines[["top", "right", "left"]].set_visible(False)
