"""Responses that another framework dumped: TRL's completions (Parquet) and verl's dumps (JSON lines), a file a step."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from analysis.runs.load import AnalysisError
from analysis.runs.sources.json_files import json_lines

COMPLETIONS = "completions"  # TRL's folder in its output folder
PROMPTS = {"training": 2, "validation": 8}  # kept of a step, as many as runs of our own keep
LARGEST_STEP = 200_000  # responses of one step's file


def dumped(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The first response to each of the few prompts that are kept of a step, as ``rundir.TEXT_COLUMNS``.

    A prompt's id is the first 48 bits of the SHA-256 of its text, the same in all runs; the smallest ids are kept.
    kind: of ``PROMPTS``. Raises ``AnalysisError`` where nothing is dumped, or for a file of something else.
    """
    files = [folder] if folder.is_file() else sorted((*folder.glob("*.parquet"), *folder.glob("*.jsonl")), key=_order)
    if not files:
        raise AnalysisError(f"{folder}: no dumped responses (TRL's .parquet or verl's .jsonl, a file a step)")
    for file in files:
        yield from _of_step(file, kind)


def graded(folder: Path) -> dict[int, float]:
    """Step -> mean of ``acc`` over the answers of verl's dumps; steps whose answers have none are absent."""
    sums: dict[int, tuple[float, int]] = {}
    for file in sorted(folder.glob("*.jsonl"), key=_order):
        for row in json_lines(file):
            step, accuracy = (row.get("step"), row.get("acc")) if isinstance(row, dict) else (None, None)
            if isinstance(step, int) and isinstance(accuracy, int | float):
                total, count = sums.get(step, (0.0, 0))
                sums[step] = (total + accuracy, count + 1)
    return {step: total / count for step, (total, count) in sums.items()}


def _of_step(file: Path, kind: str) -> Iterator[dict[str, Any]]:
    kept: dict[tuple[int, int], dict[str, Any]] = {}
    for number, row in enumerate(_completions(file) if file.suffix == ".parquet" else _verl(file)):
        if number >= LARGEST_STEP:
            raise AnalysisError(f"{file}: more than {LARGEST_STEP:,} responses, so it is no step's file")
        place = (row["step"], row["prompt_id"])
        if place not in kept:
            of_step = sorted(key for key in kept if key[0] == row["step"])
            if len(of_step) < PROMPTS[kind] or place < of_step[-1]:
                kept[place] = {"of": kind, "sample": 0, "tokens": None, "truncated": None, "clipped": None, **row}
                if len(of_step) >= PROMPTS[kind]:
                    del kept[of_step[-1]]
    yield from (kept[place] for place in sorted(kept))


def _completions(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if lacking := [name for name in ("step", "prompt", "completion") if name not in names]:
                raise AnalysisError(f"{file}: has no column {', '.join(lacking)}, so it is none of TRL's completions")
            graded = ["accuracy_reward"] if "accuracy_reward" in names else []
            for batch in parquet.iter_batches(1000, columns=["step", "prompt", "completion", *graded]):
                for row in batch.to_pylist():
                    right = row.get("accuracy_reward")
                    yield _row(row["step"], row["prompt"], row["completion"], right)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise AnalysisError(f"{file}: not readable as Parquet ({' '.join(str(error).split())})") from None


def _verl(file: Path) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(json_lines(file), 1):
        try:
            yield _row(int(row["step"]), row["input"], row["output"], row.get("acc"))
        except (KeyError, TypeError, ValueError):
            raise AnalysisError(f"{file}:{number}: none of verl's dumps, which have step, input and output") from None


def _row(step: int, prompt: Any, response: Any, accuracy: Any) -> dict[str, Any]:
    asked = _plain(prompt)
    known = isinstance(accuracy, int | float) and accuracy in (0, 1)
    return {
        "step": step,
        "prompt_id": int(hashlib.sha256(asked.encode()).hexdigest()[:12], 16),
        "prompt": asked,
        "response": _plain(response),
        "accuracy": float(accuracy) if known else None,
    }


def _plain(text: Any) -> str:
    """A text, or the messages of a conversation one below the other."""
    if isinstance(text, list):
        return "\n".join(str(part.get("content") if isinstance(part, Mapping) else part) for part in text)
    return str(text)


def _order(file: Path) -> tuple[int, str]:
    digits = "".join(sign for sign in file.stem if sign.isdigit())
    return int(digits or 0), file.name
