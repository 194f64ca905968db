"""``python -m analysis map RUNS``: one pair of losses over experiments and clip ranges, as a figure and a table."""

import math
from collections.abc import Callable, Sequence

import pandas as pd
from rich.console import Console

from analysis.figures.map import draw_map
from analysis.figures.style import save as save_figure
from analysis.report import arguments
from analysis.report.write import say_left_out
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.claim_file import three_digits
from analysis.statistics.comparison import MARGINS
from analysis.statistics.grid import agreement, grid
from analysis.statistics.selection import Choice, choose
from analysis.tables.render import save as save_table
from analysis.tables.render import to_markdown
from analysis.tables.table import Entry, Table


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Draw, write and print; returns 0. Raises ``AnalysisError`` for runs of which there is no map, in one line."""
    console = console or Console()
    args = arguments.map_().parse_args(argv)
    first, colon, second = args.contrast.partition(":")
    if not colon or not first or not second or first == second:
        raise AnalysisError(
            f"contrast {args.contrast}: two different losses with a colon between, such as {arguments.PAIR}"
        )
    runs = choose(load_runs(args.runs), Choice((), args.only, args.exclude))
    found = grid(runs, (first, second))
    args.out.mkdir(parents=True, exist_ok=True)
    table = map_table(found, (first, second))
    written = [*save_figure(draw_map(found, (first, second)), args.out / "map"), *save_table(table, args.out)]
    say_left_out(runs, console)
    print(to_markdown(table))
    for file in written:
        print(file)
    return 0


def map_table(found: pd.DataFrame, pair: tuple[str, str]) -> Table:
    """``grid.grid`` as a table: a row for each cell, and below it what each column is."""
    first, second = pair
    rows = tuple(
        (
            Entry(row["experiment"]),
            Entry(row["clip"]),
            _number(row["pays"], "{:.2f}"),
            _number(100 * row["clipped"], "{:.2g}"),
            _effect(row, "length", three_digits),
            _effect(row, "length_run", three_digits),
            _effect(row, "accuracy", "{:+.1f}".format),
            _effect(row, "foretold", "{:+.3f}".format),
            Entry(str(row["length_n"])),
            Entry(row["reason"]),
        )
        for row in found.to_dict("records")
    )
    columns = ("experiment", "clip range", "length pays", "tokens clipped, %", "length at the end",
               "length over the run", "accuracy, points", "foretold, sd", "seeds", "reason")  # fmt: skip
    margin = f"{100 * (MARGINS['ratio'] - 1):.0f} %"
    rank = agreement(found)
    notes = (
        f"Length: {first} over {second}, times; end: the last fifth of the steps; bold: the interval leaves out 1. A "
        f"comparison calls less than {margin} none. Accuracy in training, over the run: {first} minus {second}.",
        "Brackets: Student's t over pairs of runs with one seed, 95 %, each cell by itself. Length pays: correlation "
        "of length and being right in step 1, within prompts.",
        f"Foretold: length pressure of {first} minus that of {second} on the responses of {second}'s first five steps, "
        "in standard deviations of length"
        + (f"; its rank correlation with what was found is {rank:.2f}." if math.isfinite(rank) else "."),
    )
    return Table("map", f"When is {first} longer than {second}?", columns, rows, notes, labels=2)


def _number(value: float, form: str) -> Entry:
    return Entry(form.format(value), value) if math.isfinite(value) else Entry("-")


def _effect(row: dict, name: str, form: Callable[[float], str]) -> Entry:
    estimate, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    if not math.isfinite(estimate):
        return Entry("-")
    neutral = 1.0 if name.startswith("length") else 0.0
    if not math.isfinite(low):
        return Entry(form(estimate), estimate)
    text = f"{form(estimate)} [{form(low)}, {form(high)}]"
    return Entry(text, estimate, low, high, row.get(f"{name}_n", math.nan), bold=not low <= neutral <= high)
