"""Runs on standing Ray clusters, through their job submission API.

verl's jobs on one cluster share a queue of responses and would train on each other's: a cluster gets one run at a time.
"""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from ray.job_submission import JobStatus, JobSubmissionClient

from harness.config import ConfigError
from harness.paths import ROOT
from harness.rundir import LAUNCH_LOG
from sweeps.launchers.base import LaunchError, Submission
from sweeps.trials import Trial

UNFINISHED = (JobStatus.PENDING, JobStatus.RUNNING)


class RayJobs:
    """clusters: addresses of dashboards (``http://host:8265``). Checkout, ``.venv`` and results folder are at the same
    path on every node. Jobs go on when the scheduler ends."""

    name = "ray_jobs"
    poll_seconds = 5.0
    ends_with_us = False

    def __init__(self, clusters: Sequence[str]):
        if isinstance(clusters, str) or not clusters:
            raise ConfigError(
                f"hydra.launcher.clusters must be a list of addresses, such as [http://127.0.0.1:8265], got {clusters}"
            )
        self.clusters = list(clusters)
        self.clients: dict[str, JobSubmissionClient] = {}

    def check(self, trials: Sequence[Trial]) -> None:
        for cluster in self.clusters:
            try:
                self._client(cluster).list_jobs()
            except (ConnectionError, RuntimeError) as error:
                said = str(error).splitlines()[0]
                raise ConfigError(
                    f"hydra.launcher.clusters: no Ray dashboard answers at {cluster} ({said}); start Ray there or "
                    "name another cluster"
                ) from None

    def place(self, trial: Trial, running: Sequence[Submission]) -> dict[str, Any] | None:
        taken = {submission.get("cluster") for submission in running}
        free = (cluster for cluster in self.clusters if cluster not in taken)
        return next(({"cluster": cluster} for cluster in free if not self._busy(cluster)), None)

    def start(self, trial: Trial, place: dict[str, Any]) -> dict[str, Any]:
        train = [sys.executable, "-m", "sweeps.launchers.ray_driver", *trial.overrides]
        log = shlex.quote(str(trial.path / LAUNCH_LOG))
        command = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(train)} > {log} 2>&1"
        try:
            job = self._client(place["cluster"]).submit_job(entrypoint=command, metadata={"run": trial.name})
        except (ConnectionError, RuntimeError) as error:
            raise LaunchError(f"{place['cluster']}: {str(error).splitlines()[0]}") from None
        return {"job": job}

    def alive(self, submission: Submission) -> bool:
        try:
            return self._client(submission["cluster"]).get_job_status(submission["job"]) in UNFINISHED
        except ConnectionError:
            return True  # a cluster that does not answer says nothing about its jobs
        except RuntimeError:  # it knows no such job: it is another cluster than it was
            return False

    def cancel(self, submission: Submission) -> None:
        try:
            self._client(submission["cluster"]).stop_job(submission["job"])
        except (ConnectionError, RuntimeError):
            return

    def _busy(self, cluster: str) -> bool:
        """Whether any job, ours or another's, is unfinished there; so is one that does not answer."""
        try:
            return any(job.status in UNFINISHED for job in self._client(cluster).list_jobs())
        except ConnectionError:
            return True

    def _client(self, cluster: str) -> JobSubmissionClient:
        if cluster not in self.clients:
            self.clients[cluster] = JobSubmissionClient(cluster)
        return self.clients[cluster]
