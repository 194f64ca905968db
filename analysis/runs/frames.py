"""The files of one run as frames: metrics in JSON lines, sequences and evaluations in Parquet.

All raise ``RunDirError``, one line that names the file, where one cannot be read.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.rundir import EVAL_COLUMNS, RENAMED, ResponseFile, RunDirError, is_trained, merge_metrics

RESERVED = {"run", "experiment", "arm", "algo", "seed", "step"}  # columns of ``Runs.metrics`` that are no metrics
NUMBERS = {float, int, bool, type(None)}  # JSON's types that a metric may have; null is missing


@dataclass(frozen=True)
class Table:
    """Metrics by step: ``values[i, j]`` is metric ``names[j]`` at ``steps[i]``, NaN where it is missing."""

    steps: np.ndarray
    names: list[str]
    values: np.ndarray


def read_metrics(attempts: Sequence[Path], run: str) -> tuple[Table, dict[str, Any]]:
    """A run's attempts, merged (``rundir.merge_metrics``), and notes: last_step (with training metrics), warnings.

    ``run``: the run's path, which names it in warnings. Raises ``RunDirError`` for a bad line.
    """
    steps, warnings = merge_metrics(attempts, parse_line)
    table, dropped = metrics_table(steps)
    if dropped:
        warnings.append(f"{run}: metrics that are no numbers, dropped: {', '.join(dropped)}")
    last = max((step for step, data in steps.items() if is_trained(data)), default=0)
    return table, {"last_step": last, "warnings": warnings}


def parse_line(line: bytes) -> Any:
    """A line of JSON as ``json.loads`` reads it, NaN and Infinity included, several times as fast."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)


def metrics_table(steps: Mapping[int, Mapping[str, Any]]) -> tuple[Table, list[str]]:
    """``{step: {metric: value}}`` as a table, null and absent as NaN.

    Values that are no numbers are dropped, as are metrics that are named like a key; their names are returned.
    """
    rows = list(steps.values())
    alike: dict[tuple[str, ...], list[int]] = {}  # rows with the same metrics become an array at once
    for at, row in enumerate(rows):
        alike.setdefault(tuple(row), []).append(at)
    dropped: set[str] = set()
    numbers = np.fromiter(steps, np.int64, len(steps))
    blocks = [
        Table(numbers[at], *_block(names, [rows[i].values() for i in at], dropped)) for names, at in alike.items()
    ]
    whole = stacked(blocks)
    order = np.argsort(whole.steps)
    return Table(whole.steps[order], whole.names, whole.values[order]), sorted(dropped)


def stacked(tables: Sequence[Table], first: Iterable[str] = ()) -> Table:
    """Tables one below the other, with the metrics of ``first`` and then all others in the order they appear."""
    names = list(dict.fromkeys(chain(first, *(table.names for table in tables))))
    place = {name: at for at, name in enumerate(names)}
    values = np.full((sum(len(table.steps) for table in tables), len(names)), np.nan)
    row = 0
    for table in tables:
        values[row : row + len(table.steps), [place[name] for name in table.names]] = table.values
        row += len(table.steps)
    return Table(np.concatenate([np.empty(0, np.int64), *(table.steps for table in tables)]), names, values)


def read_sequences(files: Sequence[ResponseFile], columns: Sequence[str] | None) -> pd.DataFrame:
    """The files of a run's responses one below the other, with ``columns`` (None: all).

    Raises ``RunDirError`` naming a file that cannot be read or lacks a column.
    """
    tables = []
    for file in files:
        wanted = columns if columns is None or file.before == math.inf else [*{*columns, "step"}]
        table = _read_parquet(file.path, wanted)
        if file.before < math.inf:
            table = table.filter(pc.less(table["step"], file.before))
        tables.append(table if columns is None else table.select(list(columns)))
    return pa.concat_tables(tables, promote_options="permissive").to_pandas()


def read_eval(file: Path) -> pd.DataFrame:
    """``EVAL_COLUMNS`` of an evaluation; settings and answer are "" where they were not recorded yet.

    Raises ``RunDirError`` if a question and sample is there twice or a column is missing.
    """
    frame = _read_parquet(file).to_pandas()
    for name in ("settings", "answer"):
        if name not in frame:
            frame[name] = ""
    frame["answer"] = frame["answer"].fillna("")  # an evaluation that was begun before it was recorded
    _require_columns(file, frame.columns, list(EVAL_COLUMNS))
    frame = frame[list(EVAL_COLUMNS)]
    twice = frame[frame.duplicated(["step", "question", "sample"])]
    if len(twice):  # it would weigh double
        question, sample = twice[["question", "sample"]].iloc[0]
        raise RunDirError(f"{file}: question {question}, sample {sample} is there twice")
    return frame


def _block(names: tuple[str, ...], rows: list[Any], dropped: set[str]) -> tuple[list[str], np.ndarray]:
    """Rows of the same metrics as an array, and its columns: those with any number or null, other values as NaN."""
    if set(map(type, chain.from_iterable(rows))) <= NUMBERS and RESERVED.isdisjoint(names):
        return list(names), np.array(list(map(tuple, rows)), dtype=float).reshape(len(rows), len(names))
    kept = {}
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        numeric = [type(value) in NUMBERS and name not in RESERVED for value in column]
        if not all(numeric):
            dropped.add(name)
        if any(numeric):
            kept[name] = [value if fits else None for value, fits in zip(column, numeric, strict=True)]
    return list(kept), np.array(list(kept.values()), dtype=float).reshape(len(kept), len(rows)).T


def _read_parquet(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A file, without the threads and the discovery of folders that pandas would start for it, read at once."""
    try:
        with pq.ParquetFile(pa.BufferReader(file.read_bytes())) as parquet:
            there = {
                RENAMED.get(name, name): name for name in map(str, parquet.schema_arrow.names)
            }  # today's name -> the file's
            _require_columns(file, list(there), columns)
            wanted = list(there if columns is None else columns)
            table = parquet.read([there[name] for name in wanted], use_threads=False)
            table = table.select([there[name] for name in wanted]).rename_columns(wanted)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors derive from these
        raise RunDirError(f"{file}: not readable ({' '.join(str(error).split())})") from None
    # pandas's note of the index does not fit several files put together.
    return table.replace_schema_metadata(None)


def _require_columns(file: Path, there: Sequence[str] | pd.Index, columns: Sequence[str] | None) -> None:
    if missing := [column for column in columns or () if column not in there]:
        raise RunDirError(f"{file}: has no column {', '.join(missing)}")
