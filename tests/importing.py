"""Importing in tests: the command line in this process, and what it wrote."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.runs import import_runs
from analysis.runs.load import Runs, load_runs

RECORDS = Path(__file__).parent / "records"  # of real runs; README.md there says how they were made
TRL_SEEDS = (20, 21, 22)


def imported(root: Path, *words: object, name: str = "cmp") -> int:
    """The exit code of ``python -m analysis import NAME WORDS``, with its run directories in ``root``."""
    return import_runs.main([name, *map(str, words), "--root", str(root)])


def only(root: Path) -> Runs:
    """The one imported run."""
    runs = load_runs(root)
    assert len(runs.runs) == 1
    return runs


def record_of(runs: Runs) -> dict[str, Any]:
    """What the one run's manifest says of its sources."""
    (manifest,) = runs.manifests.values()
    return manifest["imported"]


def write_lines(path: Path, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Path:
    """verl's JSONL."""
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in rows))
    return path


def write_trackio(path: Path, rows: Sequence[tuple[str, int, Mapping[str, Any]]], old: bool = False) -> Path:
    """A project's file in Trackio's tables: those of its first versions (``old``), or of 0.43."""
    first = "project_name TEXT NOT NULL" if old else "run_id TEXT NOT NULL"
    with sqlite3.connect(path) as database:
        database.execute(
            f"CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, {first}, timestamp TEXT NOT NULL, "
            "run_name TEXT NOT NULL, step INTEGER NOT NULL, metrics TEXT NOT NULL)"
        )
        for run, step, metrics in rows:
            database.execute(
                "INSERT INTO metrics VALUES (NULL, 'x', '2026-01-01', ?, ?, ?)", (run, step, json.dumps(metrics))
            )
        if not old:
            database.execute(
                "CREATE TABLE configs (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, "
                "run_name TEXT NOT NULL, config TEXT NOT NULL, created_at TEXT NOT NULL, UNIQUE(run_id))"
            )
            config = json.dumps({"learning_rate": 1e-5, "seed": 4, "max_steps": 3, "_Username": "x"})
            database.execute("INSERT INTO configs VALUES (NULL, 'x', ?, ?, '2026-01-01')", (rows[0][0], config))
    database.close()
    return path
