"""Frames that were read from run directories, kept as Parquet: the second load of the same files only stats them.

A run has a file of its metrics and one of its sequences. Each carries a stamp of the files it was read from; where the
stamp is another one, or the file cannot be read, it is made again. Nothing is written into a run directory.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

VARIABLE = "ANALYSIS_CACHE"
DEFAULT = Path("results/.cache")  # where there is a folder results
FORMAT = 1  # to be raised whenever the same files would give other frames
# A file changed within its system's clock tick keeps its time stamp, so what is younger than this is not kept.
SETTLED_SECONDS = 2.0
NOTES = b"analysis"

Frame = tuple[pd.DataFrame, dict[str, Any]]  # and what else was found while reading it, as JSON would hold it


def cache_folder() -> Path | None:
    """The folder that ANALYSIS_CACHE names (empty: none), by default ``results/.cache`` of the current folder; None if
    it cannot be written."""
    given = os.environ.get(VARIABLE)
    if given == "" or (given is None and not DEFAULT.parent.is_dir()):
        return None
    folder = Path(given) if given else DEFAULT
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder.resolve() if os.access(folder, os.W_OK | os.X_OK) else None


def cached(
    folder: Path | None,
    run: str,
    kind: str,
    files: Sequence[Path],
    build: Callable[[], Frame | None],
    columns: Sequence[str] | None = None,
) -> Frame | None:
    """The frame that ``build`` reads from ``files``, from the cache if they are unchanged since, with its notes.

    ``columns``: those of them that exist, all by default. None where nothing can be kept: without a folder, while a
    file is being written, or if ``build`` returns None. Whatever is wrong with the cache itself raises nothing; the
    errors of ``build`` pass.
    """
    if folder is None or (stamp := _stamp(files)) is None:
        return None
    # Warnings name the run as it was given, so each way to name it has a file of its own.
    name = hashlib.sha256(f"{Path(run).resolve()}\0{run}".encode()).hexdigest()[:24]
    path = folder / f"{name}.{kind}.parquet"
    found = _read(path, stamp, columns)
    if found is None and (found := build()) is not None:
        frame, notes = found
        _write(path, stamp, frame, notes)
        return _chosen(frame, columns), notes
    return found


def _stamp(files: Sequence[Path]) -> str | None:
    """Digest of names, sizes and times of the files that exist; None if one was changed a moment ago."""
    limit = time.time_ns() - int(SETTLED_SECONDS * 1e9)
    parts: list[Any] = [FORMAT, pd.__version__]
    for file in files:
        try:
            stat = os.stat(file)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        if max(stat.st_mtime_ns, stat.st_ctime_ns) > limit:
            return None
        # The change time too: the time of modification can be set to what it was.
        parts.append([str(file), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(path: Path, stamp: str, columns: Sequence[str] | None) -> Frame | None:
    """What is kept at ``path`` under ``stamp``; None if that is nothing, something older or damaged."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            kept = json.loads((file.schema_arrow.metadata or {})[NOTES])
            if kept["stamp"] != stamp:
                return None
            table = file.read(None if columns is None else [c for c in columns if c in file.schema_arrow.names])
        return _chosen(table.to_pandas(), columns), kept["notes"]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _chosen(frame: pd.DataFrame, columns: Sequence[str] | None) -> pd.DataFrame:
    return frame if columns is None else frame[[column for column in columns if column in frame]]


def _write(path: Path, stamp: str, frame: pd.DataFrame, notes: dict[str, Any]) -> None:
    """Keep a frame, whole or not at all: written beside its place and renamed."""
    draft = None
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        kept = json.dumps({"stamp": stamp, "notes": notes}).encode()
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), NOTES: kept})
        number, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(number)
        # Numbers that hardly repeat: dictionaries and statistics take longer and save no space.
        plain: dict[str, Any] = {"use_dictionary": False, "write_statistics": False}
        pq.write_table(table, draft, compression="zstd", write_page_checksum=True, **plain)
        os.replace(draft, path)
    except (OSError, pa.ArrowException):  # a full disk, a folder that is gone, a value that Parquet does not know
        if draft is not None:
            with contextlib.suppress(OSError):
                os.unlink(draft)
