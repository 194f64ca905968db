"""Runs the trials of a sweep through a launcher until each is done or given up.

All state is in the run directories: a scheduler that starts where another one died finds what runs, what is done and
what failed, and goes on. It asks a launcher for three things only: room for a trial, to start it, whether it is still
there; how a run went is read from its directory.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.run.failures import CAUSES
from harness.rundir import BEING_TRAINED, LAUNCH_LOG, SUBMISSION, RunDir, RunDirError, read_json, write_json
from sweeps.launchers.base import Launcher, LaunchError
from sweeps.trials import Trial

LONGEST_BACKOFF = 1800.0
GONE_SECONDS = 5.0  # a process may be gone a moment before its last words are on a shared disk


@dataclass(frozen=True)
class Rules:
    """retries: attempts without a new step that are forgiven in a row; backoff: seconds before the first of them,
    doubled each time."""

    retries: int = 3
    backoff: float = 30.0


@dataclass
class Progress:
    """What the scheduler knows of a trial. state: waiting, running, done, failed."""

    trial: Trial
    state: str = "waiting"
    not_before: float = 0.0
    error: str | None = None
    submission: dict[str, Any] | None = None
    seen_gone: float | None = None
    failed_starts: int = 0


class Scheduler:
    """``poll`` asks about everything once; ``run`` polls until all trials are done or given up."""

    def __init__(
        self,
        trials: Sequence[Trial],
        launcher: Launcher,
        rules: Rules | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self.launcher, self.rules, self.clock = launcher, rules or Rules(), clock
        self.began = clock()
        self.trials: list[Progress] = []
        self.add(trials)

    @property
    def over(self) -> bool:
        return all(one.state in ("done", "failed") for one in self.trials)

    @property
    def failed(self) -> list[Progress]:
        return [one for one in self.trials if one.state == "failed"]

    def add(self, trials: Sequence[Trial]) -> None:
        """Further trials, after those that are there."""
        # Large trials first within a priority: a gap that they need does not come by itself later.
        order = sorted(trials, key=lambda c: (-c.priority, -c.gpus, -(c.hours or 0.0)))
        found = [Progress(trial) for trial in order]
        for one in found:
            self._find(one)
        self.trials += found

    def withdraw(self, trials: Collection[Trial]) -> None:
        """Forget those of these trials that wait and have never been started: their directories are not there yet."""
        self.trials = [
            one for one in self.trials if one.state != "waiting" or one.trial not in trials or one.trial.path.exists()
        ]

    def poll(self) -> None:
        """Find out what has ended, try again what failed, start what there is room for."""
        now = self.clock()
        for one in self.trials:
            if one.state == "running":
                self._poll(one, now)
        running = [one.submission for one in self.trials if one.state == "running" and one.submission]
        for one in self.trials:
            if one.state != "waiting" or one.not_before > now:
                continue
            place = self.launcher.place(one.trial, running)
            if place is not None and self._start(one, place, now):
                assert one.submission
                running.append(one.submission)

    def run(self, sleep: Callable[[float], None] = time.sleep, each: Callable[[], bool] = lambda: True) -> None:
        """Poll until nothing is left, or ``each``, called after every poll, returns False."""
        while True:
            self.poll()
            if not each() or self.over:
                return
            sleep(self.launcher.poll_seconds)

    def cancel(self) -> None:
        """Ask everything that runs to end."""
        for one in self.trials:
            if one.state == "running" and one.submission:
                self.launcher.cancel(one.submission)

    def _find(self, one: Progress) -> None:
        """Where an earlier scheduler, or anybody, left the trial."""
        status = status_of(one.trial.run)
        submission = submission_of(one.trial.run)
        if is_done(one.trial, status):
            one.state = "done"
        elif submission and submission["launcher"] == self.launcher.name and self.launcher.alive(submission):
            one.state, one.submission = "running", submission
        elif status.get("state") == "running":  # started by somebody else, alive by its heartbeat
            one.state, one.submission = "running", None

    def _start(self, one: Progress, place: dict[str, Any], now: float) -> bool:
        run = one.trial.run
        if status_of(run).get("state") == "running":  # somebody else's by now, as of a controller that is gone
            one.state, one.submission = "running", None
            return False
        attempts = len(run.attempts())
        run.path.mkdir(parents=True, exist_ok=True)
        (run.path / LAUNCH_LOG).write_text("")
        try:
            identity = self.launcher.start(one.trial, place)
        except LaunchError as error:
            self._failed_start(one, str(error), now)
            return False
        one.submission = {**place, **identity, "launcher": self.launcher.name, "submitted": now, "attempts": attempts}
        write_json(run.path / SUBMISSION, one.submission)
        one.state, one.seen_gone = "running", None
        return True

    def _poll(self, one: Progress, now: float) -> None:
        alive = (
            self.launcher.alive(one.submission) if one.submission else status_of(one.trial.run)["state"] == "running"
        )
        if alive:
            one.seen_gone = None
            return
        status = status_of(one.trial.run)
        if status.get("state") == "running":  # its last word, or its node's: wait until the heartbeat is stale
            return
        attempts = one.trial.run.attempts()
        if one.submission and len(attempts) <= one.submission["attempts"]:
            if one.seen_gone is None:
                one.seen_gone = now
            if now - one.seen_gone >= GONE_SECONDS or refusal(one.trial.run):
                self._no_attempt(one, status, now)
            return
        one.failed_starts = 0
        if is_done(one.trial, status):
            one.state = "done"
            return
        self._ended(one, now)

    def _no_attempt(self, one: Progress, status: Mapping[str, Any], now: float) -> None:
        """Gone without having trained: it was done before, refused, or never came to start."""
        if is_done(one.trial, status):
            one.state = "done"
            return
        refused = refusal(one.trial.run)
        if refused and BEING_TRAINED not in refused:
            one.state, one.error = "failed", refused
        else:  # somebody else who trains it will have ended at another time
            said = f"its process ended before training began; the reason may be in {one.trial.path / LAUNCH_LOG}"
            self._failed_start(one, refused or said, now)

    def _failed_start(self, one: Progress, error: str, now: float) -> None:
        one.failed_starts += 1
        one.error = error
        if one.failed_starts > self.rules.retries:
            one.state = "failed"
        else:
            one.state, one.not_before = "waiting", now + self._backoff(one.failed_starts)

    def _ended(self, one: Progress, now: float) -> None:
        """An attempt ended without being done: try again, now or later, or give up."""
        outcomes = [o for o in outcomes_of(one.trial.run) if o["ended"] >= self.began]
        last = outcomes[-1] if outcomes else {"cause": "lost", "error": None, "ended": now}
        one.error = last["error"]
        cause = last["cause"] or "lost"  # closed as done, and lost before its status said so
        if not CAUSES[cause].retry:
            one.state = "failed"
            return
        failures = failures_in_a_row(outcomes)
        if failures > self.rules.retries:
            one.state, one.error = "failed", f"{failures} attempts without a new step; the last: {last['error']}"
            return
        wait = 0.0 if cause == "preempted" else self._backoff(max(failures, 1))
        one.state, one.not_before = "waiting", min(now, last["ended"]) + wait  # another machine's clock may be ahead

    def _backoff(self, failures: int) -> float:
        return min(self.rules.backoff * 2 ** (failures - 1), LONGEST_BACKOFF)


def failures_in_a_row(outcomes: Sequence[Mapping[str, Any]]) -> int:
    """Attempts after the last one that reached a new step or was preempted (which is nobody's fault)."""
    count, furthest = 0, 0
    for outcome in outcomes:
        progress = outcome["last_step"] > max(furthest, outcome["first_step"])
        furthest = max(furthest, outcome["last_step"])
        count = 0 if progress or outcome["cause"] == "preempted" else count + 1
    return count


def outcomes_of(run: RunDir) -> list[dict[str, Any]]:
    """How each attempt ended; one that nobody saw end was lost, with the steps that its own metrics show."""
    return [outcome or _lost(attempt) for attempt, outcome in zip(run.attempts(), run.outcomes(), strict=True)]


def _lost(attempt: Path) -> dict[str, Any]:
    metrics = attempt / "metrics.jsonl"
    steps = RunDir.steps_in(metrics)
    return {
        "cause": "lost",
        "error": "the process that watched it is gone",
        "ended": (metrics if metrics.exists() else attempt).stat().st_mtime,
        "first_step": min(steps, default=1) - 1,
        "last_step": max(steps, default=0),
    }


def is_done(trial: Trial, status: Mapping[str, Any]) -> bool:
    """Whether a run's status says that it is done for as many steps as the trial plans."""
    return status.get("state") == "done" and status.get("last_step", 0) >= trial.planned


def status_of(run: RunDir) -> dict[str, Any]:
    """``status.json``, empty where there is none yet."""
    try:
        return run.status()
    except RunDirError:
        return {"state": None}


def submission_of(run: RunDir) -> dict[str, Any] | None:
    """Who was told to train this run, last; None if nobody was."""
    try:
        return read_json(run.path / SUBMISSION)
    except RunDirError:
        return None


def refusal(run: RunDir) -> str | None:
    """Why ``harness.train`` refused the run, from the last words of its process; None if it did not."""
    try:
        lines = (run.path / LAUNCH_LOG).read_text(errors="replace").splitlines()
    except OSError:
        return None
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else None
