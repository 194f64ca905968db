"""The pool against answers that hang, eat memory or kill, and against its own workers' and parent's death."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.config import ConfigError
from harness.grading.pool import GradingPool
from harness.paths import ROOT

HANGING = r"\boxed{9^{9^{9^{9}}}}"  # math-verify evaluates it
PROBES = '''
import os, signal, time

def grade(response, truth, finished):
    """What the response says: sleep SECONDS, spin SECONDS, die, raise, allocate; else right if it is the truth."""
    word, _, rest = response.partition(" ")
    if word == "sleep":
        time.sleep(float(rest))
    if word == "spin":
        end = time.process_time() + float(rest)
        while time.process_time() < end:
            pass
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "once" and not os.path.exists(rest):
        open(rest, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "raise":
        raise ValueError("no verdict")
    if word == "recurse":
        grade(response, truth, finished)
    if word == "allocate":
        bytearray(8 << 30)
    return {"accuracy": float(truth in ("anything", response))}
'''


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "grading_probes.py").write_text(PROBES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "grading_probes.grade"


@pytest.fixture(scope="module")
def mathematics() -> Iterator[GradingPool]:
    with GradingPool(workers=2, seconds=1) as pool:
        yield pool


def outcomes(pool: GradingPool, *responses: str) -> list[str]:
    return [verdict.outcome for verdict in pool.grade_many([(response, "anything", True) for response in responses])]


def test_a_real_hanging_answer_is_killed_and_nothing_else_suffers(mathematics: GradingPool) -> None:
    before = set(mathematics.processes())
    items = [(HANGING, "5", True), *((rf"\boxed{{{n}}}", str(n + n % 2), True) for n in range(10))]
    hanging, *others = mathematics.grade_many(items)
    assert (hanging.outcome, hanging.accuracy) == ("timeout", 0.0)
    assert "CPU" in hanging.reason
    assert [verdict.outcome for verdict in others] == ["right", "wrong"] * 5
    assert mathematics.grade_many([(r"\boxed{1}", "1", True)])[0].outcome == "right"
    assert len(before & {p for p in before if psutil.pid_exists(p)}) == 1


HOSTILE = {
    "megabytes": "9" * 10**6,
    "boxed megabytes": rf"\boxed{{{'9' * 150_000}}}",
    "parentheses": rf"\boxed{{{'(' * 450}1{')' * 450}}}",
    "roots": r"\boxed{" + r"\sqrt{" * 100 + "2" + "}" * 101,
    "open braces": r"\boxed{" * 10**4,
    "powers": r"\boxed{9**9**9**9}",
    "factorial": r"\boxed{1000000000!}",
    "product": r"\boxed{\prod_{k=1}^{1000000} k}",
    "code": r"\boxed{__import__('os').kill(__import__('os').getppid(), 9)}",
    "unicode": "\\boxed{\ud800\x00\U0010ffff\u202e}",
}


def test_hostile_answers_are_never_right_and_never_hang(mathematics: GradingPool) -> None:
    verdicts = mathematics.grade_many([(response, "5", True) for response in HOSTILE.values()])
    found = {name: verdict.outcome for name, verdict in zip(HOSTILE, verdicts, strict=True)}
    assert "right" not in found.values()
    assert found["megabytes"] == found["boxed megabytes"] == found["code"] == "wrong"
    assert found["factorial"] == "timeout"


def test_200_at_once_from_an_event_loop_that_stays_free(mathematics: GradingPool) -> None:
    async def run() -> tuple[list[str], float]:
        gaps = [time.monotonic()]

        async def tick() -> None:
            while True:
                await asyncio.sleep(0.01)
                gaps.append(time.monotonic())

        ticking = asyncio.create_task(tick())
        jobs = [mathematics.grade(rf"\boxed{{{n}}}", str(n - n % 2)) for n in range(200)]
        verdicts = await asyncio.gather(*jobs, mathematics.grade(HANGING, "5"))
        ticking.cancel()
        return [verdict.outcome for verdict in verdicts], float(len(gaps))

    found, ticks = asyncio.run(run())
    assert found == ["right", "wrong"] * 100 + ["timeout"]
    assert ticks > 20  # the hanging answer alone takes a second


def test_waiting_in_the_queue_does_not_count(probes: str) -> None:
    with GradingPool(workers=1, seconds=0.5, grader=probes) as pool:
        assert outcomes(pool, *["spin 0.2"] * 10) == ["right"] * 10  # the last one waits for 1.8 seconds of CPU time
        assert outcomes(pool, "spin 3", "spin 0.2") == ["timeout", "right"]


def test_sleeping_and_dying_and_raising_are_told_apart(probes: str) -> None:
    with GradingPool(workers=1, seconds=0.1, grader=probes) as pool:
        (slept,) = pool.grade_many([("sleep 600", "anything", True)])
        assert (slept.outcome, slept.reason) == ("timeout", "2 seconds on the clock")
        died, raised, greedy, recursive, right, wrong = pool.grade_many(
            [
                (r, t, True)
                for r, t in [("die", "x"), ("raise", "x"), ("allocate", "x"), ("recurse", "x"), ("x", "x"), ("x", "y")]
            ]
        )
    assert (died.outcome, died.reason) == ("error", f"the worker ended with status {-signal.SIGKILL}")
    assert (raised.outcome, raised.reason) == ("error", "ValueError: no verdict")
    assert (greedy.outcome, greedy.reason[:11]) == ("error", "MemoryError")
    assert (recursive.outcome, recursive.reason[:14]) == ("error", "RecursionError")
    assert (right.outcome, wrong.outcome) == ("right", "wrong")


def test_a_worker_killed_in_the_middle_costs_no_verdict(probes: str, tmp_path: Path) -> None:
    with GradingPool(workers=1, seconds=30, grader=probes) as pool:
        assert outcomes(pool, f"once {tmp_path / 'died'}") == ["right"]  # killed at the first try, asked again
        (pid,) = pool.processes()
        future = pool.submit("sleep 1", "anything")
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        assert future.result().outcome == "right"
        assert pool.processes() != [pid]
        os.kill(pool.processes()[0], signal.SIGKILL)  # while idle
        assert outcomes(pool, "x") == ["right"]


def test_close_cancels_what_waits_and_leaves_no_process(probes: str) -> None:
    pool = GradingPool(workers=2, seconds=60, grader=probes)
    pids = pool.processes()
    futures = [pool.submit("sleep 600", "anything") for _ in range(5)]
    time.sleep(0.2)
    pool.close()
    pool.close()
    assert sum(future.cancelled() for future in futures) == 3
    assert {future.result().outcome for future in futures if not future.cancelled()} == {"error"}
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("x", "x")
    assert not [thread for thread in threading.enumerate() if thread in pool._threads]


PARENT = """
import sys, time
from harness.grading.pool import GradingPool
pool = GradingPool(2, 600, sys.argv[1])
futures = [pool.submit("sleep 600", "x"), pool.submit("spin 600", "x")]
print(*pool.processes(), flush=True)
if sys.argv[2] == "stay":
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_no_worker_outlives_its_parent(probes: str, how: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, probes, "stay" if how == "killed" else "end"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    if how == "killed":
        parent.kill()
    parent.wait(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    for worker in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    assert not alive


def test_a_pool_that_cannot_work_says_why_in_one_line(probes: str, tmp_path: Path) -> None:
    (tmp_path / "bad_grader.py").write_text(
        'SELF_TEST = (("1", "1", True), ("2", "1", False))\n'
        'def grade(response, truth, finished):\n    return {"accuracy": 1.0}\n'
    )
    expected = {
        "bad_grader.grade": "self-test: '2' against '1' must be wrong and is not",
        "no_such_module.grade": "No module named 'no_such_module'",
        "grading_probes.no_such_function": "no_such_function",
    }
    for grader, message in expected.items():
        with pytest.raises(ConfigError, match=rf"^grader {grader}: [^\n]*{message}[^\n]*$"):
            GradingPool(workers=1, seconds=1, grader=grader)
    for workers, seconds in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="workers"):
            GradingPool(workers=workers, seconds=seconds, grader=probes)
