"""Runs side by side on this machine, each with a Ray of its own, by cores and memory or by disjoint sets of GPUs."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import psutil

from harness.config import ConfigError
from harness.paths import ROOT
from harness.run.process import living
from harness.rundir import LAUNCH_LOG
from sweeps.launchers.base import LaunchError, Submission
from sweeps.trials import Trial

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Local:
    """A process of ``harness.train`` for each trial. n_jobs: at once; gpus: how many there are (default: asks).

    The processes are in sessions of their own: they outlive a scheduler that is killed, and the next one finds them.
    """

    name = "local"
    poll_seconds = 1.0
    ends_with_us = True

    def __init__(self, n_jobs: int = 1, gpus: int | None = None):
        if not isinstance(n_jobs, int) or n_jobs < 1:
            raise ConfigError(f"hydra.launcher.n_jobs must be a whole number of at least 1, got {n_jobs}")
        self.n_jobs = n_jobs
        self.devices = visible_gpus() if gpus is None else [str(number) for number in range(gpus)]
        self.started: dict[int, subprocess.Popen[bytes]] = {}

    def check(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            if trial.gpus and (trial.nodes > 1 or trial.gpus > len(self.devices)):
                raise ConfigError(
                    f"{trial.name} needs {trial.nodes} x {trial.gpus // trial.nodes} GPUs, "
                    f"here are {len(self.devices)}; run it elsewhere with hydra/launcher=slurm or ray_jobs"
                )

    def place(self, trial: Trial, running: Sequence[Submission]) -> dict[str, Any] | None:
        if not trial.gpus:
            return {} if len(running) < self.n_jobs else None
        taken = {device for submission in running for device in submission.get("gpus", ())}
        free = [device for device in self.devices if device not in taken]
        return {"gpus": free[: trial.gpus]} if len(free) >= trial.gpus else None

    def start(self, trial: Trial, place: dict[str, Any]) -> dict[str, Any]:
        environment = dict(os.environ)
        if place.get("gpus"):
            environment[VISIBLE] = ",".join(place["gpus"])
        # Started by a script in the background this process ignores SIGINT, and so would those that `cancel` sends it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with (trial.path / LAUNCH_LOG).open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "harness.train", *trial.overrides],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment,
                    start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise LaunchError(f"{trial.name}: {error}") from None
        finally:
            signal.signal(signal.SIGINT, before)
        self.started[process.pid] = process
        created = psutil.Process(process.pid).create_time()
        return {"pid": process.pid, "created": created, "host": os.uname().nodename}

    def alive(self, submission: Submission) -> bool:
        if submission["host"] != os.uname().nodename:
            return False  # nothing can be asked there; the run's heartbeat says the rest
        if (child := self.started.get(submission["pid"])) and child.poll() is not None:
            return False  # reaped
        return living(submission["pid"], submission["created"]) is not None

    def cancel(self, submission: Submission) -> None:
        here = submission["host"] == os.uname().nodename
        if here and (process := living(submission["pid"], submission["created"])):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGINT)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them; none without a driver."""
    if os.environ.get(VISIBLE) is not None:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    try:
        said = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(said.stdout.splitlines())]
