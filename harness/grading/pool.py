"""Grading in worker processes that can be killed, from asyncio as well as from plain code.

    with GradingPool(workers=4, seconds=5) as pool:
        verdict = await pool.grade(response, ground_truth)
        verdicts = pool.grade_many([(response, ground_truth, True), ...])

One daemon thread a worker does nothing but wait for it, so no event loop is blocked and none is needed.
"""

import asyncio
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any

from harness.config import ConfigError
from harness.paths import ROOT

MATHEMATICS = "harness.grading.mathematics.grade"
OUTCOMES = ("right", "wrong", "timeout", "error")
WALL_FACTOR = 20  # an answer may take this many times its CPU limit on the clock: others want the cores too
START_SECONDS = 300  # imports and self-test on a busy machine
ATTEMPTS = 2  # a worker that was ended from outside says nothing about the answer it had

Item = tuple[str, str, bool]


@dataclass(frozen=True)
class Verdict:
    """``outcome`` is one of ``OUTCOMES``; ``reason`` says why there is a timeout or an error."""

    outcome: str
    reason: str = ""

    @property
    def accuracy(self) -> float:
        """1 if right, else 0: what could not be graded earns nothing."""
        return float(self.outcome == "right")


class GradingPool:
    """``workers`` processes that run ``grader(response, ground_truth, finished) -> {"accuracy": 0 or 1}``.

    ``seconds`` is the limit of one answer: CPU time while a worker is at it, and twenty times that on the clock.
    Waiting in the queue and starting a worker do not count. ``memory_gb`` limits a worker's address space. Every worker
    first passes its grader's ``SELF_TEST``. Raises ``ConfigError`` if a worker cannot start or fails the test.
    """

    def __init__(self, workers: int, seconds: float, grader: str = MATHEMATICS, memory_gb: float = 2.0):
        if workers < 1 or seconds <= 0:
            raise ConfigError(f"grading pool: workers={workers} must be at least 1 and seconds={seconds} above 0")
        self._closed = False
        self._queue: queue.SimpleQueue[tuple[Future[Verdict], Item] | None] = queue.SimpleQueue()
        self._workers = [_Worker(grader, seconds, memory_gb) for _ in range(workers)]
        started: list[Future[None]] = [Future() for _ in self._workers]
        self._threads = [
            threading.Thread(target=self._serve, args=pair, daemon=True, name="grading")
            for pair in zip(self._workers, started, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        try:
            for future in started:
                future.result()
        except BaseException:
            self.close()
            raise

    def submit(self, response: str, ground_truth: str, finished: bool = True) -> "Future[Verdict]":
        """Queue one answer; the future never raises on account of the answer, and is cancelled by ``close``.

        Raises RuntimeError once the pool is closed.
        """
        if self._closed:
            raise RuntimeError("the grading pool is closed")
        future: Future[Verdict] = Future()
        self._queue.put((future, (response, ground_truth, finished)))
        return future

    async def grade(self, response: str, ground_truth: str, finished: bool = True) -> Verdict:
        """One answer, without blocking the running event loop."""
        return await asyncio.wrap_future(self.submit(response, ground_truth, finished))

    def grade_many(self, items: Iterable[Item]) -> list[Verdict]:
        """Many answers at once, in their order; blocks until all are graded."""
        return [future.result() for future in [self.submit(*item) for item in items]]

    def processes(self) -> list[int]:
        """Process ids of the workers that are running."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self) -> None:
        """Cancel what waits, kill the workers; safe to call twice."""
        self._closed = True
        # What waits goes first: a thread whose worker is gone would take the next task and call it an error.
        with contextlib.suppress(queue.Empty):
            while True:
                task = self._queue.get_nowait()
                if task:
                    task[0].cancel()
        for worker in self._workers:
            worker.retire()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "GradingPool":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _serve(self, worker: "_Worker", started: "Future[None]") -> None:
        try:
            worker.start()
        except ConfigError as error:
            started.set_exception(error)
            return
        started.set_result(None)
        while (task := self._queue.get()) is not None:
            future, item = task
            if future.set_running_or_notify_cancel():
                future.set_result(worker.grade(item))
            with contextlib.suppress(ConfigError):  # a worker that was killed is replaced before the next answer comes
                worker.start()
        worker.kill()


class _Worker:
    """One process at a time, started again after a death. Used by one thread, which must outlive the process: on
    Linux the parent whose death ends it is the thread."""

    def __init__(self, grader: str, seconds: float, memory_gb: float):
        self.arguments = (grader, str(seconds), str(memory_gb))
        self.seconds = seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.connection: Any = None
        self.retired = False

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self) -> None:
        """Nothing if it runs. Raises ``ConfigError`` if it cannot, or must not any more."""
        if self.process:
            return
        if self.retired:
            raise ConfigError("the grading pool is closed")
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "harness.grading.worker", str(theirs.fileno()), *self.arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},  # the same verdict in every worker
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            state, reason = self.connection.recv() if self.connection.poll(START_SECONDS) else ("late", "")
        except (EOFError, OSError):
            state, reason = "dead", f"the worker ended at its start with status {self.kill()}"
        if state != "ready":
            self.kill()
            reason = reason or f"not ready after {START_SECONDS} seconds"
            raise ConfigError(f"grader {self.arguments[0]}: {reason}")

    def grade(self, item: Item) -> Verdict:
        status = None
        for _ in range(ATTEMPTS):
            try:
                self.start()
                self.connection.send(item)
                if self.connection.poll(WALL_FACTOR * self.seconds):
                    return Verdict(*self.connection.recv())
                self.kill()
                return Verdict("timeout", f"{WALL_FACTOR * self.seconds:g} seconds on the clock")
            except ConfigError as error:
                return Verdict("error", str(error))
            except (EOFError, OSError):
                status = self.kill()
                if status == -signal.SIGPROF:
                    return Verdict("timeout", f"{self.seconds:g} seconds of CPU time")
        return Verdict("error", f"the worker ended with status {status}")

    def kill(self) -> int | None:
        """End the process and return its exit status, negative where a signal ended it."""
        if not self.process:
            return None
        self.process.kill()
        status = self.process.wait()
        self.connection.close()
        self.process = None
        return status

    def retire(self) -> None:
        """From another thread: kill the process and start none again."""
        self.retired = True
        process = self.process
        if process:
            process.kill()
