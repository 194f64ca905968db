"""What can be recomputed from a printed table: possible cells, averages, differences, how far the best row is ahead."""

import math
from collections.abc import Mapping
from itertools import pairwise

from analysis.statistics.printed import Printed, bare, possible, questions_of, smallest_samples, standard_error
from analysis.tables.printout import Printout, Row
from analysis.tables.table import Entry, Table

POWERS = tuple(2**i for i in range(11))
AGREES, CONTRADICTS, IMPOSSIBLE = "agrees", "contradicts", "impossible"


def cells(printed: Printout, questions: Mapping[str, int], samples: int | None) -> Table:
    """Every percentage with the fewest answers a question that can make it."""
    rows = []
    for benchmark, n in _sized(printed, questions):
        for row in (row for row in printed.rows if benchmark in row.cells):
            cell = row.cells[benchmark]
            least = smallest_samples([cell], n)
            wrong = least is None if samples is None else not possible(cell, n, samples)
            rows.append(
                (
                    f"{benchmark} ({n})", _name(row), _entry(cell, bold=wrong), f"{standard_error(cell.value, n):.1f}",
                    _k(least), Entry(IMPOSSIBLE, bold=True) if wrong else "possible",
                )
            )  # fmt: skip
    return Table(
        "audit_cells",
        f"Can each cell come from {samples or 'any number of'} answers a question? (percent)",
        ("benchmark", "row", "printed", "se", "least k", "verdict"),
        tuple(rows),
        (
            "In brackets: questions. Se: the standard error over questions, at most. Least k: the fewest answers a "
            "question that can make the cell. Possible: some number of right answers rounds to it.",
        ),
        labels=2,
    )


def columns(printed: Printout, questions: Mapping[str, int]) -> Table:
    """For every benchmark the fewest answers a question that can make all of its cells."""
    rows = []
    for benchmark, n in _sized(printed, questions):
        found = [row.cells[benchmark] for row in printed.rows if benchmark in row.cells]
        least, power = smallest_samples(found, n), smallest_samples(found, n, POWERS)
        rows.append((benchmark, str(n), str(len(found)), _k(least), _k(power)))
    return Table(
        "audit_columns",
        "How many answers a question make a whole column?",
        ("benchmark", "questions", "cells", "least k", "of 1, 2, 4 .."),
        tuple(rows),
        ("Least k: the fewest answers a question that can make all cells. A table made with fewer cannot be right.",),
    )


def averages(printed: Printout) -> Table:
    """Printed averages beside the mean of their row's percentages."""
    rows = []
    for column in printed.averages:
        for row in (row for row in printed.rows if column in row.cells):
            parts = [row.cells[name] for name in printed.benchmarks if name in row.cells]
            if len(parts) < 2:
                continue
            shown, mean = row.cells[column], math.fsum(part.value for part in parts) / len(parts)
            slack = shown.half + math.fsum(part.half for part in parts) / len(parts)
            rows.append((_name(row), *_checked(shown, mean, slack)))
    return _recomputed("audit_averages", "Do the averages follow from their rows?", ("row",), rows)


def differences(printed: Printout) -> Table:
    """Printed differences beside those of the two cells."""
    rows = []
    for row, first, second in printed.differences:
        for column, shown in row.cells.items():
            if column in first.cells and column in second.cells:
                a, b = first.cells[column], second.cells[column]
                rows.append((_name(row), column, *_checked(shown, a.value - b.value, shown.half + a.half + b.half)))
    return _recomputed("audit_differences", "Do the differences follow from their cells?", ("row", "column"), rows)


def leads(printed: Printout, questions: Mapping[str, int]) -> Table:
    """In every group the best row of each benchmark beside the next: how many standard errors lie between them."""
    rows = []
    for benchmark, n in _sized(printed, questions):
        for group in dict.fromkeys(row.group for row in printed.rows):
            there = [row for row in printed.rows if row.group == group and benchmark in row.cells]
            ranked = sorted(there, key=lambda row: -row.cells[benchmark].value)
            for best, other in list(pairwise(ranked))[:1]:
                a, b = best.cells[benchmark].value, other.cells[benchmark].value
                se = math.hypot(standard_error(a, n), standard_error(b, n))
                within = a - b <= se
                rows.append(
                    (benchmark, _name(best), f"{other.name} {b:g}", Entry(f"{a - b:+.1f}", a - b, se=se), f"{se:.1f}",
                     Entry("within 1", bold=True) if within else f"{(a - b) / se:.1f}" if se else "-")
                )  # fmt: skip
    return Table(
        "audit_leads",
        "How far is the best row ahead?",
        ("benchmark", "best row", "next", "ahead by", "se", "in se"),
        tuple(rows),
        (
            "Se: of the difference, as if both had answered questions of their own, one answer each. The same "
            "questions and more answers make it smaller, by how much no table tells. Training seeds are not in it.",
        ),
        labels=2,
    )


def unsized(printed: Printout, questions: Mapping[str, int]) -> list[str]:
    """Benchmarks whose number of questions is not known."""
    known = {name for name, _ in _sized(printed, questions)}
    return [name for name in printed.benchmarks if name not in known]


def _sized(printed: Printout, questions: Mapping[str, int]) -> list[tuple[str, int]]:
    given = {bare(name): n for name, n in questions.items()}
    sizes = [(name, given.get(bare(name)) or questions_of(name)) for name in printed.benchmarks]
    return [(name, n) for name, n in sizes if n]


def _checked(shown: Printed, recomputed: float, slack: float) -> tuple[Entry, ...]:
    wrong = abs(shown.value - recomputed) > slack + 1e-9
    digits = shown.decimals + 1
    return (
        _entry(shown, bold=wrong),
        Entry(f"{round(recomputed, digits) + 0.0:.{digits}f}", recomputed),
        Entry(f"{slack:.{digits}f}", slack),
        Entry(CONTRADICTS if wrong else AGREES, bold=wrong),
    )


def _recomputed(name: str, title: str, labels: tuple[str, ...], rows: list[tuple[str | Entry, ...]]) -> Table:
    head = (*labels, "printed", "recomputed", "rounding explains", "verdict")
    return Table(name, title, head, tuple(rows), labels=len(labels))


def _name(row: Row) -> str:
    return f"{row.group} {row.name}".strip()


def _entry(cell: Printed, bold: bool = False) -> Entry:
    return Entry(f"{cell.value:.{cell.decimals}f}", cell.value, cell.low, cell.high, bold=bold)


def _k(samples: int | None) -> str:
    return "none" if samples is None else str(samples)
