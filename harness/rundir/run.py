"""One run's directory: its paths, its small files, and where its metrics and responses are."""

import contextlib
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.rundir.files import RunDirError, read_json, write_json
from harness.rundir.metrics import Parse, is_trained, merge_metrics, read_metrics
from harness.rundir.schema import SCHEMA_VERSION, STALE_SECONDS, STATES, upgraded


class ResponseFile(NamedTuple):
    """A Parquet file of responses, and the step from which its rows no longer count (a later attempt went back)."""

    path: Path
    before: float = math.inf


@dataclass(frozen=True)
class RunDir:
    """Paths and small files of one run. Nothing is created before ``create`` or a ``write``."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def eval(self) -> Path:
        return self.path / "eval"

    def manifest(self) -> dict[str, Any]:
        """``manifest.json``; raises ``RunDirError`` where it is missing, torn or of a newer schema."""
        manifest = read_json(self.path / "manifest.json")
        if manifest.get("schema", 0) > SCHEMA_VERSION:
            raise RunDirError(
                f"{self.path / 'manifest.json'}: schema {manifest['schema']} is newer than this program's "
                f"{SCHEMA_VERSION}; update the program"
            )
        return upgraded(manifest)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.path / "manifest.json", {"schema": SCHEMA_VERSION, **manifest})

    def status(self) -> dict[str, Any]:
        """``status.json`` as written, and ``incomplete`` for a run that says running but whose process is gone."""
        status = read_json(self.path / "status.json")
        if status.get("state") == "running" and not _alive(status):
            status["state"] = "incomplete"
            status["error"] = status.get("error") or "the training process is gone (killed, or the machine went down)"
        return status

    def write_status(self, state: str, **fields: Any) -> None:
        """Merge ``fields`` into ``status.json``, set its state and heartbeat, atomically."""
        assert state in STATES, state
        path = self.path / "status.json"
        old = read_json(path) if path.exists() else {}
        write_json(path, {**old, **fields, "state": state, "heartbeat": time.time()})

    def attempts(self) -> list[Path]:
        """Attempt folders, oldest first."""
        return sorted((p for p in self.path.glob("attempts/*") if p.name.isdigit()), key=lambda p: int(p.name))

    def new_attempt(self) -> Path:
        """Create and return the next attempt's folder."""
        attempts = self.attempts()
        number = int(attempts[-1].name) + 1 if attempts else 1
        folder = self.path / "attempts" / f"{number:02d}"
        (folder / "sequences").mkdir(parents=True)
        return folder

    def outcomes(self) -> list[dict[str, Any]]:
        """How each attempt ended (state, cause, error, began, ended, first, last step), oldest first; empty if lost."""
        return [read_json(file) if file.exists() else {} for file in (a / "outcome.json" for a in self.attempts())]

    def add_event(self, kind: str, **fields: Any) -> None:
        """Append one line to ``events.jsonl``. The watcher of a run is its only writer."""
        line = json.dumps({"time": time.time(), "kind": kind, **fields}, sort_keys=True)
        with (self.path / "events.jsonl").open("a") as file:
            file.write(line + "\n")

    def events(self) -> list[dict[str, Any]]:
        """What happened to the run, oldest first; a torn line is left out."""
        file = self.path / "events.jsonl"
        found = []
        for line in file.read_text().splitlines() if file.exists() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    @staticmethod
    def steps_in(metrics: Path) -> list[int]:
        """Steps that one attempt's metrics file records as trained."""
        return [step for step, data in read_metrics(metrics, []) if is_trained(data)]

    def metrics_files(self) -> list[Path]:
        """Each attempt's metrics file, oldest first; an attempt that was stopped early has none yet."""
        return [attempt / "metrics.jsonl" for attempt in self.attempts()]

    def metrics(self, parse: Parse = json.loads) -> tuple[dict[int, dict[str, Any]], list[str]]:
        """Metrics of all attempts, see ``merge_metrics``."""
        return merge_metrics(self.metrics_files(), parse)

    @property
    def merged(self) -> Path:
        """All responses of a finished run in one file, a row group a step (``harness.run.merge``)."""
        return self.path / "sequences.parquet"

    def step_files(self) -> dict[int, Path]:
        """Each step's own file of responses, by the rule for attempts of ``metrics``; none once they are merged."""
        files: dict[int, Path] = {}
        for attempt in self.attempts():
            found = {int(f.stem): f for f in attempt.glob("sequences/*.parquet") if f.stem.isdigit()}
            first = min(found, default=math.inf)
            files = {step: file for step, file in files.items() if step < first} | found
        return dict(sorted(files.items()))

    def response_files(self) -> list[ResponseFile]:
        """The files that hold the run's responses, in the order of their steps; empty if none were recorded."""
        steps = self.step_files()
        merged = [ResponseFile(self.merged, min(steps, default=math.inf))] if self.merged.exists() else []
        return merged + [ResponseFile(file) for file in steps.values()]

    def evals(self) -> dict[str, Path]:
        """Path of each benchmark's evaluation, by its name."""
        return {file.stem: file for file in sorted(self.eval.glob("*.parquet"))}

    def last_step(self) -> int:
        """The last step with a complete row of training metrics, 0 if there is none."""
        return max((step for step, data in self.metrics()[0].items() if is_trained(data)), default=0)


def find_runs(root: Path) -> list[RunDir]:
    """All run directories at or below ``root``, sorted by path; links to folders are followed, each folder once."""
    if (root / "manifest.json").exists():
        return [RunDir(root)]
    found, seen = [], set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        if "manifest.json" in files:
            found.append(Path(folder))
    return [RunDir(path) for path in sorted(found)]


def _alive(status: dict[str, Any]) -> bool:
    """Whether the process that watches the run still lives: by heartbeat, on its own host by pid too (pids recur)."""
    if status.get("host") == os.uname().nodename:
        try:
            os.kill(status["pid"], 0)
        except (ProcessLookupError, KeyError, TypeError):
            return False
        except PermissionError:
            pass
    return time.time() - status.get("heartbeat", 0) < STALE_SECONDS
