"""Inside one Slurm allocation: a Ray cluster over its nodes, and one run on it.

submitit runs an ``Allocation`` on every node. The first one's node starts Ray's head, waits until it sees all nodes
and GPUs, and trains; the others start a worker and wait. A run on one node needs none of this: it starts a Ray of its
own.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import submitit
from submitit.helpers import Checkpointable, DelayedSubmission

from harness.paths import ROOT
from harness.run.process import end_session, living
from harness.rundir import LAUNCH_LOG, LAUNCHER_FOLDER, write_json

ADDRESS = "ray_kwargs.ray_init.address"
LOOK_SECONDS = 1.0


class Allocation(Checkpointable):
    """overrides, path: the trial's; start_seconds: for Ray to see all nodes; resources: what each node tells Ray it
    has, where that is not for Ray to find out.

    Before the time limit, and where Slurm preempts, submitit calls ``checkpoint``: the run ends after a checkpoint and
    the job is queued again.
    """

    def __init__(self, overrides: list[str], path: str, start_seconds: float, resources: list[str]):
        self.overrides, self.path, self.start_seconds, self.resources = overrides, path, start_seconds, resources
        self.training: subprocess.Popen[bytes] | None = None
        self.created = 0.0  # when, as the system knows it

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "training": None}

    def __call__(self) -> int:
        """Returns the exit status of ``harness.train``, 0 on the other nodes."""
        environment = submitit.JobEnvironment()
        if environment.num_nodes == 1:
            return self._train([])
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        meeting = Path(self.path) / LAUNCHER_FOLDER / f"{environment.job_id}.{restart}"
        if environment.global_rank:
            return self._join(meeting)
        with ray_head(meeting, self.resources) as address:
            wait_for_nodes(address, environment.num_nodes, self.start_seconds)
            return self._train([f"{ADDRESS}={address}"])

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit in its signal handler, on the first node only."""
        # Not Popen's own methods: the signal may have come inside one of them, which hold a lock.
        if self.training and (process := living(self.training.pid, self.created)):
            process.terminate()
            while living(self.training.pid, self.created):
                time.sleep(LOOK_SECONDS)
        return DelayedSubmission(self)

    def _train(self, more: list[str]) -> int:
        command = [sys.executable, "-m", "harness.train", *self.overrides, *more]
        # Slurm's warning is for submitit alone; the child would die of it.
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        with (Path(self.path) / LAUNCH_LOG).open("ab") as log:
            self.training = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )
        self.created = psutil.Process(self.training.pid).create_time()
        signal.signal(signal.SIGUSR2, before)
        return self.training.wait()

    def _join(self, meeting: Path) -> int:
        end = time.time() + self.start_seconds
        while not (found := read_meeting(meeting)):
            if time.time() > end:
                raise TimeoutError(f"no Ray head for {self.start_seconds:g} s on the first node")
            time.sleep(LOOK_SECONDS)
        with ray_node(["--address", found["address"], *self.resources], found["token"]) as node:
            while node.poll() is None and meeting.exists():
                time.sleep(LOOK_SECONDS)
        return 0


@contextlib.contextmanager
def ray_head(meeting: Path, resources: list[str]):
    """Ray's head node on ports of this job's own; yields its address. ``meeting``: where the other nodes find it."""
    token = meeting.with_name(f"{meeting.name}.token")
    token.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    os.environ.update(authentication(str(token)))  # before the import: Ray reads them once

    import ray

    host = ray.util.get_node_ip_address()  # the name alone may mean the loopback, where no other node is
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    try:
        arguments = ["--head", "--port", str(port), "--node-ip-address", host, "--include-dashboard=false"]
        with ray_node([*arguments, *resources], str(token)):
            write_json(meeting, {"address": f"{host}:{port}", "token": str(token)})
            yield f"{host}:{port}"
    finally:
        meeting.unlink(missing_ok=True)
        token.unlink(missing_ok=True)


@contextlib.contextmanager
def ray_node(arguments: list[str], token: str):
    """``ray start`` in a session of its own, which is ended afterwards; yields its process."""
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        "--disable-usage-stats",
        *arguments,
    ]
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    node = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **authentication(token)}
    )
    signal.signal(signal.SIGUSR2, before)
    try:
        yield node
    finally:
        end_session(node.pid)
        node.wait()


def authentication(token: str) -> dict[str, str]:
    """Ray's variables by which only holders of the token file may use a cluster."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}


def wait_for_nodes(address: str, nodes: int, seconds: float) -> None:
    """Return when Ray at ``address`` has that many living nodes; raises ``TimeoutError`` that says how many came."""
    import ray

    end, seen = time.time() + seconds, 0
    while True:
        with contextlib.suppress(ConnectionError, RuntimeError):  # the head is still starting
            ray.init(address=address, log_to_driver=False)
            seen = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
        if seen >= nodes:
            return
        if time.time() > end:
            raise TimeoutError(
                f"{seen} of {nodes} nodes joined Ray within {seconds:g} s (hydra.launcher.start_seconds)"
            )
        time.sleep(LOOK_SECONDS)


def read_meeting(file: Path) -> dict[str, Any] | None:
    """Where the head is, once it has said so."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None
