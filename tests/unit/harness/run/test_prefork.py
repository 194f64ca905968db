"""Processes forked for a run against those that a plain Python would have been: real ones, without Ray."""

import contextlib
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
from harness.run import prefork

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")

JOB = """
import json, os, signal, sys
what, *rest = sys.argv[1:]
if what == "state":
    print(json.dumps({
        "argv": rest, "folder": os.getcwd(), "first": sys.path[0], "name": __name__, "mine": os.environ.get("MINE"),
        "signals": [str(signal.getsignal(n)) for n in (15, 2, 17)], "leads": os.getsid(0) == os.getpid(),
        "project": [name for name in sys.modules if name.startswith("harness")],
        "open": [n for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")],
        "input": sys.stdin.read(),
    }), file=sys.stderr)
elif what == "forked":
    print("wave" in sys.modules)
elif what == "exit":
    sys.exit(int(rest[0]))
elif what == "wait":
    print("waits", flush=True)
    sys.stdin.read()
    sys.exit(3)
"""


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "a_job.py").write_text(JOB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv(prefork.ADDRESS, raising=False)
    with prefork.standing(modules=["wave"]):
        assert until((Path(os.environ[prefork.ADDRESS]) / "socket").exists)
        yield


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.time() + seconds
    while not condition() and time.time() < end:
        time.sleep(0.02)
    return condition()


def forked(log: Path, *words: str, **env: str) -> prefork.Forked:
    with log.open("wb") as file:
        return prefork.Forked(["-m", "a_job", *words], file, {**prefork.run_environment(), **env})


def servers() -> list[psutil.Process]:
    """Those that this process has started for the folder in its environment; an earlier test's may still be ending."""
    mine = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in mine if os.environ[prefork.ADDRESS] in p.cmdline()]


def server() -> psutil.Process:
    return servers()[0]


def test_a_run_begins_as_a_plain_python_does(standing: None, log: Path) -> None:
    one = forked(log, "state", "--number", "a b", MINE="yes")
    one.stdin.write(b"to its input")
    one.stdin.close()
    assert one.wait() == 0
    plain = subprocess.run(
        [sys.executable, "-m", "a_job", "state", "--number", "a b"], input="to its input", text=True, cwd=ROOT,
        env={**prefork.run_environment(), "MINE": "yes"}, capture_output=True, start_new_session=True, check=True,
    ).stderr  # fmt: skip
    assert json.loads(log.read_text()) == json.loads(plain)
    assert json.loads(plain)["project"] == []
    assert one.pid != server().pid


def test_it_is_a_fork_and_its_exit_status_arrives(standing: None, log: Path) -> None:
    assert forked(log, "forked").wait() == 0
    assert log.read_text() == "True\n"
    assert forked(log, "exit", "7").wait() == 7
    one = forked(log, "wait")
    assert until(lambda: log.read_text() == "waits\n")
    assert one.poll() is None
    os.kill(one.pid, signal.SIGKILL)
    assert one.wait() == -signal.SIGKILL


def test_who_imports_by_other_variables_is_turned_away(standing: None, log: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        forked(log, "forked", OMP_NUM_THREADS="3")
    assert forked(log, "forked", WANDB_MODE="offline").wait() == 0


def test_a_run_outlives_whoever_started_its_server_and_its_exit_status_still_arrives(standing: None, log: Path) -> None:
    one, parent = forked(log, "wait"), server()
    parent.terminate()
    time.sleep(0.3)
    assert parent.is_running()
    assert parent.status() != psutil.STATUS_ZOMBIE
    with pytest.raises((OSError, ValueError)):
        forked(log, "forked")
    one.stdin.close()
    assert one.wait() == 3
    assert until(lambda: not parent.is_running() or parent.status() == psutil.STATUS_ZOMBIE)


def test_a_run_outlives_its_server(standing: None, log: Path) -> None:
    one = forked(log, "wait")
    server().kill()
    time.sleep(0.3)
    assert one.poll() is None
    one.stdin.close()
    assert one.wait() != 0  # nobody knows how it ended


def test_one_that_is_there_serves_all_and_leaves_nothing(standing: None) -> None:
    folder = os.environ[prefork.ADDRESS]
    with prefork.standing(modules=["wave"]):
        assert os.environ[prefork.ADDRESS] == folder
    assert Path(folder).is_dir()
    assert len(servers()) == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path) -> None:
    monkeypatch.delenv(prefork.ADDRESS, raising=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(prefork.standing(False))
        assert prefork.ADDRESS not in os.environ
    monkeypatch.setenv(prefork.ADDRESS, str(tmp_path))
    with pytest.raises(OSError, match="No such file"):
        forked(log, "forked")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["experiment=tiny", "algo=luspo"], True),
        (["experiment=tiny", "cluster=gpu"], False),
        (["harness.fork_server=false"], False),
    ],
)
def test_only_a_run_on_the_cpu_may_want_one(words: list[str], wanted: bool) -> None:
    assert prefork.eligible(words) is (wanted and not os.path.exists("/dev/nvidiactl"))
