"""Runs as views of a DuckDB database: runs, steps, sequences, evaluations. Parquet files are read by the query."""

import math
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb
import pandas as pd

from analysis.runs.load import KEYS, AnalysisError, Runs
from harness.rundir import EVAL_COLUMNS, RENAMED, SEQUENCE_COLUMNS, STANDARD_METRICS, ResponseFile, RunDir

KEY_COLUMNS = {
    "run": "<experiment>/<arm>/seed=<n>, unique",
    "experiment": "its experiment",
    "arm": "its loss, with what else it differs in",
    "algo": "its loss",
    "seed": "its seed",
}
RUN_COLUMNS = {
    "clip": "the clip range's name",
    "fingerprint": "hash of all settings that runs must have in common to be compared",
    "state": "planned, running, done, failed or incomplete",
    "last_step": "the last step with training metrics",
    "planned_steps": "steps that it was to train",
    "minutes": "of training, over all attempts",
    "path": "its directory",
    "error": "why it failed, one line",
    "cause": "of a failure, one word",
}
TEXTS = frozenset({*KEYS, "benchmark", "outcome", "answer", "settings"} - {"seed"})
VIEWS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "runs": ("one row a run, failed ones included", KEY_COLUMNS | RUN_COLUMNS),
    "steps": (
        "one row a run and step, a column a metric; null where it was not recorded",
        KEY_COLUMNS | {"step": "rollout step, from 1; 0: validation before training"} | STANDARD_METRICS,
    ),
    "sequences": ("one row a response", KEY_COLUMNS | SEQUENCE_COLUMNS),
    "evaluations": (
        "one row a question and sample",
        KEY_COLUMNS | {"benchmark": "name of the benchmark"} | EVAL_COLUMNS,
    ),
}


def described() -> str:
    """What the lists of columns leave out."""
    return (
        "steps also has every other metric that these runs recorded, sequences a column reward_<part> for each part of "
        "the reward.\nA name with other characters than letters, digits and _ is written in double quotes: "
        '"actor/lr". Of two runs, one column may be null where only the other recorded it.'
    )


def with_views(runs: Runs) -> duckdb.DuckDBPyConnection:
    """A database in memory with the views of ``VIEWS``, and no others; it can write no file.

    sequences and evaluations are there, without rows, where no run has any. Raises ``AnalysisError`` for a file of
    theirs that cannot be read.
    """
    connection = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "python_enable_replacements": "false",  # no variable of this program is a table
            "temp_directory": tempfile.gettempdir(),  # else where the user is
        }
    )
    frame = runs.runs.drop(columns="warnings")
    connection.register("runs", frame)
    connection.register("steps", runs.metrics)
    files = {str(row["run"]): RunDir(Path(row["path"])) for row in runs.runs.to_dict("records")}
    responses = [(run, file) for run, rundir in files.items() for file in rundir.response_files()]
    _view(connection, "sequences", KEY_COLUMNS | SEQUENCE_COLUMNS, responses)
    evals = [(run, name, ResponseFile(file)) for run, rundir in files.items() for name, file in rundir.evals().items()]
    _view(connection, "evaluations", VIEWS["evaluations"][1], [(run, file) for run, _, file in evals], benchmark=True)
    return connection


def _view(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: Mapping[str, str],
    files: Iterable[tuple[str, ResponseFile]],
    benchmark: bool = False,
) -> None:
    """The view ``name`` of the rows of Parquet ``files`` (run, file) with the keys of their runs in front."""
    files = list(files)
    keys = ", ".join(f"r.{key}" for key in KEYS)
    if not files:
        typed = (f"CAST(NULL AS {_type(column)}) AS {_quoted(column)}" for column in columns)
        connection.execute(f"CREATE VIEW {name} AS SELECT {', '.join(typed)} WHERE false")
        return
    of = {str(file.path): (run, file.before) for run, file in files}
    before = [math.inf if limit == math.inf else float(limit) for _, limit in of.values()]
    table = {"file": list(of), "of_run": [run for run, _ in of.values()], "before": before}
    table |= {"benchmark": [Path(file).stem for file in of]} if benchmark else {}
    connection.register(f"_{name}_files", pd.DataFrame(table))
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in of)
    # Old files have other names for some columns: a name of today is its own value or the old one's.
    rows = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false, filename = '_file')"
    try:  # now, so that it is said which file cannot be read
        there = [str(row[0]) for row in connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()]
    except duckdb.Error as error:
        raise AnalysisError(f"{name}: not readable ({' '.join(str(error).split())})") from None
    old: dict[str, list[str]] = {}
    for column in there:
        if column != "_file":
            old.setdefault(RENAMED.get(column, column), []).append(column)
    own = ", ".join(  # a key of the run is never taken from a file
        f"COALESCE({', '.join(_quoted(column) for column in names)}) AS {_quoted(name)}"
        for name, names in old.items()
        if name not in (*KEYS, "benchmark")
    )
    also = ", f.benchmark" if benchmark else ""
    where = "" if benchmark else "WHERE s.step < f.before"
    connection.execute(
        f"CREATE VIEW {name} AS SELECT {keys}{also}, {own} FROM {rows} s "
        f"JOIN _{name}_files f ON s._file = f.file JOIN runs r ON r.run = f.of_run {where}"
    )


def _type(column: str) -> str:
    return "VARCHAR" if column in TEXTS else "BIGINT" if column == "seed" else "DOUBLE"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
