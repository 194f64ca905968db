"""A process that has imported what every run on this CPU imports, and forks a run's process whenever it is asked.

``harness.train`` starts one before it reads its configuration, so both go on side by side; a sweep starts one for all
its runs. It is a spare: where it is not there, has another environment or may not fork, a plain Python does the same.

    python -m harness.run.prefork FOLDER MODULE...     # listens in FOLDER until its standard input ends
"""

import contextlib
import functools
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import yaml

from harness.paths import CONF, ROOT
from harness.run import fork_server

ADDRESS = "HARNESS_PREFORK"  # environment variable: the folder in which one listens
# Beginnings of the variables that a fork must have as its server had them: an import may read them, or (Slurm's) they
# say whose limits a process is under.
SAME = (
    "OMP_", "MKL_", "KMP_", "OPENBLAS_", "NUMEXPR_", "BLIS_", "TORCH_", "PYTORCH_", "TORCHINDUCTOR_", "HF_",
    "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "ARROW_", "PYTHON", "LD_", "LANG", "LC_", "XDG_", "HOME", "TMPDIR",
    "CUDA_", "NCCL_", "GLOO_", "USE_", "SYMPY_", "SLURM_",
)  # fmt: skip


def eligible(words: Sequence[str]) -> bool:
    """Whether a run with these overrides may want one, as far as can be told before its configuration is read: there is
    no GPU, and nothing is said of another cluster."""
    plain = not any(word.split("=")[0] in ("cluster", "harness.fork_server") for word in words)
    return sys.platform == "linux" and plain and not os.path.exists("/dev/nvidiactl")


@contextlib.contextmanager
def standing(wanted: bool = True, modules: Sequence[str] = fork_server.MODULES) -> Iterator[None]:
    """One, which imports ``modules``, for whatever is started meanwhile; unless it is not ``wanted`` or there is one
    already. Runs that it has forked go on when this ends."""
    if not wanted or os.environ.get(ADDRESS):
        yield
        return
    folder = tempfile.mkdtemp(prefix="prefork-")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.run.prefork", folder, *modules],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
        env=run_environment() | _threads_of_a_run(), start_new_session=True,
    )  # fmt: skip
    os.environ[ADDRESS] = folder
    try:
        yield
    finally:
        del os.environ[ADDRESS]
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # longer where a run that it has forked goes on
        shutil.rmtree(folder, ignore_errors=True)


def run_environment() -> dict[str, str]:
    """Of a run's process: this process's, and the project importable from every folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


@functools.cache
def _threads_of_a_run() -> dict[str, str]:
    """What conf/cluster/cpu.yaml sets for every process of a run."""
    found = yaml.safe_load((CONF / "cluster" / "cpu.yaml").read_text())
    return {name: str(value) for name, value in found["ray_kwargs"]["ray_init"]["runtime_env"]["env_vars"].items()}


class Forked:
    """A process that is another's child: as much of ``subprocess.Popen`` as its watcher needs.

    Raises OSError or ValueError where nobody forks it.
    """

    def __init__(self, command: Sequence[str], log: BinaryIO, environment: Mapping[str, str]):
        """command: ``-m MODULE ARGUMENTS...``, run in ROOT with standard output and error to ``log``."""
        self.returncode: int | None = None
        self.server = socket.socket(socket.AF_UNIX)
        self.server.connect(os.path.join(os.environ[ADDRESS], "socket"))
        ask = {"argv": list(command), "cwd": str(ROOT), "env": dict(environment), "session": True}
        request = json.dumps(ask).encode()
        reading, writing = os.pipe()
        self.stdin = os.fdopen(writing, "wb")
        try:
            descriptors = [reading, log.fileno(), log.fileno()]
            socket.send_fds(self.server, [len(request).to_bytes(8, "big")], descriptors)
            self.server.sendall(request)
            self.answers = self.server.makefile("rb")
            self.pid = int(self.answers.readline())
        except (OSError, ValueError):
            self.stdin.close()
            self.server.close()
            raise
        finally:
            os.close(reading)
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process = psutil.Process(self.pid)

    def poll(self) -> int | None:
        """The exit status, negative for a signal, once the process has ended."""
        if self.returncode is None and select.select([self.server], [], [], 0)[0]:
            said = self.answers.readline()
            if said:
                self.returncode = int(said)
            elif not _lives(self):  # its server has ended before it
                self.returncode = 1
        return self.returncode

    def wait(self) -> int:
        """Wait for its end; returns ``poll``'s answer."""
        while self.poll() is None:
            time.sleep(0.05)
        return self.returncode or 0


def _lives(forked: Forked) -> bool:
    process = getattr(forked, "process", None)
    return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE


class _Prefork(fork_server.Server):
    """Turns away who has another environment than that in which it imported, and forgets this project's modules."""

    environment: Mapping[str, str]
    leaving = False

    def leave(self) -> None:
        """Fork no more, but stay for those that run: their exit status is asked for here."""
        if not self.leaving:
            self.leaving = True
            self.selector.unregister(self.parent)
            self.selector.unregister(self.listening)
            self.listening.close()
        if not self.clients:
            super().leave()

    def reap(self) -> None:
        super().reap()
        if self.leaving:
            self.leave()

    def accepts(self, request: Mapping[str, Any]) -> bool:
        return _read(request["env"]) == _read(self.environment)

    def become(self, request: Mapping[str, Any]) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "harness"]:
            del sys.modules[name]  # a run reads the code as it is when the run starts
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(request["argv"][1].rpartition(".")[2])  # what `top` shows
        super().become(request)


def _read(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(SAME)}


def main(folder: str, modules: Sequence[str]) -> int:
    """Import the modules, then serve until standard input ends."""
    environment = dict(os.environ)
    listening = fork_server.Listening(folder)
    try:
        fork_server.preload(modules)
        if fork_server.objection():
            return 1
        fork_server.freeze()
        server = _Prefork(listening.socket, sys.stdin.fileno())
        server.environment = environment
        server.serve()
    finally:
        listening.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
