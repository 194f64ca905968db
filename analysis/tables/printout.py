"""A printed table of results as somebody else wrote it: read into cells by group, row and column."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from analysis.runs.load import AnalysisError
from analysis.statistics.printed import Printed, bare, parse

AVERAGES = {"avg", "average", "mean", "overall"}
NAMED_DIFFERENCE = re.compile(r"\s+vs\.?\s+|\s*[-\u2212\u2013]\s*")
DELTAS = re.compile(r"\u0394|\bdelta\b|\bdiff(erence)?\b|\bimprovement\b|\bgain\b", re.IGNORECASE)
LARGEST = 10_000_000  # bytes of a file: a table that somebody printed is far smaller


@dataclass(frozen=True)
class Row:
    """One row: its place in the table (labels to the left of its name), its name, its numbers by column."""

    group: str
    name: str
    cells: Mapping[str, Printed]


@dataclass
class Printout:
    """A table of results. ``unread``: one line for each thing that was not understood."""

    benchmarks: list[str]  # columns of percentages
    others: list[str]  # columns of other numbers: lengths, hours
    averages: list[str]
    rows: list[Row]
    differences: list[tuple[Row, Row, Row]] = field(default_factory=list)  # the printed one, first and second
    unread: list[str] = field(default_factory=list)


def read(path: Path) -> Printout:
    """Read CSV, TSV or a Markdown table: a row a method, a column a benchmark, names to the left.

    Raises ``AnalysisError`` with one line where the file is no such table.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise AnalysisError(f"{path}: {path.stat().st_size / 1e6:.0f} MB is no printed table; give one of its size")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise AnalysisError(f"{path}: {reason}") from None
    head, *body = [line for line in _cells([line for line in lines if line.strip()]) if any(line)] or [[]]
    if not body:
        raise AnalysisError(f"{path}: no table: a head and at least one row are needed")
    for number, line in enumerate(body, 2):
        if len(line) != len(head):
            raise AnalysisError(f"{path}, row {number}: {len(line)} cells under {len(head)} columns")
    if repeated := {name for name in head if name and head.count(name) > 1}:
        raise AnalysisError(f"{path}: the column {sorted(repeated)[0]!r} is there twice")
    labels = next((at for at in range(len(head)) if _numeric([line[at] for line in body])), len(head))
    if labels == len(head):
        raise AnalysisError(f"{path}: no column of numbers; percentages are expected, a column a benchmark")
    return _printout(head, body, labels)


def _cells(lines: list[str]) -> Iterator[list[str]]:
    if lines and lines[0].lstrip().startswith("|"):  # Markdown
        for line in lines:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                yield cells
        return
    separator = max("\t;,", key=lines[0].count) if lines else ","
    for line in csv.reader(io.StringIO("\n".join(lines)), delimiter=separator):
        yield [cell.strip() for cell in line]


def _numeric(column: list[str]) -> bool:
    given = [cell for cell in column if cell not in ("", "-", "\u2013", "n/a", "N/A")]
    return bool(given) and sum(parse(cell) is not None for cell in given) > len(given) / 2


def _printout(head: list[str], body: list[list[str]], labels: int) -> Printout:
    names = [name or f"column {at + 1}" for at, name in enumerate(head)]
    rows, above = [], [""] * max(labels - 1, 0)
    for number, line in enumerate(body, 2):
        above = [cell or last for cell, last in zip(line[: max(labels - 1, 0)], above, strict=True)]  # once a group
        name = line[labels - 1].strip("*_ ") if labels else f"row {number}"
        numbers = {names[at]: found for at in range(labels, len(head)) if (found := parse(line[at]))}
        rows.append(Row(" ".join(above), name, numbers))
    columns = [name for at, name in enumerate(names[labels:], labels) if _numeric([line[at] for line in body])]
    values, differences, unread = _apart(rows)
    outside = {c for c in columns if any(c in r.cells and not 0 <= r.cells[c].value <= 100 for r in values)}
    averages = [c for c in columns if bare(c) in AVERAGES]
    benchmarks = [c for c in columns if c not in outside and c not in averages]
    unread += [f"column {name!r} is left out: mostly no numbers" for name in names[labels:] if name not in columns]
    return Printout(benchmarks, [c for c in columns if c in outside], averages, values, differences, unread)


def _apart(rows: list[Row]) -> tuple[list[Row], list[tuple[Row, Row, Row]], list[str]]:
    """Rows of values, and rows of differences with the two rows that their name names."""
    by_name = {(row.group, bare(row.name)): row for row in rows}
    values, differences, unread = [], [], []
    for row in rows:
        places = [(m.start(), m.end()) for m in NAMED_DIFFERENCE.finditer(row.name)]
        pairs = [
            (by_name.get((row.group, bare(row.name[:start]))), by_name.get((row.group, bare(row.name[end:]))))
            for start, end in places
        ]
        pair = next(((a, b) for a, b in pairs if a and b and row not in (a, b)), None)
        if pair:
            differences.append((row, *pair))
        elif DELTAS.search(row.name) or any(cell.value < 0 for cell in row.cells.values()):
            unread.append(f"row {row.name!r} is left out: name it after the two rows that it compares: 'A - B'")
        else:
            values.append(row)
    return values, differences, unread
