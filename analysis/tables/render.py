"""A table's renderings in files: Markdown, CSV, LaTeX, HTML."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from analysis.tables.latex import to_latex
from analysis.tables.table import Table, to_html

NUMBERS = ("mean", "low", "high", "n", "se")  # of an Entry, its columns in the CSV

_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*|<~"})


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
