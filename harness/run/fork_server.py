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
ENDING = (signal.SIGTERM, signal.SIGINT)


def preload(modules: Iterable[str] = MODULES) -> None:
    """Import the modules, those that are installed."""
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")  # pyarrow would start a thread
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


def start() -> str:
    """Fork the server; returns the address for ``fork_client``.

    Raises RuntimeError where ``objection`` has one. The server is a child of this process, in its session, and ends
    when this process ends; its socket is in a folder that only this user may enter.
    """
    if reason := objection():
        raise RuntimeError(reason)
    folder = tempfile.mkdtemp(prefix="fork-")
    address = os.path.join(folder, "socket")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    gc.collect()
    gc.freeze()  # else a collection in a child would write to, and so copy, every page that it shares
    reading, writing = os.pipe()  # its end tells the server that this process has ended
    if os.fork() == 0:
        os.close(writing)
        try:
            _Server(listening, reading).serve()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)
    os.close(reading)
    listening.close()
    return address


class _Server:
    """Forks a worker for every request, and tells its client how it ended."""

    def __init__(self, listening: socket.socket, parent: int):
        self.listening, self.parent = listening, parent
        self.clients: dict[int, socket.socket] = {}  # by the pid of their worker
        self.selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Until the process that started it ends."""
        for number in ENDING:
            signal.signal(number, lambda *_: sys.exit())
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
                if key.fileobj is self.parent or key.fd == self.parent:
                    return
                if key.fd == waking:
                    with contextlib.suppress(BlockingIOError):
                        os.read(waking, 4096)
                    self._reap()
                elif key.fileobj is self.listening:
                    with contextlib.suppress(OSError, ValueError):  # a client that is gone again, or half a request
                        self._fork(self.listening.accept()[0])
                else:
                    self._lost(key.fileobj)

    def _fork(self, client: socket.socket) -> None:
        client.settimeout(10)
        size, descriptors, _, _ = socket.recv_fds(client, 8, 3)
        request = json.loads(_exactly(client, int.from_bytes(size, "big")))
        if (pid := os.fork()) == 0:
            self._become(request, descriptors, client)
        for descriptor in descriptors:
            os.close(descriptor)
        client.settimeout(None)
        self.clients[pid] = client
        self.selector.register(client, selectors.EVENT_READ)
        with contextlib.suppress(OSError):
            client.sendall(b"%d\n" % pid)

    def _become(self, request: Mapping[str, Any], descriptors: list[int], client: socket.socket) -> None:
        """In the child: shed all that is the server's, and be the worker."""
        signal.set_wakeup_fd(-1)
        for number in (*ENDING, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as Python begins
        self.selector.close()
        for descriptor in (*self.own, self.parent):
            os.close(descriptor)
        for other in (self.listening, client, *self.clients.values()):
            other.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        run(request["argv"], request["cwd"], request["env"])

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            client = self.clients.pop(pid, None)
            if client is not None:
                self.selector.unregister(client)
                with contextlib.suppress(OSError):
                    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                client.close()

    def _lost(self, client: Any) -> None:
        """A client is gone, or says what it should not: its worker ends as it did, at once."""
        self.selector.unregister(client)
        for pid, other in list(self.clients.items()):
            if other is client:
                self.clients.pop(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        client.close()


def run(argv: list[str], cwd: str, env: Mapping[str, str]) -> None:
    """Be ``python *argv`` in this folder and environment; never returns."""
    status: Any = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = list(argv)
        sys.path[0] = os.path.dirname(argv[0])
        random.seed()
        _threads(env)
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
