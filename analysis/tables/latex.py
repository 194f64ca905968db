"""A table in LaTeX that fits its page: booktabs, columns as paragraphs where they must be, long ones over pages.

Needs ``\\usepackage[T1]{fontenc}`` and the packages of ``PACKAGES``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.tables.table import Table

PACKAGES = ("array", "booktabs", "longtable", "lscape")
# Of the narrowest usual page (345 pt) and between columns (6 pt), in digits of 8 points.
LINE, SEPARATION = 76.0, 1.4
WIDE, NARROW = 1.5, 0.65  # of capitals and of the thin letters, in digits
SLACK = 1.05  # times a width that is reckoned so
LANDSCAPE = 1.5  # how much wider a turned page is
LINES = 45  # lines of a table, with its notes, that fit a page
PROSE = 40  # a column with a longer entry has text in it, not numbers
LONG_WORD, PIECE = 12, 16  # longer words may break after punctuation, longer pieces of them anywhere
BREAK = "\u200b"  # where a word may break: the zero-width space

_SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "`": r"\textasciigrave{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        BREAK: r"\allowbreak{}",
    }
)


@dataclass(frozen=True)
class Layout:
    """How a table is set: its column types, whether over pages, whether on a turned page."""

    columns: str
    long: bool
    turned: bool


def to_latex(table: Table) -> str:
    """A floating table; one of more lines than a page has is a ``longtable``, one of wider words is on a turned page.

    A little space where the first label changes. Characters that pdfLaTeX's fonts lack are question marks.
    """
    heads = [_breakable(column) for column in table.columns]
    cells = [[_breakable(entry.text) for entry in row] for row in table.entries]
    notes = [rf"{_latex(_breakable(note))}\par" for note in table.notes]
    layout = _layout(table, heads, cells)
    caption = (
        rf"\caption{{{_latex(_breakable(table.title))}}}\label{{tab:{re.sub(r'[^A-Za-z0-9_:.-]+', '-', table.name)}}}"
    )
    head = [r"\toprule", rf"{' & '.join(map(_latex, heads))} \\", r"\midrule"]
    size = r"\footnotesize\setlength{\tabcolsep}{3pt}"
    if not layout.long:
        top = [r"\begin{table}[htbp]", rf"\centering{size}", caption, rf"\begin{{tabular}}{{{layout.columns}}}", *head]
        bottom = [r"\bottomrule", r"\end{tabular}"]
        if notes:
            bottom += [r"\par\medskip", r"\begin{minipage}{\linewidth}\footnotesize\raggedright", *notes]
            bottom.append(r"\end{minipage}")
        return "\n".join([*top, *_body(table, cells), *bottom, r"\end{table}"]) + "\n"
    top = [rf"\begingroup{size}", rf"\begin{{longtable}}{{{layout.columns}}}", rf"{caption} \\"]
    top += [*head, r"\endfirsthead", *head, r"\endhead"]
    lines = [*top, *_body(table, cells), r"\bottomrule", r"\end{longtable}", r"\raggedright", *notes, r"\endgroup"]
    return "\n".join([r"\begin{landscape}", *lines, r"\end{landscape}"] if layout.turned else lines) + "\n"


def _layout(table: Table, heads: Sequence[str], cells: Sequence[Sequence[str]]) -> Layout:
    columns = list(zip(heads, *cells, strict=True))
    words, natural = (
        [SLACK * max(map(reckoned, column)) for column in columns] for reckoned in (_longest_word, _width)
    )
    turned = sum(words) + SEPARATION * len(words) > LINE
    line = LINE * LANDSCAPE if turned else LINE
    widths = _widths(natural, words, line)
    prose = [max(map(len, column)) > PROSE for column in columns]
    sides = ["l" if at < table.labels or text else "r" for at, text in enumerate(prose)]
    wraps = any(width < whole for width, whole in zip(widths, natural, strict=True))
    lines = sum(max(math.ceil(_width(c) / w) for c, w in zip(row, widths, strict=True)) for row in (heads, *cells))
    lines += sum(1 + int(_width(note) // line) for note in table.notes)
    spec = _paragraphs(widths, sides, natural) if wraps else "".join(sides)
    return Layout(spec, turned or lines > LINES, turned)


def _body(table: Table, cells: Sequence[Sequence[str]]) -> list[str]:
    lines, above = [], None
    for row, texts in zip(table.entries, cells, strict=True):
        if above not in (None, row[0].text):
            lines.append(r"\addlinespace")
        above = row[0].text
        shown = [
            rf"\textbf{{{_latex(text)}}}" if entry.bold and text else _latex(text)
            for entry, text in zip(row, texts, strict=True)
        ]
        # After \\ a bracket or a star would be read as its argument.
        start = "{}" if shown[0].startswith(("[", "*")) else ""
        lines.append(rf"{start}{' & '.join(shown)} \\")
    return lines


def _widths(natural: Sequence[float], words: Sequence[float], line: float) -> list[float]:
    """For each column its longest word, and of what the line has left as it needs more up to its natural width."""
    more = [whole - word for whole, word in zip(natural, words, strict=True)]
    left = max(0.0, line - sum(words) - SEPARATION * len(words))
    share = min(1.0, left / sum(more)) if any(more) else 1.0
    return [max(1.0, word + share * extra) for word, extra in zip(words, more, strict=True)]


def _paragraphs(widths: Sequence[float], sides: Sequence[str], natural: Sequence[float]) -> str:
    """Column types that fill the line together; a column that needs no second line is none of paragraphs."""
    whole = sum(widths) + SEPARATION * len(widths)
    ragged = {"l": r"\raggedright", "r": r"\raggedleft"}
    spec = ""
    for width, side, one_line in zip(widths, sides, natural, strict=True):
        share = (width + SEPARATION) / whole
        paragraph = rf">{{{ragged[side]}\arraybackslash}}p{{\dimexpr{share:.4f}\linewidth-2\tabcolsep\relax}}"
        spec += side if width >= one_line else paragraph
    return spec


def _breakable(text: str) -> str:
    """The text on one line, with ``BREAK`` where its long words may break."""
    return " ".join(_pieces(word) if len(word) > LONG_WORD else word for word in text.replace(BREAK, "").split())


def _pieces(word: str) -> str:
    parts = re.split(r"(?<=[._/=,:;|+])(?=\w)", word)  # and after hyphens, where TeX breaks by itself
    return BREAK.join(part[at : at + PIECE] for part in parts for at in range(0, len(part), PIECE))


def _width(text: str) -> float:
    """Of a text in digits, roughly."""
    return sum(map(_character_width, text))


def _character_width(c: str) -> float:
    return 0.0 if c == BREAK else WIDE if c.isupper() or c in "mw%@" else NARROW if c in "fijlrt.,:;|'()[] " else 1.0


def _longest_word(text: str) -> float:
    return max(map(_width, re.split(rf"[\s{BREAK}]|(?<=-)", text)), default=0.0)


def _latex(text: str) -> str:
    shown = "".join(c if c == BREAK or (c.isprintable() and ord(c) < 0x100) else "?" for c in text)
    escaped = shown.translate(_SPECIAL)
    escaped = re.sub(r"(?<![\w)-])-(?=\d)", "$-$", escaped)
    return re.sub(r"([-,'])(?=\1)", r"\1{}", escaped)  # T1 makes other characters of two of these
