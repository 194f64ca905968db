"""Calls made side by side in forked processes, which share what was read before with this one."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")
_calls: list[Callable[[], object]] = []  # of the pool that is being forked: its processes look them up here


@dataclass(frozen=True)
class Came(Generic[T]):
    """What came of a call: its value, or why there is none, in one line."""

    value: T | None = None
    reason: str = ""


@contextmanager
def side_by_side(
    calls: Sequence[Callable[[], T]], processes: int | None = None
) -> Iterator[Sequence[Callable[[], Came[T]]]]:
    """Begin ``calls``; gives for each a function that waits for what came of it. Their values must be picklable.

    processes: how many, by default one for each core that may be used. With one, or where forking is not safe (not
    Linux), a call is made here, when it is waited for. A call that fails has a reason and ends none of the others; nor
    does a process that dies. No thread may hold a lock at the entry: a fork would copy it locked.
    """
    count = min(processes or len(os.sched_getaffinity(0)), len(calls)) if sys.platform == "linux" else 1
    if count <= 1:
        yield [partial(_attempt, call) for call in calls]
        return
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), initializer=_worker)
    _calls[:] = calls
    try:
        futures = [pool.submit(_numbered, at) for at in range(len(calls))]
        _calls.clear()
        yield [partial(_wait, future) for future in futures]
    finally:
        _calls.clear()
        pool.shutdown(wait=True, cancel_futures=True)


def _worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    gc.freeze()  # what was there before the fork is not looked through again and again, nor copied for that


def _numbered(at: int) -> Came:
    return _attempt(_calls[at])


def _attempt(call: Callable[[], T]) -> Came[T]:
    try:
        return Came(call())
    except Exception as error:  # noqa: BLE001  (whatever it is, the others go on and this one says why)
        return Came(reason=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _wait(future: Future) -> Came:
    try:
        return future.result()
    except BrokenProcessPool:
        return Came(reason="the process that made it was ended, for want of memory perhaps")
