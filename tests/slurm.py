"""A real Slurm of one's own on one machine, for tests: munge, controller and nodes, everything in one folder.

Debian and Ubuntu: ``apt-get install slurmctld slurmd slurm-client munge``; no service has to run and no file of /etc is
changed. Options as in munged(8), slurm.conf(5) and gres.conf(5) of Slurm 22.05.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "squeue", "sbatch", "srun", "scancel", "scontrol", "setpriv")
LONGEST = 75  # characters of a folder's path: a socket's, some 30 longer, must stay below 108 bytes (unix(7))

# The nodes are this host several times over, so what they have is declared, not detected (config_overrides), and memory
# is not rationed (CR_Core). No cgroups: a container may have none to give, so a job's process that two forks took from
# its parent is not killed with the job. A requeued job waits for cred_expire to pass; 5 s is the least Slurm takes.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
JobRequeue=1
KillWait=2
GresTypes=gpu
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=1048576{gres}\n"


class Unavailable(RuntimeError):  # noqa: N818  (no failure: a test skips with it)
    """Slurm cannot run here; the message is the reason."""


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster: ``env`` is the environment in which Slurm's commands, and what calls them, talk to it."""

    folder: Path
    nodes: tuple[str, ...]
    env: dict[str, str]

    def run(self, *command: str) -> str:
        """Standard output of ``command``, stripped; RuntimeError with its standard error where it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()


@contextmanager
def slurm_cluster(folder: Path, nodes: int = 2, cpus: int = 2, gpus: int = 0) -> Iterator[SlurmCluster]:
    """Slurm with ``nodes`` nodes, node0, node1, ..., of ``cpus`` CPUs and ``gpus`` pretended GPUs each.

    It writes under ``folder`` alone (new or empty, a path of at most 75 characters), listens on free ports and runs as
    the current user. On leaving, its jobs are cancelled, its daemons ended, and what its jobs left behind is killed.
    Raises Unavailable where a program is missing, ValueError where the path is too long, RuntimeError with the logs
    where the cluster does not come up.
    """
    folder = folder.resolve()
    if len(str(folder)) > LONGEST:
        raise ValueError(f"the path of a cluster's folder has at most {LONGEST} characters: {folder}")
    programs = _programs()
    cluster = SlurmCluster(folder, tuple(f"node{i}" for i in range(nodes)), _environment(folder))
    _write(cluster, cpus, gpus)
    commands = {
        "munged": [
            "--foreground", "--num-threads=10", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
            f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed",
            "--force",  # else all folders above the socket would have to be open to all users
        ],
        "slurmctld": ["-D"],
        **{node: ["-D", "-N", node] for node in cluster.nodes},
    }  # fmt: skip
    with ExitStack() as stack:
        daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name, arguments in commands.items():
            daemons[name] = _start(cluster, name, programs.get(name, programs["slurmd"]), arguments)
            stack.callback(_end, daemons[name])
            if name == "munged":  # slurmd takes no signal while it waits for munge
                _wait((folder / "munge.socket").exists, cluster, daemons)
        stack.callback(_clear, cluster)
        _wait(lambda: _states(cluster) == ["idle"] * nodes, cluster, daemons)
        yield cluster


def _programs() -> dict[str, str]:
    """Where each program is; the daemons are in folders that a user's PATH may lack."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = {name: shutil.which(name, path=path) for name in PROGRAMS}
    if missing := [name for name, where in found.items() if where is None]:
        raise Unavailable(f"Slurm is not installed: no {', '.join(missing)}")
    return {name: where for name, where in found.items() if where is not None}


def _environment(folder: Path) -> dict[str, str]:
    """The environment less what another Slurm, whose job this may be, put there."""
    others = ("SLURM", "SBATCH", "SALLOC")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
    return {**kept, "SLURM_CONF": str(folder / "slurm.conf")}


def _write(cluster: SlurmCluster, cpus: int, gpus: int) -> None:
    folder, host = cluster.folder, socket.gethostname().split(".")[0]
    for name in ("state", *cluster.nodes):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    port, *ports = _free_ports(1 + len(cluster.nodes))
    gres = f" Gres=gpu:{gpus}" if gpus else ""
    user = pwd.getpwuid(os.getuid()).pw_name
    (folder / "slurm.conf").write_text(
        CONFIG.format(host=host, port=port, user=user, folder=folder)
        + "".join(
            NODE.format(name=name, host=host, port=port, cpus=cpus, gres=gres)
            for name, port in zip(cluster.nodes, ports, strict=True)
        )
    )
    # Slurm wants a device for each GPU, each under a name of its own.
    for i in range(gpus):
        (folder / f"gpu{i}").symlink_to("/dev/null")
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={folder}/gpu{i}\n" for i in range(gpus)))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # all are open at once, so that no two are the same
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start(cluster: SlurmCluster, name: str, program: str, arguments: list[str]) -> subprocess.Popen[bytes]:
    """A daemon, ended with us even where we are killed; it logs to ``name.log``."""
    with (cluster.folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", program, *arguments],
            cwd=cluster.folder, env=cluster.env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=5)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _states(cluster: SlurmCluster) -> list[str]:
    with suppress(RuntimeError):  # the controller does not answer yet
        return cluster.run("sinfo", "--noheader", "--Node", "--format=%T").split()
    return []


def _wait(condition: Callable[[], bool], cluster: SlurmCluster, daemons: dict[str, subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + 30
    while not condition():
        dead = [name for name, daemon in daemons.items() if daemon.poll() is not None]
        if dead or time.monotonic() > end:
            logs = [path.read_text(errors="replace")[-2000:] for path in sorted(cluster.folder.glob("*.log"))]
            reason = f"{', '.join(dead)} ended" if dead else "not ready after 30 s"
            raise RuntimeError("\n".join([f"Slurm did not come up: {reason}", *logs]))
        time.sleep(0.1)


def _clear(cluster: SlurmCluster) -> None:
    """Cancel all jobs, then kill what is left of them."""
    with suppress(RuntimeError, subprocess.TimeoutExpired):  # a test may have ended the controller
        if jobs := set(cluster.run("squeue", "--noheader", "--format=%A").split()):
            cluster.run("scancel", *jobs)
        end = time.monotonic() + 15
        while time.monotonic() < end and cluster.run("squeue", "--noheader"):
            time.sleep(0.1)
    for _ in range(5):  # again, for those born meanwhile
        left = [process for process in psutil.process_iter() if _of_job(process, cluster)]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=2)
        if not left:
            break


def _of_job(process: psutil.Process, cluster: SlurmCluster) -> bool:
    """Whether ``process`` belongs to a job of this cluster, by its environment, or serves one, by its socket."""
    try:
        if process.name() == "slurmstepd":  # it clears its environment
            return any(str(each.laddr).startswith(f"{cluster.folder}/") for each in process.net_connections("unix"))
        env = process.environ()
    except psutil.Error:  # gone, or another user's
        return False
    return env.get("SLURM_CONF") == cluster.env["SLURM_CONF"] and "SLURM_JOB_ID" in env
