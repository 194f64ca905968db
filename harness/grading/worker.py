"""The process in which answers are graded: ``python -m harness.grading.worker FD GRADER SECONDS MEMORY_GB``.

Whatever an answer does to it, the kernel ends it: after SECONDS of CPU time on one answer by SIGPROF, and with its
parent by SIGKILL (Linux) or at the latest when it finds the pipe closed; memory beyond the limit is a MemoryError.
"""

import ctypes
import importlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

PR_SET_PDEATHSIG = 1
REASON_LENGTH = 300  # characters of an error that travel home


def main(descriptor: int, grader: str, seconds: float, memory_gb: float) -> None:
    """Say ``("ready", "")`` or why not, then answer each (response, ground truth, finished) with (outcome, reason)."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, even within C code
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    with Connection(descriptor) as connection:
        try:
            grade, self_test = _load(grader)
            _limit(memory_gb)
            logging.disable(logging.CRITICAL)
            failure = _failed_pair(grade, self_test)
        except Exception as error:  # noqa: BLE001  (travels home and is raised there)
            failure = _reason(error)
        connection.send(("ready", "") if failure is None else ("refused", failure))
        while failure is None:
            try:
                item = connection.recv()
            except EOFError:  # the parent is gone or needs no more
                return
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                verdict = ("right" if grade(*item)["accuracy"] == 1 else "wrong", "")
            except Exception as error:  # noqa: BLE001  (counted as an error, never raised into training)
                verdict = ("error", _reason(error))
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(verdict)


def _load(grader: str) -> tuple[Callable[..., dict[str, float]], tuple[Any, ...]]:
    module, _, name = grader.rpartition(".")
    found = importlib.import_module(module)
    return getattr(found, name), getattr(found, "SELF_TEST", ())


def _limit(memory_gb: float) -> None:
    for what, value in ((resource.RLIMIT_AS, int(memory_gb * 2**30)), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _failed_pair(grade: Callable[..., dict[str, float]], self_test: tuple[Any, ...]) -> str | None:
    for response, truth, right in self_test:
        if (grade(response, truth, True)["accuracy"] == 1) != right:
            return f"self-test: {response!r} against {truth!r} must be {'right' if right else 'wrong'} and is not"
    return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:REASON_LENGTH]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
