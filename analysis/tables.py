"""A table and its four renderings: Markdown, CSV, LaTeX, HTML. What stands in a table is made elsewhere."""

import html
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.latex import to_latex
from analysis.load import AnalysisError

NUMBERS = ("mean", "low", "high", "n", "se")  # of an Entry, its columns in the CSV

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*|<~"})


@dataclass(frozen=True)
class Entry:
    """One place of a table: what it shows, and the numbers that the text was made from, NaN where there are none.

    low, high: an interval; n: what the mean is over, mostly runs; se: a second standard error, where the notes say of
    what. All in the unit of the text.
    """

    text: str
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: float = math.nan
    se: float = math.nan
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table as data. Every row has one string or ``Entry`` a column; a string is an entry without numbers.

    name: of its files and its LaTeX label. labels: how many columns, from the left, name the row. notes: sentences
    below it. Raises ``AnalysisError`` for a row of another length.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Entry, ...], ...]
    notes: tuple[str, ...] = ()
    labels: int = 1

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise AnalysisError(
                    f"table {self.name}, row {number}: {len(row)} entries for {len(self.columns)} columns"
                )

    @property
    def entries(self) -> tuple[tuple[Entry, ...], ...]:
        """The rows with every string as an entry."""
        return tuple(tuple(e if isinstance(e, Entry) else Entry(e) for e in row) for row in self.rows)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return to_html(self)


def to_frame(table: Table) -> pd.DataFrame:
    """The long form: one row per entry that is no label. Columns: row (from 1), the label columns, column, text,
    ``NUMBERS`` unrounded, bold."""
    records = []
    for number, row in enumerate(table.entries, 1):
        names = {name: entry.text for name, entry in zip(table.columns[: table.labels], row, strict=False)}
        for column, entry in list(zip(table.columns, row, strict=True))[table.labels :]:
            numbers = {name: getattr(entry, name) for name in NUMBERS}
            records.append(
                {"row": number, **names, "column": column, "text": entry.text, **numbers, "bold": entry.bold}
            )
    columns = ["row", *table.columns[: table.labels], "column", "text", *NUMBERS, "bold"]
    return pd.DataFrame.from_records(records, columns=columns)


def to_csv(table: Table) -> str:
    """``to_frame`` as CSV, empty where there is no number: for programs, so title and notes are not in it."""
    return to_frame(table).to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table) -> str:
    """GitHub's Markdown: title, table, notes."""
    lines = [_row(map(_markdown, table.columns)), "|---" * len(table.columns) + "|"]
    for row in table.entries:
        lines.append(_row(f"**{_markdown(e.text)}**" if e.bold and e.text else _markdown(e.text) for e in row))
    notes = "\n\n".join(map(_markdown, table.notes))
    return f"**{_markdown(table.title)}**\n\n" + "\n".join(lines) + "\n" + (f"\n{notes}\n" if notes else "")


def to_html(table: Table) -> str:
    """A ``<figure>`` with the table and its notes, without a style: column and row heads are ``<th scope>``."""
    heads = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in table.columns)
    body = []
    for row in table.entries:
        cells = []
        for at, entry in enumerate(row):
            text = html.escape(entry.text)
            text = f"<strong>{text}</strong>" if entry.bold and text else text
            cells.append(f'<th scope="row">{text}</th>' if at < table.labels else f"<td>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    notes = [f"<p>{html.escape(note)}</p>" for note in table.notes]
    parts = [
        f'<figure class="table" id="{html.escape(table.name)}">',
        f"<table>\n<caption>{html.escape(table.title)}</caption>",
        f"<thead><tr>{heads}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody>\n</table>",
        *([f"<figcaption>{''.join(notes)}</figcaption>"] if notes else []),
        "</figure>",
    ]
    return "\n".join(parts) + "\n"


RENDERINGS: dict[str, Callable[[Table], str]] = {".md": to_markdown, ".csv": to_csv, ".tex": to_latex, ".html": to_html}


def save(table: Table, folder: Path) -> list[Path]:
    """Write every rendering as ``<folder>/<name>.<suffix>``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, render in RENDERINGS.items():
        path = folder / f"{table.name}{suffix}"
        path.write_text(render(table), encoding="utf-8")
        paths.append(path)
    return paths


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown(text: str) -> str:
    escaped = " ".join(text.split()).translate(_MARKDOWN).replace("](", "]\\(")
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", escaped)  # between letters it is text already
