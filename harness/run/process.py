"""One training process: started in a session of its own, watched, and ended with everything that it started."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from harness.paths import ROOT
from harness.run import prefork
from harness.run.watch import Watch
from harness.rundir import ERROR_FILE, HEARTBEAT_SECONDS, STOP_FILE, RunDir

POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # for a process that is stopped in the middle
ENDED_GRACE_SECONDS = 1.0  # for what a process left behind that ended by itself
EXCEPTION = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b: .+)")


def session_processes(sid: int) -> list[psutil.Process]:
    """Living processes of a session. Ray's workers leave the process group of who started them, never the session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == sid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def living(pid: int, created: float) -> psutil.Process | None:
    """The process with this id and start time while it lives: ids recur, start times do not."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def end_session(sid: int, spare: int | None = None, grace: float = GRACE_SECONDS) -> None:
    """End every process of a session but ``spare``: SIGTERM, then SIGKILL for what is left after ``grace`` seconds."""

    def signal_all(number: int) -> list[psutil.Process]:
        processes = [p for p in session_processes(sid) if p.pid != spare]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return processes

    _, alive = psutil.wait_procs(signal_all(signal.SIGTERM), timeout=grace)
    if alive or session_processes(sid):
        psutil.wait_procs(signal_all(signal.SIGKILL), timeout=grace)


class StopRequest:
    """SIGTERM while a run trains: a file tells the trainer to end after a checkpoint; a second SIGTERM ends it at once.

    Only the main thread may handle signals; elsewhere nothing changes.
    """

    def __init__(self, attempt: Path):
        self.file = attempt / STOP_FILE
        self.since: float | None = None

    def __enter__(self) -> "StopRequest":
        self.main = threading.current_thread() is threading.main_thread()
        if self.main:
            self.before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.main:
            signal.signal(signal.SIGTERM, self.before)

    def _handle(self, *_: Any) -> None:
        if self.since is not None:
            raise KeyboardInterrupt
        self.since = time.time()
        self.file.touch()


def _start(
    command: list[str], log: Path, forked: Mapping[str, str] | None
) -> "prefork.Forked | subprocess.Popen[bytes]":
    """``python *command`` in a session of its own, as a fork where somebody forks it; its input is a lifeline."""
    environment = prefork.run_environment()
    with log.open("wb") as file:
        if forked is not None:
            with contextlib.suppress(OSError, ValueError, KeyError):
                return prefork.Forked(command, file, {**environment, **forked})
        return subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )


def train_process(
    run: RunDir,
    attempt: Path,
    resume: Path | None,
    watch: Watch,
    grace: float,
    tick: Callable[[], None],
    forked: Mapping[str, str] | None = None,
) -> tuple[int, str | None]:
    """Run ``harness.plugin.job`` to its end; ``tick`` is called twice a second.

    grace: seconds that the trainer has for a last step and checkpoint after SIGTERM.
    forked: the environment of the run's processes where this one may be a fork of ``prefork``'s.
    Returns (exit status, one-line reason or None). Whatever happens here, KeyboardInterrupt included, no process of
    the run is left behind.
    """
    command = ["-m", "harness.plugin.job", str(run.path), str(attempt)]
    if resume:
        command += ["--resume", str(resume)]
    process = _start(command, attempt / "log.txt", forked)
    beat, verdict = 0.0, None
    try:
        with StopRequest(attempt) as stop:
            while process.poll() is None and not verdict:
                if time.time() - beat >= HEARTBEAT_SECONDS:
                    beat = time.time()
                    with contextlib.suppress(OSError):  # a full disk: training itself will say so where it matters
                        verdict = watch.look()
                        run.write_status("running", pid=os.getpid(), host=os.uname().nodename, **watch.status())
                if stop.since and time.time() - stop.since > grace:
                    verdict = f"StopRequestedError: no checkpoint within {grace:g} s (harness.watch.grace_seconds)"
                tick()
                time.sleep(POLL_SECONDS)
    finally:
        # Closing the lifeline asks the process to end everything itself; what is left is ended from here.
        ended = process.poll() is not None
        if process.stdin:
            process.stdin.close()
        end_session(process.pid, grace=ENDED_GRACE_SECONDS if ended else GRACE_SECONDS)
        status = process.wait()
    if verdict:  # ended from here, whatever its exit status says
        return status or 1, verdict
    alert = watch.look()  # what the last steps brought
    return status, (alert or failure(attempt, status)) if status else None


def failure(attempt: Path, returncode: int) -> str:
    """Why an attempt failed, in one line: a rollout's own exception before verl's later, unrelated one."""
    log = (attempt / "log.txt").read_text(errors="replace") if (attempt / "log.txt").exists() else ""
    rollout = log.find("Error in _run_prompt")
    if rollout >= 0:
        for line in log[rollout:].splitlines()[1:]:
            if match := EXCEPTION.search(line):
                return f"in the rollout: {match[1]}"
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads((attempt / ERROR_FILE).read_text())["error"]
    if returncode < 0:
        return f"the training process was ended by {signal.Signals(-returncode).name}"
    errors = [match[1] for line in log.splitlines() if (match := EXCEPTION.search(line))]
    return errors[-1] if errors else f"the training process ended with status {returncode}; see {attempt / 'log.txt'}"
