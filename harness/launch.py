"""One training process: started in a session of its own, watched, and ended with everything that it started."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from harness.assets import ROOT
from harness.rundir import HEARTBEAT_SECONDS, RunDir, is_trained

ERROR_FILE = "error.json"
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


def resume_point(run: RunDir) -> tuple[int, Path | None]:
    """The last step from which the record continues without a hole, and its checkpoint; (0, None) to start afresh.

    verl writes the checkpoint of step N before N's metrics, so a kill in between leaves a checkpoint without its row:
    that one is passed over. So is one whose files were not finished.
    """
    recorded = {step for step, data in run.metrics()[0].items() if is_trained(data)}
    complete = 0
    while complete + 1 in recorded:
        complete += 1
    usable = [(step, folder) for step, folder in checkpoints(run) if step <= complete and intact(folder)]
    return max(usable, default=(0, None), key=lambda pair: pair[0])


def drop_checkpoints(run: RunDir, resume: int, keep: int) -> None:
    """Delete checkpoints that are of no more use: without a record, or older than the ``keep`` latest ones.

    verl remembers what to delete in memory only, so what an earlier attempt left would stay for ever.
    """
    folders = sorted(checkpoints(run))
    kept = [step for step, _ in folders if step <= resume][-keep:]
    for step, folder in folders:
        if step not in kept:
            shutil.rmtree(folder)


def train_process(run: RunDir, attempt: Path, resume: Path | None, tick: Callable[[], None]) -> tuple[int, str | None]:
    """Run ``harness.job`` to its end; ``tick`` is called twice a second.

    Returns (exit status, one-line reason or None). Whatever happens here, KeyboardInterrupt included, no process of
    the run is left behind.
    """
    command = [sys.executable, "-m", "harness.job", str(run.path), str(attempt)]
    if resume:
        command += ["--resume", str(resume)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with (attempt / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
    beat = 0.0
    try:
        while process.poll() is None:
            if time.time() - beat >= HEARTBEAT_SECONDS:
                beat = time.time()
                run.write_status("running", pid=os.getpid(), host=os.uname().nodename, last_step=run.last_step())
            tick()
            time.sleep(POLL_SECONDS)
    finally:
        # Closing the lifeline asks the process to end everything itself; what is left is ended from here.
        ended = process.poll() is not None
        if process.stdin:
            process.stdin.close()
        end_session(process.pid, grace=ENDED_GRACE_SECONDS if ended else GRACE_SECONDS)
        process.wait()
    return process.returncode, None if process.returncode == 0 else failure(attempt, process.returncode)


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


def checkpoints(run: RunDir) -> Iterator[tuple[int, Path]]:
    """Step and folder of each of the run's checkpoints, whole or not."""
    for folder in run.checkpoints.glob("global_step_*"):
        number = folder.name.removeprefix("global_step_")
        if number.isdigit():
            yield int(number), folder


def intact(checkpoint: Path) -> bool:
    """Whether all files are whole. verl writes data.pt last; torch's files are zip archives, which end in an index."""
    shards = list((checkpoint / "actor").glob("*.pt"))
    return bool(shards) and all(
        file.exists() and zipfile.is_zipfile(file) for file in [*shards, checkpoint / "data.pt"]
    )
