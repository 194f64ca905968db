"""Workers from the fork server against what plain Python does with the same script: real processes, no Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from harness.paths import ROOT
from harness.run import fork_client, fork_server

PARENT = """
import sys
from harness.run import fork_server
fork_server.preload(["wave"])
print(fork_server.start(), flush=True)
sys.stdin.read()
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")


class Server:
    """A process as the run's that has started a fork server, and the command of its workers."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout
        address = self.process.stdout.readline().strip()
        self.command = [sys.executable, "-I", "-S", fork_client.__file__, address]
        self.folder = Path(self.command[-1]).parent

    @property
    def pid(self) -> int:
        """Of the server: the parent's first child."""
        return psutil.Process(self.process.pid).children()[0].pid

    def start(self, script: Path, *words: str, plain: bool = False, **env: str) -> "subprocess.Popen[str]":
        command = [sys.executable] if plain else self.command
        return subprocess.Popen(
            [*command, str(script), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=script.parent, env={**os.environ, **env},
        )  # fmt: skip

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.end()


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "worker.py"
        path.write_text(text)
        return path

    return write


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.time() + seconds
    while not condition() and time.time() < end:
        time.sleep(0.02)
    return condition()


FORKED = "'wave' in sys.modules"  # which plain Python has not imported

STATE = """
import json, os, signal, sys
state = {
    "argv": sys.argv, "folder": os.getcwd(), "first": sys.path[0], "name": __name__, "mine": os.environ["MINE"],
    "kept": os.environ.get("LEFT_OVER"), "signals": [str(signal.getsignal(n)) for n in (15, 2, 17)],
    "open": sorted(os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{n}") and int(n) > 2),
    "input": sys.stdin.read(),
}
print(json.dumps(state))
print("to the other", file=sys.stderr)
"""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored, and a plain process would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_worker_begins_as_a_plain_python_does(server: Server, script: Callable[[str], Path]) -> None:
    worker = script(STATE)
    told = [
        server.start(worker, "--number", "a b", plain=plain, MINE="yes").communicate(timeout=20)
        for plain in (False, True)
    ]
    assert told[0] == told[1]
    state = json.loads(told[0][0])
    assert state["argv"] == [str(worker), "--number", "a b"]
    assert (state["name"], state["mine"], state["open"]) == ("__main__", "yes", [])


def test_it_is_a_fork_and_draws_other_random_numbers(server: Server, script: Callable[[str], Path]) -> None:
    worker = script(f"import random, sys\nprint({FORKED}, random.random())")
    told = [server.start(worker).communicate(timeout=20)[0].split() for _ in range(2)]
    assert [forked for forked, _ in told] == ["True", "True"]
    assert told[0][1] != told[1][1]


@pytest.mark.parametrize(
    ("text", "status", "stderr"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit('no such thing')", 1, "no such thing"),
        ("raise ValueError('of its own')", 1, "ValueError: of its own"),
        ("import os; os._exit(9)", 9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, ""),
    ],
)
def test_the_exit_status_is_the_workers(
    server: Server, script: Callable[[str], Path], text: str, status: int, stderr: str
) -> None:
    client = server.start(script(text))
    _, said = client.communicate(timeout=20)
    assert client.returncode == status
    assert stderr in said


def test_it_ends_as_python_ends(server: Server, script: Callable[[str], Path]) -> None:
    """Threads are awaited, functions of atexit run, what was printed arrives."""
    text = """
import atexit, threading, time
atexit.register(print, "at exit")
threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
print("main", end=" ")
"""
    assert server.start(script(text)).communicate(timeout=20)[0] == "main thread\nat exit\n"


WAITING = """
import os, signal, sys, time
def handle(*_):
    print("asked to end", flush=True)
    sys.exit(5)
if "handle" in sys.argv:
    signal.signal(signal.SIGTERM, handle)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def waiting(server: Server, worker: Path, *words: str) -> tuple["subprocess.Popen[str]", psutil.Process]:
    client = server.start(worker, *words)
    assert client.stdout
    return client, psutil.Process(int(client.stdout.readline()))


def test_signals_reach_the_worker(server: Server, script: Callable[[str], Path]) -> None:
    worker = script(WAITING)
    client, _ = waiting(server, worker, "handle")
    client.terminate()
    assert (client.communicate(timeout=20)[0], client.returncode) == ("asked to end\n", 5)
    client, _ = waiting(server, worker)
    client.terminate()
    assert client.wait(20) == -signal.SIGTERM


def test_worker_and_client_end_together(server: Server, script: Callable[[str], Path]) -> None:
    worker = script(WAITING)
    client, process = waiting(server, worker)
    process.kill()
    assert client.wait(20) == -signal.SIGKILL
    client, process = waiting(server, worker)
    client.kill()
    assert until(lambda: not process.is_running())


def test_workers_live_on_without_their_server_and_new_ones_are_plain(
    server: Server, script: Callable[[str], Path]
) -> None:
    client, process = waiting(server, script(WAITING))
    os.kill(server.pid, signal.SIGKILL)
    time.sleep(0.3)
    assert client.poll() is None
    assert process.is_running()
    process.kill()
    assert client.wait(20) != 0
    plain = server.start(script(f"import sys\nprint({FORKED})"))
    assert (plain.communicate(timeout=20)[0], plain.returncode) == ("False\n", 0)


def test_the_server_ends_with_the_run_and_leaves_nothing(script: Callable[[str], Path]) -> None:
    for end in (Server.end, lambda server: os.kill(server.pid, signal.SIGTERM)):
        server = Server()
        process = psutil.Process(server.pid)
        end(server)
        assert until(lambda process=process: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        assert until(lambda server=server: not server.folder.exists())
        server.end()


def test_workers_are_in_the_runs_session_and_only_this_user_may_ask(
    server: Server, script: Callable[[str], Path]
) -> None:
    _, process = waiting(server, script(WAITING))
    assert os.getsid(process.pid) == server.process.pid
    assert server.folder.stat().st_mode & 0o777 == 0o700
    process.kill()


def test_two_runs_side_by_side_have_a_server_each(server: Server, script: Callable[[str], Path]) -> None:
    other = Server()
    (client, process), (client_2, process_2) = (waiting(one, script(WAITING)) for one in (server, other))
    assert process.parent() != process_2.parent()
    other.end()
    assert client.poll() is None
    for one in (process, process_2):
        one.kill()
    client.wait(20), client_2.wait(20)


def test_half_a_request_and_a_vanished_client_do_no_harm(server: Server, script: Callable[[str], Path]) -> None:
    import socket

    for words in (b"", b"\0\0", (10**6).to_bytes(8, "big") + b"{}"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(server.command[-1])
            client.sendall(words)
    assert server.start(script("print('still here')")).communicate(timeout=20)[0] == "still here\n"


def test_nothing_is_forked_where_that_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process there are threads, as a rule; where Ray's library is loaded it is not forked either."""
    monkeypatch.setattr(os, "listdir", lambda _: ["1"])
    for name in fork_server.NEVER:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert fork_server.objection() == ""
    monkeypatch.setattr(os, "listdir", lambda _: ["1", "2"])
    assert fork_server.objection() == "2 threads are running"
    monkeypatch.setitem(sys.modules, "ray", sys)
    assert fork_server.objection() == "ray is imported already"
    with pytest.raises(RuntimeError, match="ray is imported already"):
        fork_server.start()


def test_who_asks_before_the_server_is_there_waits_and_is_plain_if_it_never_comes(
    script: Callable[[str], Path],
) -> None:
    listening = fork_server.Listening()
    worker = script(f"import sys\nprint({FORKED})")
    client = subprocess.Popen(
        [sys.executable, "-I", "-S", fork_client.__file__, listening.address, str(worker)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(0.3)
    assert client.poll() is None
    listening.close()
    assert (client.communicate(timeout=20)[0], client.returncode) == ("False\n", 0)
    assert not Path(listening.address).parent.exists()
