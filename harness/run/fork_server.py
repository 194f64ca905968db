"""Workers of Ray as forks of one process that has imported torch and its like already.

A run on the CPU starts half a dozen Python processes, each of which would import the same packages for 4 to 5 seconds
of a core and hold their pages in memory again. The run's process imports them once (``preload``), forks a server
(``start``) and gives its Ray nodes ``ray_worker`` to start in place of Ray's own worker script.

The server has imported neither ray nor verl: Ray reads its environment once, when its library is loaded, and a child
would keep its parent's. It forks before there is any thread, and children begin as a fresh Python would: signals,
descriptors, environment, folder, ``sys.path``, random state and exit by ``atexit``.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

# By CPU-seconds of their import; what is not installed is left out.
MODULES = (
    "torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint", "transformers",
    "transformers.models.qwen2.modeling_qwen2", "transformers.models.llama.modeling_llama", "pandas", "pyarrow.parquet",
    "scipy.special", "sympy", "math_verify", "datasets", "peft", "fastapi", "uvicorn", "aiohttp", "omegaconf",
    "tensordict",
)  # fmt: skip
NEVER = ("ray", "verl", "transfer_queue")  # they load Ray's library, and nothing may have done so before the fork
# What keeps an import from starting a thread, so set before the first of them: pyarrow's.
WITHOUT_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
ENDING = (signal.SIGTERM, signal.SIGINT)


def wanted(config: Any) -> bool:
    """Whether processes of a run with this configuration are to be forks of one that has imported their packages: on
    this machine's CPU.

    Not where workers are on other nodes or on GPUs: CUDA survives no fork, and a standing cluster has its own Python.
    Nor with vLLM, which starts processes in a way of its own.
    """
    local = config.ray_kwargs.ray_init.get("address") == "local" and config.trainer.device == "cpu"
    own_rollout = config.actor_rollout_ref.rollout.name == "transformers"
    return local and own_rollout and config.harness.get("fork_server", False)


def preload(modules: Iterable[str] = MODULES) -> None:
    """Import the modules, those that are installed."""
    os.environ.update(WITHOUT_THREADS)
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def objection() -> str:
    """Why this process must not be forked, or nothing."""
    if loaded := [name for name in NEVER if name in sys.modules]:
        return f"{loaded[0]} is imported already"
    if sys.platform != "linux":
        return f"forking is not safe on {sys.platform}"
    threads = len(os.listdir("/proc/self/task"))
    return "" if threads == 1 else f"{threads} threads are running"


def freeze() -> None:
    """Before a fork: else a collection in a child would write to, and so copy, every page that it shares."""
    gc.collect()
    gc.freeze()


class Listening:
    """A server's socket, in a folder that only this user may enter. Whoever asks before the server is there waits."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or tempfile.mkdtemp(prefix="fork-")
        self.address = os.path.join(self.folder, "socket")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(self.address)
        self.socket.listen(64)

    def close(self) -> None:
        """There will be no server: who waits, and who asks from now on, becomes plain Python."""
        self.socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(listening: Listening | None = None) -> str:
    """Fork the server; returns the address for ``fork_client``.

    Raises RuntimeError where ``objection`` has one. The server is a child of this process, in its session, and ends
    when this process ends.
    """
    if reason := objection():
        raise RuntimeError(reason)
    listening = listening or Listening()
    freeze()
    reading, writing = os.pipe()  # its end tells the server that this process has ended
    if os.fork() == 0:
        os.close(writing)
        try:
            Server(listening.socket, reading).serve()
        finally:
            listening.close()
            os._exit(0)
    os.close(reading)
    listening.socket.close()
    return listening.address


