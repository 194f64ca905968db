"""The run directory: the only interface between training and analysis. Standard library only.

::

    results/runs/<experiment>/<arm>/seed=<n>/
        config.yaml                            the resolved configuration
        manifest.json                          what was run: arm, seed, fingerprint, hashes, versions, hardware
        status.json                            how far it came: state, last step, attempt, heartbeat, error, cause
        events.jsonl                           what happened to it: attempts, alerts, checkpoints passed over
        attempts/NN/metrics.jsonl              verl's file logger: {"step": n, "data": {...}} a line
        attempts/NN/sequences/<step>.parquet   one row per response (columns: ``SEQUENCE_COLUMNS``)
        attempts/NN/log.txt                    all output of the training process
        attempts/NN/outcome.json               how the attempt ended; missing if its watcher was lost
        checkpoints/                           verl's checkpoints
        eval/<benchmark>.parquet               one row per (question, sample) (columns: ``EVAL_COLUMNS``)
"""

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
STATES = ("planned", "running", "done", "failed", "incomplete")
HEARTBEAT_SECONDS = 10
STALE_SECONDS = 12 * HEARTBEAT_SECONDS

# Files that a launcher leaves before there is a run: who was told to train it, and what that process said.
SUBMISSION = "submission.json"
LAUNCH_LOG = "launch.log"
BEING_TRAINED = "is being trained"  # in what it said: refused now, and not for ever
# In an attempt's folder: why its training process ended, and a file whose presence asks it to end.
ERROR_FILE = "error.json"
STOP_FILE = "stop"
LAUNCHER_FOLDER = "launcher"  # whatever else it needs
BEFORE_A_RUN = frozenset({".lock", SUBMISSION, LAUNCH_LOG, LAUNCHER_FOLDER})

Parse = Callable[[bytes], Any]

# Columns that every sequences file has; besides them one ``reward_<part>`` per part of the reward.
SEQUENCE_COLUMNS = {
    "step": "rollout step, from 1",
    "prompt_id": "the data set's unique integer index",
    "sample": "0..n-1 within the prompt's group",
    "update": "1..K, the update of this step that used the response; the first is on-policy",
    "prompt_tokens": "tokens of the prompt",
    "tokens": "|y|, tokens of the response",
    "truncated": "as long as the limit and not ended by EOS",
    "reward": "sum of the reward's parts",
    "accuracy": "1 right, 0 wrong",
    "advantage": "A_i, the same for all tokens of the response",
    "log_ratio": "mean over tokens of log pi_theta - log pi_old, at the response's update",
    "out_of_range_low": "tokens whose ratio is below 1 - clip_ratio_low (sequence-level losses: all or none)",
    "out_of_range_high": "tokens whose ratio is above 1 + clip_ratio_high; both NaN for a loss without a range",
    "clipped": "tokens with advantage not 0 whose surrogate has gradient 0",
    "effective_ratio": "mean over tokens of (ratio if not clipped else 0); else derivative over its on-policy value",
    "gradient_weight": "sum over tokens of |dL/dlogp|, free of the number of ranks",
    "entropy": "mean over tokens of the policy's entropy at the rollout, nats",
    "response_hash": "CRC-32 of the response's token ids",
    "rollout_logprob_diff": "mean over tokens of log pi_old - log pi_rollout; 0 but for rounding if engines agree",
}

# Columns of every evaluation file.
EVAL_COLUMNS = {
    "question": "the question's unique integer in its benchmark",
    "sample": "0..k-1 within the question",
    "correct": "1 right, 0 not",
    "tokens": "tokens of the response",
    "truncated": "as long as the limit and not ended by EOS",
    "outcome": "what the grader said: right, wrong, timeout, error",
    "step": "of the checkpoint that was evaluated, 0 for the initial model",
    "settings": "hash of how it was sampled and graded (``settings_hash``); results of others never share a table",
}

# Columns of our own in metrics.jsonl, beside verl's (which all contain a slash).
STANDARD_METRICS = (
    "response_length",
    "val_response_length",
    "clip_frac_token",
    "clip_frac_seq",
    "clip_frac_pos",
    "clip_frac_neg",
    "reward",
    "accuracy",
    "entropy",
    "grad_norm",
    "ppo_kl",
    "tokens",
    "cumulative_tokens",
    "step_seconds",
)


class RunDirError(Exception):
    """A run directory that cannot be read; the message is one line that names the file."""


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
        return manifest

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

    def sequences(self) -> dict[int, Path]:
        """Path of each step's sequences file, by the same rule for attempts as ``metrics``."""
        files: dict[int, Path] = {}
        for attempt in self.attempts():
            found = {int(f.stem): f for f in attempt.glob("sequences/*.parquet") if f.stem.isdigit()}
            first = min(found, default=math.inf)
            files = {step: file for step, file in files.items() if step < first} | found
        return dict(sorted(files.items()))

    def evals(self) -> dict[str, Path]:
        """Path of each benchmark's evaluation, by its name."""
        return {file.stem: file for file in sorted(self.eval.glob("*.parquet"))}

    def last_step(self) -> int:
        """The last step with a complete row of training metrics, 0 if there is none."""
        return max((step for step, data in self.metrics()[0].items() if is_trained(data)), default=0)


def is_trained(data: dict[str, Any]) -> bool:
    """Whether a row of metrics is of a finished training step; others are validation only. Ours, or verl's own name
    where nothing was recorded."""
    return "response_length" in data or "response_length/mean" in data


def merge_metrics(attempts: Iterable[Path], parse: Parse = json.loads) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Metrics files of a run's attempts, oldest first, merged by (step, key), a later attempt wins.

    What an earlier attempt trained after the point from which a later one continued is dropped: it led nowhere.
    Returns ``({step: {key: value}}, warnings)``: a torn last line of an attempt is dropped and reported. A bad
    line elsewhere raises ``RunDirError`` with file and line number.
    """
    merged: dict[int, dict[str, Any]] = {}
    warnings: list[str] = []
    for path in attempts:
        rows = list(read_metrics(path, warnings, parse))
        first = min((step for step, data in rows if is_trained(data)), default=None)
        if first is not None:
            merged = {step: data for step, data in merged.items() if step < first}
        for step, data in rows:
            merged.setdefault(step, {}).update(data)
    return dict(sorted(merged.items())), warnings


def read_metrics(path: Path, warnings: list[str], parse: Parse = json.loads) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(step, data)`` of each line of verl's JSONL; see ``merge_metrics`` for what bad lines do.

    ``parse`` turns a line into its value and raises ValueError where it cannot.
    """
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
        yield step, data


def find_runs(root: Path) -> list[RunDir]:
    """All run directories at or below ``root``, sorted by path."""
    if (root / "manifest.json").exists():
        return [RunDir(root)]
    return [RunDir(p.parent) for p in sorted(root.rglob("manifest.json"))]


def settings_hash(settings: dict[str, Any]) -> str:
    """Sixteen hex digits that say how an evaluation was sampled and graded: of all its settings but the step."""
    content = json.dumps({key: value for key, value in settings.items() if key != "step"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file; raises ``RunDirError`` where it is missing or torn."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunDirError(f"{path}: missing; is this a run directory?") from None
    except ValueError as error:
        raise RunDirError(f"{path}: not valid JSON ({error})") from None


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
