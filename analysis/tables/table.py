"""A table as data, and as a notebook shows it. What stands in it is made elsewhere, its files in ``render``."""

import html
import math
from dataclasses import dataclass

from analysis.runs.load import AnalysisError


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