class Server:
    """Forks a worker for every request, and tells its client how it ended.

    parent: a descriptor whose end tells that whoever wanted the server is gone.
    """

    def __init__(self, listening: socket.socket, parent: int):
        self.listening, self.parent = listening, parent
        self.clients: dict[int, socket.socket] = {}  # by the pid of their worker
        self.sessions: set[int] = set()  # pids of the workers that lead one
        self.selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Until the process that started it ends."""
        for number in ENDING:
            signal.signal(number, lambda *_: self.leave())
        waking, wake = os.pipe()
        for end in (waking, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # its number is written to `wake`
        signal.set_wakeup_fd(wake)
        self.own = (waking, wake)
        for source in (self.listening, self.parent, waking):
            self.selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fd == self.parent:
                    self.leave()
                elif key.fd == waking:
                    with contextlib.suppress(BlockingIOError):
                        os.read(waking, 4096)
                    self.reap()
                elif key.fileobj is self.listening:
                    with contextlib.suppress(OSError, ValueError):  # a client that is gone again, or half a request
                        self._fork(self.listening.accept()[0])
                else:
                    self._lost(key.fileobj)

    def leave(self) -> None:
        """Nobody wants this server any more; raises SystemExit."""
        sys.exit()

    def accepts(self, request: Mapping[str, Any]) -> bool:
        """Whether this server can give what is asked for; a client that is turned away starts a plain Python."""
        return True

    def _fork(self, client: socket.socket) -> None:
        client.settimeout(10)
        size, descriptors, _, _ = socket.recv_fds(client, 8, 3)
        request = json.loads(_exactly(client, int.from_bytes(size, "big")))
        try:
            if not self.accepts(request):
                client.close()
                return
            if (pid := os.fork()) == 0:
                self._shed(request, descriptors, client)
                self.become(request)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        client.settimeout(None)
        self.clients[pid] = client
        if request.get("session"):
            self.sessions.add(pid)
        self.selector.register(client, selectors.EVENT_READ)
        with contextlib.suppress(OSError):
            client.sendall(b"%d\n" % pid)

    def _shed(self, request: Mapping[str, Any], descriptors: list[int], client: socket.socket) -> None:
        """In the child: let go of all that is the server's."""
        if request.get("session"):
            os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (*ENDING, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python begins
        self.selector.close()
        for descriptor in (*self.own, self.parent):
            os.close(descriptor)
        for other in (self.listening, client, *self.clients.values()):  # a closed one is closed again
            other.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)

    def become(self, request: Mapping[str, Any]) -> None:
        """In the child: be the worker; never returns."""
        run(request["argv"], request["cwd"], request["env"])

    def reap(self) -> None:
        """Tell the clients of the workers that have ended how they did."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.sessions.discard(pid)
            client = self.clients.pop(pid, None)
            if client is not None:
                self.selector.unregister(client)
                with contextlib.suppress(OSError):
                    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                client.close()

    def _lost(self, client: Any) -> None:
        """A client is gone, or says what it should not: its worker ends as it did, at once; but one with a session of
        its own has its own way to notice, and to end all that it started."""
        self.selector.unregister(client)
        for pid, other in list(self.clients.items()):
            if other is client:
                self.clients.pop(pid)
                if pid not in self.sessions:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        client.close()


def run(argv: list[str], cwd: str, env: Mapping[str, str]) -> None:
    """Be ``python *argv`` in this folder and environment; never returns. argv begins with a script, or with -m."""
    status: Any = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        module = argv[1] if argv[0] == "-m" else None
        sys.argv = list(argv[1:] if module else argv)
        sys.path[0] = cwd if module else os.path.dirname(argv[0])
        random.seed()
        _threads(env)
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(argv[0], run_name="__main__")
        status = 0
    except SystemExit as leaving:
        status = leaving.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:  # noqa: BLE001  (as an interpreter does with an exception that nobody takes)
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons, as Python does
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def _threads(env: Mapping[str, str]) -> None:
    """What torch and numpy read of the environment when they are loaded."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and env.get("OMP_NUM_THREADS", "").isdigit():
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _exactly(client: socket.socket, size: int) -> bytes:
    """``size`` bytes; raises ValueError where the other side ends before."""
    parts = bytearray()
    while len(parts) < size:
        part = client.recv(size - len(parts))
        if not part:
            raise ValueError("half a request")
        parts += part
    return bytes(parts)
