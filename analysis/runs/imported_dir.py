"""The run directory of an imported run, written whole or not at all."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from analysis.runs.foreign import KIND
from analysis.runs.load import AnalysisError
from analysis.runs.sources.steps import Steps
from harness.rundir import RunDir, RunDirError, append_texts, seal


def hashed(file: Path) -> dict[str, Any]:
    """A file's name, SHA-256 and size."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": str(file), "sha256": digest, "bytes": file.stat().st_size}


def write(
    run: RunDir, manifest: dict[str, Any], status: dict[str, Any], steps: Steps, texts: list[dict[str, Any]]
) -> None:
    """The run directory, whole or not at all. The same again changes nothing.

    status: state, last_step and, of a failed run, error. steps: of a trained one the row gets a response length, if an
    unknown one, as that is what marks it. Raises ``AnalysisError`` where something else is there, or nothing can be
    written.
    """
    draft = RunDir(run.path.with_name(f".{run.path.name}.{os.getpid()}"))
    try:
        attempt = draft.new_attempt()
        with (attempt / "metrics.jsonl").open("w") as file:
            for step, row in steps.items():
                trained = step > 0 and any(not name.startswith("val_") for name in row)
                data = {"response_length": None, **row} if trained else row
                file.write(json.dumps({"step": step, "data": data}) + "\n")
        if texts:
            append_texts(attempt, texts)
        draft.write_manifest(manifest)
        draft.write_status(**status, attempt=1, planned_steps=manifest["planned_steps"])
        seal(draft)
        if run.path.exists():
            _require_same(run, draft)
        else:
            draft.path.replace(run.path)
    except OSError as error:
        raise AnalysisError(f"{run.path}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)


def _require_same(run: RunDir, draft: RunDir) -> None:
    try:
        there = run.manifest()
    except RunDirError:
        there = {}
    metrics = [attempt / "metrics.jsonl" for one in (run, draft) for attempt in one.attempts()[-1:]]
    same = len(metrics) == 2 and metrics[0].exists() and metrics[0].read_bytes() == metrics[1].read_bytes()
    if there != draft.manifest() or not same:
        what = "holds something else" if there.get("kind") == KIND else "is a run of this harness"
        raise AnalysisError(f"{run.path} is there already and {what}; move it away, or give another --arm or --seed")
