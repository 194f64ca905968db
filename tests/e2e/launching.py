"""Real runs, started as a user starts them: ``python -m harness.train`` in a process of its own."""

import contextlib
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from filelock import FileLock

from harness.rundir import RunDir, find_runs

ROOT = Path(__file__).resolve().parents[2]


def command(root: Path, *overrides: str, multirun: bool = False) -> list[str]:
    return [sys.executable, "-m", "harness.train", *(["-m"] if multirun else []), f"harness.root={root}", *overrides]


def train(root: Path, *overrides: str, multirun: bool = False, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Run to the end; ``ok`` says whether exit status 0 is expected. Returns the process with all its output."""
    done = subprocess.run(
        command(root, *overrides, multirun=multirun),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stdout
    return done


def reference(sessions: pytest.TempPathFactory, *overrides: str) -> RunDir:
    """The run of these settings that nothing disturbs, for reading. Trained once in a test session, also where tests
    run side by side: whoever comes meanwhile waits."""
    folder = sessions.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    root = folder / f"reference-{hashlib.sha256(repr(overrides).encode()).hexdigest()[:16]}"
    with FileLock(f"{root}.lock", timeout=900):
        if not (root / "done").exists():
            train(root, *overrides)
            (root / "done").touch()
    (run,) = find_runs(root)
    return run


def start(root: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(root, *overrides), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ}, start_new_session=True,
    )  # fmt: skip


def trainer(run: RunDir, attempt: int = 1) -> psutil.Process:
    """The training process (``harness.plugin.job``) of an attempt: it leads the session that writes the log. Its
    command line and its parent may be those of the process that it is a fork of."""
    wanted = str((run.attempts()[attempt - 1] / "log.txt").resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == process.pid and os.readlink(f"/proc/{process.pid}/fd/1") == wanted:
                return process
    raise AssertionError(f"no training process of {wanted}")


def run_dir(root: Path, arm: str, seed: int = 0, experiment: str = "tiny") -> RunDir:
    return RunDir(root / experiment / arm / f"seed={seed}")


def learnt(run: RunDir) -> dict[int, dict[str, float]]:
    """Metrics that are about learning, not about this machine's time and memory."""
    noisy = ("timing", "perf/", "step_seconds", "memory", "mfu")
    return {
        step: {key: value for key, value in data.items() if not any(word in key for word in noisy)}
        for step, data in run.metrics()[0].items()
    }


def rows(run: RunDir, step: int) -> pd.DataFrame:
    """The responses of one step, of a run that is done or not."""
    frame = pd.concat([pd.read_parquet(file.path) for file in run.response_files()])
    return frame[frame["step"] == step].reset_index(drop=True)


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["prompt_id", "sample"]).reset_index(drop=True)


def assert_same_record(a: RunDir, b: RunDir, steps: range, ignore: tuple[str, ...] = ()) -> None:
    """Equal training metrics and equal rows, to the last bit, in all ``steps``."""
    left: dict[int, dict[str, Any]] = learnt(a)
    right: dict[int, dict[str, Any]] = learnt(b)
    for step in steps:
        for key in (left[step].keys() | right[step].keys()) - set(ignore):
            if not key.startswith("val"):
                assert left[step].get(key) == right[step].get(key), (step, key)
        pd.testing.assert_frame_equal(rows(a, step), rows(b, step), check_exact=True)
