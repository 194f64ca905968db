"""Every pair of arms as a forest plot: length and accuracy, at equal steps, tokens and movement side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from analysis.figures.layout import BOTTOM, LETTER, RIGHT, TOP, legend_above, write_common_caption, write_question
from analysis.figures.style import FONT, OWN, WIDTH

ROW = 0.55  # inches of a pair
QUESTION = "Any two losses: which is longer, which more accurate?"
MARKS = {  # basis -> (its words, marker, colour), by colour-blind safe pairs of shape and colour
    "config-matched": ("equal steps", "o", "#0072B2"),
    "token-matched": ("equal tokens", "s", "#D55E00"),
    "movement-matched": ("equal movement (KL)", "^", "#009E73"),
}
TICKS = (  # of ratios, as many as a narrow panel has room for, coarse ones first
    (0.01, 0.1, 1, 10, 100),
    (0.1, 0.2, 0.5, 1, 2, 5, 10),
    (0.5, 0.7, 1, 1.4, 2),
    (0.6, 0.8, 1, 1.25, 1.5),
    (0.8, 0.9, 1, 1.1, 1.2, 1.3),
    (0.96, 0.98, 1, 1.02, 1.04),
)
PANELS = {  # outcome -> (its title, x label, where there is no effect)
    "response length": ("length at the end", "times the other's", 1.0),
    "accuracy": ("training accuracy", "percentage points more", 0.0),
}


def forest(comparisons: Sequence[Mapping[str, Any]], margins: Mapping[str, float], repeated: bool = False) -> Figure:
    """One row for each pair of ``comparisons`` (records of ``analysis.statistics.comparison``), a mark for each basis
    with its interval, a panel for each outcome. Grey: effects smaller than the margin of their unit.

    A record without a value is left out, one without an interval is a mark alone. repeated: whether the intervals allow
    for looking after every seed.
    """
    pairs = list(dict.fromkeys(tuple(record["arms"]) for record in comparisons if record["n"]))
    height = TOP + ROW * len(pairs) + BOTTOM
    figure = Figure(figsize=(WIDTH, height), gid=OWN)
    left = min(0.45, 1.12 * LETTER * (max((len(_said(pair)) for pair in pairs), default=0) + 2) / WIDTH)
    gap = 0.04
    wide = (1 - left - gap - RIGHT / WIDTH) / len(PANELS)
    for at, outcome in enumerate(PANELS):
        ax = figure.add_axes((left + (wide + gap) * at, BOTTOM / height, wide, ROW * len(pairs) / height))
        records = [record for record in comparisons if record["quantity"] == outcome and record["n"]]
        _panel(ax, outcome, records, pairs, margins)
        if at:
            ax.set_yticklabels([])
    legend_above(figure.axes, *figure.axes[0].get_legend_handles_labels())
    line = "repeated 95 % interval" if repeated else "95 % interval, of one test"
    said = [f"Mark: mean over seeds; line: {line}; grey: too small to matter."]
    if any(record["low"] is not None and record["low"] == record["high"] for record in comparisons if record["n"]):
        said.append("A line without length: the same difference for every seed.")
    write_common_caption(figure.axes, said)
    write_question(figure, QUESTION)
    return figure


def _said(pair: Sequence[str]) -> str:
    return f"{pair[0]} over {pair[1]}"


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
        if not rows:
            continue
        ax.plot([r["estimate"] for _, r in rows], [y for y, _ in rows], marker, color=colour, label=words, markersize=5,
                linestyle="none", zorder=3)  # fmt: skip
    ax.set_yticks(range(len(pairs)), [_said(pair) for pair in pairs], fontsize=FONT)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    ax.set_xlabel(label, fontsize=FONT)
    ax.set_title(title, loc="left", fontsize=FONT)
    ax.tick_params(axis="x", labelsize=FONT)
    ax.tick_params(axis="y", length=0)
    if ratio:
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        low, high = ax.get_xlim()
        ticks = next(ticks for ticks in TICKS if sum(low <= tick <= high for tick in ticks) >= 3 or ticks == TICKS[-1])
        ax.set_xticks([tick for tick in ticks if low <= tick <= high])
    ax.spines[["top", "right", "left"]].set_visible(False)
