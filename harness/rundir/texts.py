"""texts.jsonl: a few responses of a run as text, so that what a model writes can be read beside another's."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.rundir.files import RunDirError
from harness.rundir.run import RunDir

TEXTS = "texts.jsonl"


def append_texts(attempt: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add lines (keys: ``TEXT_COLUMNS``) to an attempt's file. Signs that no file can hold become question marks."""
    lines = "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    with (attempt / TEXTS).open("a", encoding="utf-8", errors="replace") as file:
        file.write(lines)


def read_texts(run: RunDir) -> list[dict[str, Any]]:
    """The texts of all attempts, in order; from where a later attempt continued, the earlier one's no longer count.

    [] of a run that recorded none. A torn last line is left out: a killed run leaves one. Raises ``RunDirError`` for a
    bad line elsewhere, with file and line number.
    """
    found: list[dict[str, Any]] = []
    for attempt in run.attempts():
        rows = _read(attempt / TEXTS)
        first = min((row["step"] for row in rows), default=math.inf)
        found = [row for row in found if row["step"] < first] + rows
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"]), "response": str(row["response"])})
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise RunDirError(f"{path}:{number}: not a line of texts ({error})") from None
    return rows
