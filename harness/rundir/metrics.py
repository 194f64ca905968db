"""metrics.jsonl: verl's file logger, one line a step, and how the attempts of one run become one history."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.rundir.files import RunDirError
from harness.rundir.schema import renamed

Parse = Callable[[bytes], Any]


def is_trained(data: dict[str, Any]) -> bool:
    """Whether a row of metrics is of a finished training step; others are validation only. Ours, or verl's own name
    where nothing was recorded."""
    return "response_length" in data or "response_length/mean" in data


def merge_metrics(attempts: Iterable[Path], parse: Parse = json.loads) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Metrics files of a run's attempts, oldest first, merged by (step, key), a later attempt wins.

    What an earlier attempt trained after the point from which a later one continued is dropped: it led nowhere.
    Returns ``({step: {key: value}}, warnings)``: a torn last line of an attempt is dropped and reported. A bad
    line elsewhere raises ``RunDirError`` with file and line number, as does a step that one attempt trained twice.
    """
    warnings: list[str] = []
    read = []
    for path in attempts:
        rows = list(read_metrics(path, warnings, parse))
        trained = [step for step, data in rows if is_trained(data)]
        if len(set(trained)) < len(trained):
            step = next(step for step in trained if trained.count(step) > 1)
            raise RunDirError(f"{path}: step {step} is there twice; within one attempt a step is trained once")
        read.append(rows)
    return merge_attempts(read), warnings


def merge_attempts(attempts: Iterable[Sequence[tuple[int, dict[str, Any]]]]) -> dict[int, dict[str, Any]]:
    """The ``(step, data)`` rows of a run's attempts, oldest first, merged as ``merge_metrics`` does."""
    merged: dict[int, dict[str, Any]] = {}
    for rows in attempts:
        first = min((step for step, data in rows if is_trained(data)), default=math.inf)
        merged = {step: data for step, data in merged.items() if step < first}
        for step, data in rows:
            merged.setdefault(step, {}).update(data)
    return dict(sorted(merged.items()))


def read_metrics(path: Path, warnings: list[str], parse: Parse = json.loads) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(step, data)`` of each line of verl's JSONL (bad ones: ``merge_metrics``); ``parse``: or ValueError."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(line)
            step, data = int(row["step"]), dict(row["data"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # no newline after it: the writer was stopped in the middle
                warnings.append(f"{path}: last line is torn, dropped")
                return
            raise RunDirError(f"{path}:{number}: not a metrics line ({error})") from None
        yield step, renamed(data)
