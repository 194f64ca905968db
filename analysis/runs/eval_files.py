"""The files that other tools write their answers into, whatever their names end with: JSON, Parquet, CSV, TSV, XLSX."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import pandas as pd
import pyarrow.parquet as pq

from analysis.runs.frames import parse_line
from analysis.runs.load import AnalysisError

# First bytes of files that are not read, and what to do about them.
NOT_READ = {
    b"\xd0\xcf\x11\xe0": "an Excel file of before 2007; save it as .xlsx or CSV",
    b"\x1f\x8b": "compressed with gzip; unpack it first: gunzip FILE",
    b"\x80": "a Python pickle, which can run code when it is read; let its tool write CSV, TSV or XLSX",
}
SEPARATORS = {",": "CSV", ";": "CSV with semicolons", "\t": "TSV", "|": "CSV with bars"}  # of equally good, the first
TEXT = {"question": str, "index": str}  # these columns may be text or integers: "007" stays what it is
SHOWN = 12  # names of columns in a message


class Answers(NamedTuple):
    """Answers as ``import_evals`` takes them.

    frame: question, sample, correct, tokens, ``where`` it was found, perhaps truncated and outcome.
    settings: all that is known of how they were sampled and graded. form: what was read, in words.
    """

    frame: pd.DataFrame
    settings: dict[str, Any]
    form: str


@dataclass(frozen=True)
class Content:
    """What a file holds, as rows and as a frame of them; ``where[i]`` names row i, ``form`` is the file's in words."""

    file: Path
    form: str
    where: list[str]
    rows: list[dict[str, Any]]
    frame: pd.DataFrame

    @property
    def columns(self) -> str:
        """Its columns in words, as far as a message has room."""
        names = [str(name) for name in self.frame.columns]
        return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") or "none"


def read_content(file: Path) -> Content:
    """What the file holds; its first bytes say how to read it.

    Raises ``AnalysisError``, one line that names file and place: no such file, none of the formats, or a broken one.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise AnalysisError(f"{file}: not readable ({error.strerror})") from None
    for magic, what in NOT_READ.items():
        if content.startswith(magic):
            raise AnalysisError(f"{file}: not readable ({what})")
    try:
        if content.startswith(b"PAR1"):
            return _parquet(file, content)
        if content.startswith(b"PK\x03\x04"):
            return _excel(file, content)
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if not text.strip():
            raise AnalysisError(f"{file}: not readable (the file is empty)")
        if text.lstrip()[0] == "[":
            return _json_array(file, text)
        return _json_lines(file, text) if text.lstrip()[0] == "{" else _delimited(file, text)
    except ImportError:
        raise AnalysisError(f"{file}: an Excel file needs openpyxl: pip install openpyxl; or save it as CSV") from None
    except UnicodeDecodeError:
        raise AnalysisError(f"{file}: not readable (neither UTF-8 text, Parquet nor XLSX; save it as UTF-8)") from None
    except (OSError, ValueError, KeyError, BadZipFile) as error:  # of pandas, pyarrow and openpyxl, too
        raise AnalysisError(f"{file}: not readable ({' '.join(str(error).split())})") from None


def value(row: Mapping[str, Any], name: str, where: str) -> Any:
    """A value of a row by its key, or by keys and places joined with dots, such as ``token_counts.0.output_tokens``.

    Raises ``AnalysisError`` with what is there if that is not.
    """
    if name in row:
        return row[name]
    found: Any = row
    try:
        for key in name.split("."):
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (KeyError, IndexError, ValueError, TypeError):
        raise AnalysisError(f"{where}: has no {name}; there are {', '.join(map(str, row))}") from None
    return found


def _table(file: Path, form: str, frame: pd.DataFrame) -> Content:
    frame = frame.reset_index(drop=True)
    where = [f"{file}, row {at + 1}" for at in range(len(frame))]
    return Content(file, form, where, [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")], frame)


def _parquet(file: Path, content: bytes) -> Content:
    table = pq.read_table(io.BytesIO(content))
    flat = all(field.type.num_fields == 0 for field in table.schema)
    # Nested values come as dicts and lists; pandas alone would make arrays of arrays of the lists.
    return _table(file, "Parquet", table.to_pandas() if flat else pd.DataFrame(table.to_pylist(), dtype=object))


def _excel(file: Path, content: bytes) -> Content:
    sheets = pd.read_excel(io.BytesIO(content), sheet_name=None, dtype=TEXT, engine="openpyxl")
    filled = {name: sheet for name, sheet in sheets.items() if len(sheet.columns)}
    if len(filled) != 1:
        raise AnalysisError(f"{file}: {len(filled)} sheets that are not empty ({', '.join(filled)}); keep one")
    return _table(file, "XLSX", next(iter(filled.values())))


def _delimited(file: Path, text: str) -> Content:
    head = text.lstrip().split("\n", 1)[0]
    separator = max(SEPARATORS, key=lambda one: len(next(csv.reader([head], delimiter=one))))
    # Where the semicolon separates, the comma is the decimal mark.
    frame = pd.read_csv(io.StringIO(text), sep=separator, decimal="," if separator == ";" else ".", dtype=TEXT)
    if not isinstance(frame.index, pd.RangeIndex):
        raise AnalysisError(f"{file}, row 1: more values than the {len(frame.columns)} columns that the head names")
    return _table(file, SEPARATORS[separator], frame)


def _json_array(file: Path, text: str) -> Content:
    rows = json.loads(text)
    return _json(file, "JSON array", [f"{file}, item {at + 1}" for at in range(len(rows))], rows)


def _json_lines(file: Path, text: str) -> Content:
    where, rows = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(parse_line(line.encode()))
            except ValueError as error:
                if not rows and (keys := _one_object(text)):
                    raise AnalysisError(
                        f"{file}: one JSON object with {keys}: totals of an evaluation, no answers; give the file of "
                        "its samples, such as samples_*.jsonl of lm-evaluation-harness --log_samples"
                    ) from None
                raise AnalysisError(f"{file}:{number}: not JSON ({error})") from None
            where.append(f"{file}:{number}")
    return _json(file, "JSON lines", where, rows)


def _one_object(text: str) -> str:
    """The keys of a text that is one indented JSON object, "" for any other."""
    try:
        return ", ".join(list(json.loads(text))[:SHOWN])
    except ValueError:
        return ""


def _json(file: Path, form: str, where: list[str], rows: list[Any]) -> Content:
    if not rows:
        raise AnalysisError(f"{file}: no answers in it (an empty {form})")
    for place, row in zip(where, rows, strict=True):
        if not isinstance(row, dict):
            raise AnalysisError(f"{place}: {type(row).__name__}, not a JSON object with the values of one answer")
    return Content(file, form, where, rows, pd.DataFrame(rows, dtype=object))
