"""W&B: the file of an offline run, ``offline-run-*/run-*.wandb``, and runs of its server.

The file is a log of LevelDB's format after a header of 7 bytes (``:W&B``, magic, version), one protobuf ``Record`` of
wandb's a log record. wandb itself has no reader of it in Python.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from analysis.runs.load import AnalysisError
from analysis.runs.sources.source import Row, Source

IDENT = b":W&B"
HEADER = 7  # bytes: of the file, and of a log record (CRC-32, length, kind)
BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
ADDRESS = "wandb:"  # begins what is asked of the server: wandb:ENTITY/PROJECT/RUN


def offline_run(file: Path) -> Source:
    """An offline run's metrics, configuration and exit code. A torn end, as of a killed run, is left out and said.

    Raises ``AnalysisError`` for a file that is none of W&B's.
    """
    with _opened(file) as stream:
        if stream.read(HEADER)[:4] != IDENT:
            raise AnalysisError(f"{file}: not a file of W&B (it does not begin with :W&B)")
    source = Source("W&B (offline)", (file,), lambda: _history(file, source.notes))
    config: dict[str, Any] = {}
    for record in _records(file, []):
        for update in (*record.run.config.update, *record.config.update):
            _set(config, list(update.nested_key) or [update.key], _value(update.value_json))
        if record.WhichOneof("record_type") == "exit":
            source.exit_code = record.exit.exit_code
    source.settings = {key: value for key, value in config.items() if key != "_wandb"}
    return source


def online_run(address: str, api: Any = None) -> Source:
    """``wandb:ENTITY/PROJECT/RUN``, all that it logged; ``api``: a ``wandb.Api``, by default one with the usual login.

    Raises ``AnalysisError``: no login, no network, no such run.
    """
    try:
        if api is None:
            import wandb

            api = wandb.Api()
        run = api.run(address.removeprefix(ADDRESS))
        source = Source("W&B", (), run.scan_history, settings=dict(run.config), where=run.url)
    except Exception as error:  # noqa: BLE001  (W&B raises its own, ValueError, requests' and bare ones)
        said = " ".join(str(error).split()) or type(error).__name__
        raise AnalysisError(f"{address}: cannot be read ({said})") from None
    source.exit_code = {"finished": 0, "failed": 1}.get(run.state)  # of a crashed one nobody knows
    return source


def _history(file: Path, notes: list[str]) -> Iterator[Row]:
    for record in _records(file, notes):
        if record.WhichOneof("record_type") != "history":
            continue
        row: dict[str, Any] = {"_step": record.history.step.num}
        for item in record.history.item:
            row[".".join(item.nested_key) or item.key] = _value(item.value_json)
        yield row


def _records(file: Path, notes: list[str]) -> Iterator[Any]:
    """Each ``Record``, one in memory at a time; what follows a damaged one is left out, with a note."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    record_type: Any = getattr(wandb_internal_pb2, "Record")  # noqa: B009  (made when the module is imported)
    with _opened(file) as stream:
        stream.seek(HEADER)
        for content in _log(stream, HEADER):
            try:
                if content is None:
                    raise DecodeError
                record = record_type()
                record.ParseFromString(content)
            except DecodeError:
                notes.append(f"{file}: damaged or torn near byte {stream.tell():,}; what follows is left out")
                return
            yield record


def _log(stream: Any, at: int) -> Iterator[bytes | None]:
    """The records of a log from byte ``at``; None, and no more, where it is torn."""
    whole = b""
    while True:
        left = BLOCK - at % BLOCK
        if left < HEADER:  # a block's end, too short for a record
            stream.seek(left, 1)
            at += left
        head = stream.read(HEADER)
        if len(head) < HEADER:
            if head or whole:
                yield None
            return
        _, length, kind = struct.unpack("<IHB", head)
        content = stream.read(length)
        at += HEADER + length
        if kind == 0 and length == 0:  # zeros at the end of a file that was not closed
            return
        if len(content) < length or kind not in (FULL, FIRST, MIDDLE, LAST):
            yield None
            return
        whole = content if kind in (FULL, FIRST) else whole + content
        if kind in (FULL, LAST):
            yield whole
            whole = b""


def _opened(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise AnalysisError(f"{file}: not readable ({error.strerror})") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _set(config: dict[str, Any], path: Iterable[str], value: Any) -> None:
    *above, last = path
    for name in above:
        inner = config.setdefault(name, {})
        config = inner if isinstance(inner, dict) else {}
    if isinstance(value, Mapping) and set(value) == {"desc", "value"}:  # as config.yaml has it
        value = value["value"]
    config[last] = value
