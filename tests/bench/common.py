"""Run one program as its own session and measure it from outside, in the same way whatever it is."""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from harness.paths import ROOT
from harness.run.process import end_session

RECORDS = "metrics.jsonl"  # one JSON line a step, as verl's file logger writes it; trl_worker.py writes the same
POLL_SECONDS = 0.005  # how late a step may be seen
MEMORY_SECONDS = 1.0  # between two looks at the memory, or so long that looking takes no more than
MEMORY_SHARE = 0.02  # this share of one core: the kernel counts a process's pages one by one
LOG_TAIL = 3000  # characters


@dataclass
class Measurement:
    """One run. Times are seconds of wall clock since the process was started; memory is summed over its processes."""

    seconds: float = 0.0  # until the process had ended
    steps: list[dict[str, Any]] = field(default_factory=list)  # {step, seconds, response_length (tokens), timing_s}
    peak_bytes: int = 0  # proportional set size (unique set size where the system knows no other)
    peak_processes: int = 0
    sampler_seconds: float = 0.0  # CPU time that sampling the memory took


def measure(command: list[str], work: Path, environment: dict[str, str], follow: bool = True) -> Measurement:
    """Run ``command`` to its end; with ``follow``, note when each line of the first RECORDS file below ``work`` came.

    All output goes to ``work/log.txt``. Raises RuntimeError with its end if the command fails. Every process that the
    command started, in whatever session, is ended before this returns.
    """
    result = Measurement()
    with (work / "log.txt").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    sessions = {process.pid}
    over = threading.Event()
    sampler = threading.Thread(target=_sample_memory, args=(process.pid, sessions, result, over), daemon=True)
    sampler.start()
    records = _new_records(work) if follow else None
    try:
        while True:
            ended = process.poll() is not None  # asked before the last look at the file, so that no line is missed
            rows = next(records) if records else None
            for row in rows or []:
                result.steps.append(_step(row, time.perf_counter() - began))
            if ended:
                break
            time.sleep(POLL_SECONDS if rows is not None else 10 * POLL_SECONDS)
        result.seconds = time.perf_counter() - began
    finally:
        over.set()
        sampler.join()
        for session in sessions:
            end_session(session)
        process.wait()
    if process.returncode:
        tail = (work / "log.txt").read_text(errors="replace")[-LOG_TAIL:]
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{tail}")
    return result


def _new_records(work: Path) -> Iterator[list[dict[str, Any]] | None]:
    """At each ``next``: the training steps recorded since the last one; None while there is no file yet."""
    while (path := next(work.rglob(RECORDS), None)) is None:
        yield None
    rest = b""
    with path.open("rb") as file:
        while True:
            *lines, rest = (rest + file.read()).split(b"\n")
            rows = [json.loads(line) for line in lines]
            yield [row for row in rows if "response_length/mean" in row["data"]]


def _step(row: dict[str, Any], seconds: float) -> dict[str, Any]:
    timing = {key.removeprefix("timing_s/"): value for key, value in row["data"].items() if key.startswith("timing_s/")}
    length = row["data"]["response_length/mean"]
    return {"step": row["step"], "seconds": seconds, "response_length": length, "timing_s": timing}


def _sample_memory(root: int, sessions: set[int], result: Measurement, over: threading.Event) -> None:
    """Until ``over``, now and then: add the sessions that were started to ``sessions`` and the peak to ``result``."""
    pause = MEMORY_SECONDS
    while not over.wait(pause):
        total = count = 0
        for process in _family(root, sessions):
            with contextlib.suppress(psutil.Error):
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.uss)
                count += 1
        if total > result.peak_bytes:
            result.peak_bytes, result.peak_processes = total, count
        used, result.sampler_seconds = result.sampler_seconds, time.thread_time()
        pause = max(MEMORY_SECONDS, (result.sampler_seconds - used) / MEMORY_SHARE)


def _family(root: int, sessions: set[int]) -> list[psutil.Process]:
    """All processes of ``sessions``, after adding those of the descendants of ``root``.

    Sessions, because a process whose parent has ended is nobody's descendant; ``root`` leads one of its own.
    """
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                sessions.add(os.getsid(child.pid))
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getsid(pid) in sessions:
                found.append(psutil.Process(pid))
    return found
