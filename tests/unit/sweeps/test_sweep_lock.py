"""The lock of a sweep's controller: real processes fight for it and are killed, and other machines fall silent."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.rundir import STALE_SECONDS
from sweeps import lock
from sweeps.lock import HeldError, Lock, alive, read

ROOT = Path(__file__).resolve().parents[3]
# Tries every lock that is named on its command line, says which it got, and keeps them while its input is open.
CONTENDER = """
import json, sys, time
from pathlib import Path
from sweeps.lock import HeldError, Lock
start, files = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
print("ready", flush=True)
while not start.exists():
    pass
won = []
for file in files:
    lock = Lock(file, beat=0.05)
    try:
        lock.__enter__()
        won.append(lock)
    except HeldError:
        pass
print(json.dumps([lock.file.name for lock in won]), flush=True)
sys.stdin.readline()
print(json.dumps([lock.file.name for lock in won if lock.held()]), flush=True)
for lock in won:
    lock.__exit__()
"""


@contextlib.contextmanager
def contenders(count: int, start: Path, *files: Path) -> Iterator[list[subprocess.Popen[str]]]:
    command = [sys.executable, "-c", CONTENDER, str(start), *map(str, files)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    try:
        for process in processes:
            assert line(process) == "ready"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write("\n")
        process.stdin.flush()


def holder(**changes: Any) -> dict[str, Any]:
    """A lock of another machine's, heard of just now."""
    there = {"token": "theirs", "pid": os.getpid(), "created": 0.0, "host": "elsewhere", "heartbeat": time.time()}
    return {**there, **changes}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sweep" / "lock"


def put(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def test_one_of_eight_gets_it(tmp_path: Path) -> None:
    """Half of the locks are free and half are a dead process's, which all find dead at the same time."""
    files = [tmp_path / f"lock{number}" for number in range(24)]
    for file in files[::2]:
        put(file, holder(pid=2**22 + 1, host=os.uname().nodename))
    with contenders(8, tmp_path / "go", *files) as processes:
        (tmp_path / "go").touch()
        won = Counter(name for process in processes for name in json.loads(line(process)))
        for process in processes:
            let_go(process)
        held = Counter(name for process in processes for name in json.loads(line(process)))
        for process in processes:
            assert process.wait(30) == 0
    assert won == held == {file.name: 1 for file in files}
    assert [path.name for path in tmp_path.iterdir()] == ["go"]  # all released, and nothing left of the fight


def test_who_comes_late_finds_the_successor(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two find a holder dead; the first has taken its place when the second, who was slow, gets to do it."""
    put(file, holder(heartbeat=0.0))
    first, second = Lock(file), Lock(file)

    def slow(found: dict[str, Any], now: float) -> bool:
        monkeypatch.undo()
        first.__enter__()
        return alive(found, now)

    monkeypatch.setattr(lock, "alive", slow)
    with pytest.raises(HeldError):
        second.__enter__()
    assert first.held()
    assert not second.held()
    first.__exit__()
    assert list(file.parent.iterdir()) == []


def test_who_died_while_taking_over_is_succeeded_too(file: Path) -> None:
    put(file, holder(heartbeat=0.0))
    put(file.with_name(".lock.after.theirs"), holder(token="taker", heartbeat=0.0))
    with Lock(file) as mine:
        assert mine.held()
    assert list(file.parent.iterdir()) == []


def test_a_killed_holder_releases_it_at_once(file: Path) -> None:
    with contenders(1, file.parent.parent / "go", file) as (process,):
        (file.parent.parent / "go").touch()
        assert json.loads(line(process)) == ["lock"]
        with pytest.raises(HeldError, match=f"held by process {process.pid} on {os.uname().nodename}") as caught:
            Lock(file).__enter__()
        assert "\n" not in str(caught.value)
        os.kill(process.pid, signal.SIGKILL)
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:  # its parent, this process, is not asked
            time.sleep(0.01)
        with Lock(file) as mine:
            assert mine.held()


def test_another_process_with_the_dead_ones_number_does_not_hold_it(file: Path) -> None:
    me = {"pid": os.getpid(), "host": os.uname().nodename, "created": psutil.Process().create_time()}
    put(file, holder(**me))
    with pytest.raises(HeldError):
        Lock(file).__enter__()
    put(file, holder(**{**me, "created": me["created"] - 100}))
    with Lock(file) as mine:
        assert mine.held()


@pytest.mark.parametrize(("silent", "free"), [(0.0, False), (STALE_SECONDS - 1, False), (STALE_SECONDS + 1, True)])
def test_another_machine_is_known_by_its_heartbeat(file: Path, silent: float, free: bool) -> None:
    put(file, holder(heartbeat=1e9))
    late = Lock(file, clock=lambda: 1e9 + silent)
    if free:
        with late:
            assert late.held()
        return
    with pytest.raises(HeldError, match=f"on elsewhere, heard of {silent:.0f} s ago"):
        late.__enter__()
    assert read(file) == holder(heartbeat=1e9)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"token": 1}'])
def test_a_lock_that_nobody_can_read_is_nobodys(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    with Lock(file) as mine:
        assert mine.held()


def test_the_holder_is_heard_of_again_and_again(file: Path) -> None:
    with Lock(file, beat=0.02):
        first = read(file)
        assert first
        assert (first["pid"], first["host"]) == (os.getpid(), os.uname().nodename)
        while (now := read(file)) is None or now["heartbeat"] == first["heartbeat"]:
            time.sleep(0.01)
        assert now["token"] == first["token"]
    assert read(file) is None
    with Lock(file):
        pass  # again, by whoever comes next


def test_who_lost_it_knows_and_leaves_the_new_holders_alone(file: Path) -> None:
    """A controller that slept, as with its machine, while another found it silent."""
    with Lock(file, beat=0.02) as sleeper:
        put(file, holder())
        assert not sleeper.held()
        time.sleep(0.1)  # some of its heartbeats
        assert (read(file) or {})["token"] == "theirs"
    assert (read(file) or {})["token"] == "theirs"


def test_a_full_disk_does_not_end_the_holder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lock(file, beat=0.01) as mine:
        full = []

        def write(self: Path, *_: Any) -> None:
            full.append(self)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", write)
            while len(full) < 2:
                time.sleep(0.01)
        assert mine.held()
        assert mine.thread.is_alive()
