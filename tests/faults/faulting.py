"""A real run under a real controller, and ways to break it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml
from e2e.launching import ROOT, reference, trainer

from harness.rundir import RunDir, RunDirError

STEPS, SEED = 8, 60
SETTINGS = {
    "trainer.total_training_steps": STEPS,
    "trainer.save_freq": 2,
    "trainer.val_before_train": False,
    "trainer.test_freq": -1,
}


def undisturbed_run(sessions: pytest.TempPathFactory) -> RunDir:
    """The record that every such run must have, whatever happens to it. A fault may change how often a checkpoint is
    written, which nothing that is learnt depends on."""
    return reference(sessions, "algo=luspo", f"seed={SEED}", *words(SETTINGS))


def words(settings: dict[str, object]) -> list[str]:
    """The settings as words of a command line."""
    return [f"{key}={str(value).lower()}" for key, value in settings.items()]


class Trial:
    """One trial, ``luspo`` on ``tiny``, in a sweep of its own below ``root``."""

    def __init__(self, root: Path, **more):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.file = root / "trial.yaml"
        self.file.write_text(
            yaml.safe_dump(
                {
                    "grid": {"experiment": ["tiny"], "algo": ["luspo"], "seed": [SEED]},
                    "set": {**SETTINGS, "harness.root": str(root), **more},
                    "backoff_seconds": 1,
                }
            )
        )
        self.controllers: list[subprocess.Popen[str]] = []

    @property
    def run(self) -> RunDir:
        """The trial's run directory; its arm's name has the further settings in it."""
        return RunDir(next(self.root.glob(f"tiny/*/seed={SEED}"), self.root / "none"))

    def control(self, command: str = "run") -> subprocess.Popen[str]:
        """Start ``python -m sweeps COMMAND``; the tests' end stops it if it is still there."""
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeps", command, str(self.file)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self.controllers.append(process)
        return process

    def finish(self, controller: subprocess.Popen[str], status: int = 0, seconds: float = 900) -> str:
        """Wait for a controller and return all it said; it must end with ``status``."""
        said, _ = controller.communicate(timeout=seconds)
        assert controller.returncode == status, said
        return said

    def reached(self, step: int, attempt: int = 1) -> None:
        """Wait until the record has this step in this attempt."""
        self.wait(lambda: len(self.run.attempts()) >= attempt and step in self.run.steps_in(self.metrics(attempt)))

    def metrics(self, attempt: int) -> Path:
        return self.run.attempts()[attempt - 1] / "metrics.jsonl"

    def wait(self, condition: Callable[[], bool], seconds: float = 600.0, every: float = 0.02) -> None:
        end = time.time() + seconds
        while not condition():
            assert time.time() < end, "did not happen in time"
            time.sleep(every)

    def trainer(self, attempt: int = 1) -> psutil.Process:
        """The training process of an attempt."""
        return trainer(self.run, attempt)

    def watcher(self) -> psutil.Process:
        """``harness.train``, which watches over it."""
        pid = self.run.status().get("pid")
        assert pid, "nothing is being trained"
        return psutil.Process(pid)

    def members(self, name: str, attempt: int = 1) -> list[psutil.Process]:
        """Processes of the run's session whose command line has ``name`` in it, oldest first."""
        sid = self.trainer(attempt).pid
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == sid and name in " ".join(process.cmdline()):
                    found.append(process)
        return sorted(found, key=lambda p: p.create_time())

    def close(self) -> None:
        """End whatever is left: controllers, then the run's watcher, whose end ends all."""
        for process in self.controllers:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
                process.kill()
        with contextlib.suppress(AssertionError, RunDirError, psutil.Error):
            self.watcher().kill()
