"""Inside one Slurm allocation: a Ray cluster over its nodes, and one run on it.

An ``Allocation`` runs on every node: submitit starts it for the Slurm launcher, and ``sweeps/cluster/run.sbatch`` does
with this module's command line, for one run without a sweep:

    srun python -m sweeps.launchers.slurm_job OVERRIDES     # one task on each node; overrides of harness.train

The first node starts Ray's head, waits until it sees all nodes, and trains; the others start a worker and wait. A run
on one node needs none of this: it starts a Ray of its own.
"""

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from submitit.helpers import Checkpointable, DelayedSubmission
from submitit.slurm.slurm import SlurmJobEnvironment

from harness.config import ConfigError, say_error
from harness.paths import ROOT
from harness.run.process import end_session, living
from harness.rundir import LAUNCH_LOG, LAUNCHER_FOLDER, write_json
from sweeps.trials import Trial, trial_of

ADDRESS = "ray_kwargs.ray_init.address"
LOGICAL_CORES = 16  # as in conf/cluster/cpu.yaml
START_SECONDS = 900.0
POLL_SECONDS = 1.0
PREEMPTED = os.EX_TEMPFAIL  # what harness.train exits with after it was stopped and has written a checkpoint
CANCELLED = 130


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
        environment = SlurmJobEnvironment()
        if environment.num_nodes == 1:
            return self._train([])
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        rendezvous = Path(self.path) / LAUNCHER_FOLDER / f"{environment.job_id}.{restart}"
        if environment.global_rank:
            return self._join(rendezvous)
        with ray_head(rendezvous, self.resources) as address:
            wait_for_nodes(address, environment.num_nodes, self.start_seconds)
            return self._train([f"{ADDRESS}={address}"])

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit in its signal handler, on the first node only."""
        self.stop()
        while self.training and living(self.training.pid, self.created):
            time.sleep(POLL_SECONDS)
        return DelayedSubmission(self)

    def stop(self) -> None:
        """Ask the training process, if there is one, to end after a checkpoint; asked again, it ends at once."""
        # Not Popen's own methods: the signal may have come inside one of them, which hold a lock.
        if self.training and (process := living(self.training.pid, self.created)):
            process.terminate()

    def _train(self, more: list[str]) -> int:
        command = [sys.executable, "-m", "harness.train", *self.overrides, *more]
        # Slurm's warning is for submitit alone; the child would die of it.
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        with (Path(self.path) / LAUNCH_LOG).open("ab") as log:
            self.training = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT,
                start_new_session=True,
            )  # fmt: skip
        self.created = psutil.Process(self.training.pid).create_time()
        signal.signal(signal.SIGUSR2, before)
        return self.training.wait()

    def _join(self, rendezvous: Path) -> int:
        end = time.time() + self.start_seconds
        while not (found := read_rendezvous(rendezvous)):
            if time.time() > end:
                raise TimeoutError(f"no Ray head for {self.start_seconds:g} s on the first node")
            time.sleep(POLL_SECONDS)
        with ray_node(["--address", found["address"], *self.resources], found["token"]) as node:
            while node.poll() is None and rendezvous.exists():
                time.sleep(POLL_SECONDS)
        return 0


@contextlib.contextmanager
def ray_head(rendezvous: Path, resources: list[str]):
    """Ray's head node on ports of this job's own; yields its address.

    rendezvous: the file that tells the other nodes where it is, as long as it is there.
    """
    token = rendezvous.with_name(f"{rendezvous.name}.token")
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
            write_json(rendezvous, {"address": f"{host}:{port}", "token": str(token)})
            yield f"{host}:{port}"
    finally:
        rendezvous.unlink(missing_ok=True)
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
                f"{seen} of {nodes} nodes joined Ray within {seconds:g} s; "
                "allow more with hydra.launcher.start_seconds (in run.sbatch: --start-seconds)"
            )
        time.sleep(POLL_SECONDS)


def read_rendezvous(file: Path) -> dict[str, Any] | None:
    """Where the head is, once it has said so."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def resources(trial: Trial) -> list[str]:
    """Arguments of ``ray start``: on CPU verl's ranks are logical GPUs and its actors logical cores."""
    return [] if trial.gpus else [f"--num-gpus={trial.ranks}", f"--num-cpus={LOGICAL_CORES}"]


def main(argv: Sequence[str] | None = None) -> int:
    """One task of ``srun``: run the whole on the first node, join it on the others. Returns the exit status.

    SIGUSR2, Slurm's warning of the time limit, ends the run after a checkpoint and queues the job again; SIGTERM, of a
    job that was cancelled, ends the run alone.
    """
    parser = argparse.ArgumentParser(prog="python -m sweeps.launchers.slurm_job", description=main.__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides of harness.train")
    parser.add_argument("--start-seconds", type=float, default=START_SECONDS, help="for Ray to see all nodes")
    arguments = parser.parse_args(argv)
    environment = SlurmJobEnvironment()
    first, signals = environment.global_rank == 0, set[int]()
    try:
        trial = trial_of(arguments.overrides)
        if trial.nodes != environment.num_nodes:
            raise ConfigError(
                f"the run needs {trial.nodes} nodes (trainer.nnodes) and this job has {environment.num_nodes}; "
                f"submit it with sbatch --nodes={trial.nodes}"
            )
    except ConfigError as error:
        if first:
            say_error(error)
        return 2
    # Any: submitit's class is taken for a function by type checkers.
    given = (list(arguments.overrides), str(trial.path), arguments.start_seconds, resources(trial))
    allocation: Any = Allocation(*given)

    def on_signal(number: int, _: Any) -> None:
        again = number in signals
        signals.add(number)
        if not first or again:
            return
        if not allocation.training:  # Ray is still starting
            sys.exit(PREEMPTED if number == signal.SIGUSR2 else CANCELLED)
        allocation.stop()

    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, on_signal)
    if first:
        trial.path.mkdir(parents=True, exist_ok=True)
        print(f"the run's output: {trial.path / LAUNCH_LOG}", flush=True)
    try:
        status = allocation()
    except TimeoutError as error:
        say_error(error)
        return 1
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    if status == PREEMPTED and signal.SIGTERM not in signals:
        print("stopped after a checkpoint; the job is queued again", flush=True)
        subprocess.run(["scontrol", "requeue", environment.job_id], check=False)
        time.sleep(60 * POLL_SECONDS)  # Slurm ends this job; by itself it would end as failed
    return status


if __name__ == "__main__":
    sys.exit(main())
