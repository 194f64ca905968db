"""Trackio: the SQLite file of a project, ``PROJECT.db``, in the tables of its versions 0.1 to 0.43.

metrics: run_name, step, metrics (JSON). configs, of later versions: run_name, config (JSON).
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from analysis.runs.load import AnalysisError
from analysis.runs.sources.source import Row, Source, one_of

MAGIC = b"SQLite format 3\x00"


def trackio_run(file: Path, run_name: str | None = None) -> Source:
    """One run of a project; a copy of the file is read, as SQLite may write beside one that it opens.

    Raises ``AnalysisError``: no database of Trackio, or several runs and none is named.
    """
    with _database(file) as database:
        names = [str(name) for (name,) in _asked(database, file, "SELECT DISTINCT run_name FROM metrics ORDER BY 1")]
        name = one_of(names, run_name, str(file))
        tables = [table for (table,) in _asked(database, file, "SELECT name FROM sqlite_master WHERE type = 'table'")]
        configs = "SELECT config FROM configs WHERE run_name = ? ORDER BY created_at"
        found = list(_asked(database, file, configs, name)) if "configs" in tables else []

    def rows() -> Iterator[Row]:
        with _database(file) as database:
            wanted = "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id"
            for step, text in _asked(database, file, wanted, name):
                content = _json(text)
                yield {**content, "_step": step}

    return Source("Trackio", (file,), rows, settings=_json(found[-1][0]) if found else {})


@contextmanager
def _database(file: Path) -> Iterator[sqlite3.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy = Path(shutil.copyfile(file, Path(folder) / file.name))
            log = file.with_name(f"{file.name}-wal")  # what was written last, while a run goes on
            if log.exists():
                shutil.copyfile(log, copy.with_name(log.name))
        except OSError as error:
            raise AnalysisError(f"{file}: not readable ({error.strerror})") from None
        with closing(sqlite3.connect(copy)) as database:
            yield database


def _asked(database: sqlite3.Connection, file: Path, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
    try:
        yield from database.execute(query, values)
    except sqlite3.Error as error:
        raise AnalysisError(f"{file}: not a readable database of Trackio ({error})") from None


def _json(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
