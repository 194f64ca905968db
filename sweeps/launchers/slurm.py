"""One Slurm allocation a run, through submitit; ``sweeps.launchers.slurm_job`` is what happens inside."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from harness.config import ConfigError
from harness.rundir import LAUNCHER_FOLDER
from sweeps.launchers.base import LaunchError, Submission
from sweeps.launchers.slurm_job import Allocation, resources
from sweeps.trials import Trial

LAST_SECONDS = 30  # of Slurm's warning: to end the processes and queue the job again
REQUEUES = 1000  # submitit's limit; ours is the number of attempts without progress


class Slurm:
    """Settings: ``conf/hydra/launcher/slurm.yaml``. Jobs go on when the scheduler ends."""

    name = "slurm"
    poll_seconds = 15.0
    ends_with_us = False

    def __init__(self, max_jobs: int = 64, start_seconds: float = 900, **settings: Any):
        self.max_jobs, self.start_seconds, self.settings = max_jobs, start_seconds, settings
        self.queue: set[str] | None = None
        self.asked = 0.0

    def check(self, trials: Sequence[Trial]) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError("hydra/launcher=slurm: no sbatch on this machine; start the sweep on a login node")

    def place(self, trial: Trial, running: Sequence[Submission]) -> dict[str, Any] | None:
        return {} if len(running) < self.max_jobs else None

    def start(self, trial: Trial, place: dict[str, Any]) -> dict[str, Any]:
        import submitit
        from submitit.core.utils import FailedJobError

        # sys.executable as it is: a resolved link would leave the virtual environment
        executor = submitit.SlurmExecutor(
            folder=trial.path / LAUNCHER_FOLDER, max_num_timeout=REQUEUES, python=sys.executable
        )
        executor.update_parameters(**parameters(trial, self.settings))
        try:
            job = executor.submit(
                Allocation(self._overrides(trial), str(trial.path), self.start_seconds, resources(trial))
            )
        except (OSError, subprocess.SubprocessError, FailedJobError) as error:
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise LaunchError(f"sbatch: {said[-1] if said else error}") from None
        self.asked = 0.0
        return {"job": job.job_id}

    def _overrides(self, trial: Trial) -> list[str]:
        """The trial's, and as much time for a last checkpoint as Slurm's warning leaves."""
        grace = max(self.settings.get("signal_seconds", 300) - LAST_SECONDS, LAST_SECONDS)
        return [*trial.overrides, f"harness.watch.grace_seconds={grace}"]

    def alive(self, submission: Submission) -> bool:
        if time.time() - self.asked >= self.poll_seconds:
            self.queue, self.asked = queued(), time.time()
        return self.queue is None or submission["job"] in self.queue

    def cancel(self, submission: Submission) -> None:
        subprocess.run(["scancel", submission["job"]], check=False, capture_output=True)


def parameters(trial: Trial, settings: dict[str, Any]) -> dict[str, Any]:
    """submitit's parameters of a trial's allocation: one task a node, which starts Ray there.

    Raises ``ConfigError`` for a setting that ``conf/hydra/launcher/slurm.yaml`` does not have.
    """
    known = {
        "partition",
        "account",
        "qos",
        "time_minutes",
        "signal_seconds",
        "cpus_per_gpu",
        "mem_per_node",
        "setup",
        "extra",
    }
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"hydra.launcher.{unknown[0]}: unknown; there are {', '.join(sorted(known))}")
    gpus = trial.gpus // trial.nodes
    wanted = {
        "job_name": trial.name.replace("/", "."),
        "partition": settings.get("partition"),
        "account": settings.get("account"),
        "qos": settings.get("qos"),
        "time": settings.get("time_minutes", 1440),
        "signal_delay_s": settings.get("signal_seconds", 300),
        "nodes": trial.nodes,
        "ntasks_per_node": 1,
        "gpus_per_node": gpus or None,
        "cpus_per_task": gpus * settings["cpus_per_gpu"] if gpus and settings.get("cpus_per_gpu") else None,
        "mem": settings.get("mem_per_node"),
        "setup": list(settings.get("setup") or []) or None,
        "additional_parameters": dict(settings.get("extra") or {}) or None,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def queued() -> set[str] | None:
    """Ids of the user's jobs that wait or run; None where Slurm does not answer, which says nothing about them."""
    user = os.environ.get("USER") or str(os.getuid())
    command = ["squeue", "--noheader", "--format=%i", "--user", user]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return set(done.stdout.split())
