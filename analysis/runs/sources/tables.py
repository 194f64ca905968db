"""Tables: CSV with commas, semicolons or tabs, gzipped or not, and Parquet; read a part at a time."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.runs.load import AnalysisError
from analysis.runs.sources.source import Row, Source, one_of

CHUNK = 50_000  # rows in memory
MIN, MAX, JOINT = "__MIN", "__MAX", " - "  # of the columns of a chart that W&B's pages export


def table(file: Path, run_name: str | None = None) -> Source:
    """A table with a row a step, or several rows a step of which each has some of the columns.

    Of a chart exported from W&B's pages, whose columns are ``RUN - METRIC``, the metric's name is taken.
    Raises ``AnalysisError`` for what is no table.
    """
    if file.suffix == ".parquet":
        return Source("Parquet", (file,), lambda: _parquet(file))
    separator = _separator(file)
    try:
        header = list(pd.read_csv(file, sep=separator, nrows=0).columns)
    except (OSError, ValueError) as error:  # pandas' own are ValueErrors
        raise AnalysisError(f"{file}: not readable as CSV ({_line(error)})") from None
    names = exported(header, run_name, file)
    return Source("W&B (chart as CSV)" if names else "CSV", (file,), lambda: _csv(file, separator, header, names))


def exported(header: list[str], run_name: str | None, file: Path) -> dict[str, str]:
    """Column -> metric of a chart exported from W&B's pages; {} for any other table.

    Raises ``AnalysisError`` where there are several runs and it is not said which is meant.
    """
    charted = [name for name in header if JOINT in name and f"{name}{MIN}" in header and f"{name}{MAX}" in header]
    if not charted:
        return {}
    parts = {name: name.rpartition(JOINT) for name in charted}
    run = one_of(sorted({run for run, _, _ in parts.values()}), run_name, str(file))
    return {name: metric for name, (of, _, metric) in parts.items() if of == run}


def _csv(file: Path, separator: str, header: list[str], names: dict[str, str]) -> Iterator[Row]:
    kept = [name for name in header if not name.endswith((MIN, MAX)) and (JOINT not in name or name in names)]
    wanted = kept if names else header
    shown = [names.get(name, name) for name in wanted]
    try:
        with pd.read_csv(file, sep=separator, usecols=wanted, chunksize=CHUNK, low_memory=True) as chunks:
            for chunk in chunks:
                columns = [_values(chunk[name]) for name in wanted]
                for row in zip(*columns, strict=True):
                    yield dict(zip(shown, row, strict=True))
    except (OSError, EOFError, ValueError) as error:
        raise AnalysisError(f"{file}: not readable as CSV ({_line(error)}); is it all of the file?") from None


def _parquet(file: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(file) as parquet:
            plain = [
                field.name for field in parquet.schema_arrow if not pa.types.is_nested(field.type)
            ]  # lists and structures are no metrics
            for batch in parquet.iter_batches(CHUNK, columns=plain):
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise AnalysisError(f"{file}: not readable as Parquet ({_line(error)}); is it all of the file?") from None


def _values(column: pd.Series) -> list[Any]:
    """Empty cells as None: not recorded, which is not a value that is NaN."""
    return column.astype(object).where(column.notna(), None).tolist()


def _separator(file: Path) -> str:
    """The one of the usual separators that the first line has most of."""
    try:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
            first = stream.readline(1_000_000)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{file}: not readable as CSV ({_line(error)})") from None
    return max(",;\t", key=first.count)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
