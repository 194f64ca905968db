"""Records in JSON: verl's file logger, a line a step, and the ``trainer_state.json`` of transformers and TRL."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.runs.frames import parse_line
from analysis.runs.load import AnalysisError
from analysis.runs.sources.source import Row, Source, listed

STATE = "trainer_state.json"
CHECKPOINT = "checkpoint-"
LARGEST = 2**30  # bytes of a JSON file, which can only be read whole


def json_lines(file: Path) -> Iterator[Any]:
    """Each line's value, one in memory at a time; raises ``AnalysisError`` with file and line for one that is none.

    A last line without an end, as a killed writer leaves it, is passed over where it is torn.
    """
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    yield parse_line(line)
                except ValueError as error:
                    if not line.endswith(b"\n"):
                        return
                    raise AnalysisError(f"{file}:{number}: not JSON ({error})") from None
    except OSError as error:
        raise AnalysisError(f"{file}: not readable ({error.strerror})") from None


def verl_file(file: Path) -> Source:
    """The JSONL of verl's ``file`` logger, ``{"step": n, "data": {...}}`` a line. Flat lines with a step will do."""
    notes: list[str] = []

    def rows() -> Iterator[Row]:
        for at, line in enumerate(json_lines(file), 1):
            if not isinstance(line, dict):
                raise AnalysisError(f"{file}: line {at} is no object; expected {{'step': 1, 'data': {{...}}}}")
            data = line.get("data")
            yield {**data, "step": line.get("step")} if isinstance(data, dict) else line
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 1))
            if stream.read() not in (b"", b"\n"):
                notes.append(f"{file}: its last line has no end; where it is torn it is left out")

    first = next(json_lines(file), {})
    framework = "verl" if isinstance(first, dict) and isinstance(first.get("data"), dict) else "JSON lines"
    return Source(framework, (file,), rows, notes=notes)


def trainer_state(path: Path) -> Source:
    """``trainer_state.json``, or of a folder the one that has gone furthest: its own, or that of a checkpoint.

    Raises ``AnalysisError`` for one that is torn, or that is of something else.
    """
    files = [path] if path.is_file() else state_files(path)
    states = {file: _state(file) for file in files}
    file = max(states, key=lambda one: (states[one].get("global_step") or 0, -files.index(one)))
    history = states[file].get("log_history")
    if not isinstance(history, list) or not all(isinstance(row, dict) for row in history):
        raise AnalysisError(f"{file}: has no log_history, so it is no trainer_state.json of transformers")
    names = {name for row in history for name in row}
    framework = "TRL" if any(name.startswith(("completions/", "rewards/")) for name in names) else "transformers"
    planned = states[file].get("max_steps")
    notes = []
    if (every := states[file].get("logging_steps")) and isinstance(every, int | float) and every > 1:
        notes.append(
            f"{file}: logged every {every:g} steps; --per-step {math.ceil(every)} makes one step of them, for runs "
            "that are to be compared on that axis"
        )
    if len(files) > 1:
        others = [f"{one.parent.name}/{one.name}" for one in files if one != file]
        notes.append(f"{file}: taken, as it goes furthest; not read: {listed(others, 3)}")
    return Source(framework, (file,), lambda: iter(history), planned=planned if planned else None, notes=notes)


def state_files(folder: Path) -> list[Path]:
    """The folder's own file of the trainer's state, and those of its checkpoints."""
    own = [folder / STATE] if (folder / STATE).is_file() else []
    return own + sorted(folder.glob(f"{CHECKPOINT}*/{STATE}"))


def _state(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST:
            raise AnalysisError(f"{file}: larger than 1 GiB, which cannot be read whole; give its table as CSV")
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise AnalysisError(f"{file}: not readable ({error.strerror})") from None
    except ValueError as error:
        raise AnalysisError(f"{file}: not valid JSON ({error}); is it all of the file?") from None
    return content if isinstance(content, dict) else {}
