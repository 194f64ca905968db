"""The files of a data set, from a folder or the hub, and their rows, a batch at a time."""

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import pyarrow as pa
import pyarrow.parquet as pq

from harness.config import ConfigError
from harness.tasks.hub.table import DataSet, HubFile, Layout

CONNECT_SECONDS = 3.0
BATCH = 4096  # rows in memory at a time
COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/")  # in the hub's cache


@dataclass(frozen=True)
class Source:
    """A file of the table and where it lies on this machine."""

    file: HubFile
    path: Path

    def card(self) -> dict[str, Any]:
        """What the data card says of it. The revision is None for a file that is not known to be the published one."""
        with self.path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        cached = COMMIT.search(str(self.path.absolute()))
        published = self.file.revision if sha256 == self.file.sha256 else None
        revision = cached.group(1) if cached else published
        return {"repo": self.file.repo, "file": self.file.path, "revision": revision, "sha256": sha256}


def find(name: str, data_set: DataSet, folder: Path | None) -> dict[HubFile, Source]:
    """Every file of a data set: in ``folder`` (as in the repository, or flat), else downloaded. ``ConfigError``."""
    if folder is None:
        return {file: Source(file, _download(name, data_set, file)) for file in data_set.files}
    found = {}
    for file in data_set.files:
        places = [folder / file.path, folder / Path(file.path).name]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise ConfigError(f"{name}: {places[0]} is missing; {_wanted(data_set)}")
        found[file] = Source(file, path)
    return found


def _download(name: str, data_set: DataSet, file: HubFile) -> Path:
    import httpx
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    cached = try_to_load_from_cache(file.repo, file.path, repo_type="dataset", revision=file.revision)
    if isinstance(cached, str):
        return Path(cached)
    if not constants.HF_HUB_OFFLINE and (why := _unreachable(constants.ENDPOINT)):  # the hub's client tries for long
        raise ConfigError(f"{name}: {constants.ENDPOINT} cannot be reached ({why}); {_wanted(data_set)}")
    try:
        return Path(hf_hub_download(file.repo, file.path, repo_type="dataset", revision=file.revision))
    except (OSError, EntryNotFoundError, httpx.HTTPError) as error:
        raise ConfigError(
            f"{name}: {file.repo}/{file.path} cannot be downloaded ({type(error).__name__}); {_wanted(data_set)}"
        ) from None


def _unreachable(endpoint: str) -> str:
    """Why no connection to the hub's host can be made within seconds; "" where one can, or a proxy does it."""
    if getproxies():
        return ""
    url = urlsplit(endpoint)
    try:
        socket.create_connection((url.hostname, url.port or 443), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return str(error)
    return ""


def _wanted(data_set: DataSet) -> str:
    files = ", ".join(
        f"{file.path} of https://huggingface.co/datasets/{file.repo} (revision {file.revision})"
        for file in data_set.files
    )
    return f"put {files} into a folder FOLDER and give --source FOLDER"


def rows(path: Path, layout: Layout) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file or of JSON lines; raises ``ConfigError`` where it is unreadable or lacks a column."""
    return _json_lines(path, layout) if path.suffix == ".jsonl" else _parquet(path, layout)


def _parquet(path: Path, layout: Layout) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            _has_columns(path, layout, file.schema_arrow.names)
            for batch in file.iter_batches(BATCH, columns=layout.columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: not a readable parquet file ({type(error).__name__})") from None


def _json_lines(path: Path, layout: Layout) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:  # bytes that are no UTF-8 included
                row = None
            if not isinstance(row, dict):
                raise ConfigError(f"{path}: line {number} is not a JSON object")
            _has_columns(path, layout, list(row))
            yield row


def _has_columns(path: Path, layout: Layout, there: list[str]) -> None:
    missing = [column for column in layout.columns if column not in there]
    if missing:
        raise ConfigError(f"{path}: no column {', '.join(missing)}; there are {', '.join(there)}")


def at(row: dict[str, Any], path: str) -> Any:
    """The value at a dotted path of ``Layout``; None where there is none."""
    value: Any = row
    for part in path.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return value
