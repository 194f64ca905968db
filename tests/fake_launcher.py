"""A launcher in virtual time whose runs are scripts, and leave the directories that real runs would leave."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.rundir import LAUNCH_LOG, RunDir, write_json
from sweeps.launchers.base import LaunchError
from sweeps.scheduler import Rules, Scheduler
from sweeps.trials import Trial

HOST = "a-node"  # none that exists: a run is known to live by its heartbeat


@dataclass(frozen=True)
class Act:
    """What becomes of one submission.

    kind: ``ended`` (with a cause; None: done), ``lost`` (nobody saw it end), ``refused`` (its only words: ``error``),
    ``silent`` (gone before it trained), ``cannot`` (the launcher fails). first, last: steps that it continues from and
    reaches; first is where the one before ended, unless given.
    """

    kind: str = "ended"
    cause: str | None = None
    last: int = 0
    first: int | None = None
    error: str = "said the run"
    seconds: float = 100.0


@dataclass
class Job:
    trial: Trial
    act: Act
    ends: float
    places: int
    attempt: Path | None = None
    first: int = 0


@dataclass
class FakeLauncher:
    """``places``: how many; a trial takes as many as it has GPUs, at least one. Asserts that no promise is broken.

    scripts: the acts of each trial by its name, in order; after them it is done. ``clock`` is this object's ``now``.
    """

    places: int = 100
    scripts: Mapping[str, Sequence[Act]] = field(default_factory=dict)
    name: str = "fake"
    poll_seconds: float = 10.0
    ends_with_us: bool = False
    now: float = 1e9

    def __post_init__(self) -> None:
        self.left = {name: list(acts) for name, acts in self.scripts.items()}
        self.numbers = itertools.count()
        self.jobs: dict[int, Job] = {}
        self.starts: list[tuple[float, str]] = []
        self.ends: list[tuple[float, str]] = []
        self.cancelled: list[str] = []

    def clock(self) -> float:
        return self.now

    def check(self, trials: Sequence[Trial]) -> None:
        """Anything could run here."""

    def place(self, trial: Trial, running: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        used = sum(submission["places"] for submission in running)
        return {"places": wanted(trial)} if used + wanted(trial) <= self.places else None

    def start(self, trial: Trial, place: dict[str, Any]) -> dict[str, Any]:
        assert trial.name not in [job.trial.name for job in self.jobs.values()], "started while it runs"
        assert sum(job.places for job in self.jobs.values()) + wanted(trial) <= self.places, "no such place"
        script = self.left.get(trial.name)
        act = script.pop(0) if script else Act(last=trial.planned)
        self.starts.append((self.now, trial.name))
        if act.kind == "cannot":
            raise LaunchError(act.error)
        number, run = next(self.numbers), trial.run
        job = Job(trial, act, self.now + act.seconds, place["places"])
        if act.kind == "refused":
            (run.path / LAUNCH_LOG).write_text(f"warning: old\nerror: {act.error}\n")
        elif act.kind != "silent":
            job.first = run.last_step() if act.first is None else act.first
            job.attempt = run.new_attempt()
        self.jobs[number] = job
        self.write()
        return {"job": number}

    def alive(self, submission: Mapping[str, Any]) -> bool:
        return submission["job"] in self.jobs

    def cancel(self, submission: Mapping[str, Any]) -> None:
        self.cancelled.append(self.jobs[submission["job"]].trial.name)

    def sleep(self, seconds: float) -> None:
        """Let time pass: runs beat and end."""
        self.now += seconds
        for number, job in list(self.jobs.items()):
            if job.ends <= self.now:
                del self.jobs[number]
                self.ends.append((self.now, job.trial.name))
                self.end(job)
        self.write()

    def write(self) -> None:
        for job in self.jobs.values():
            if job.attempt:
                job.trial.run.write_status("running", host=HOST, attempt=int(job.attempt.name), last_step=job.first)

    def end(self, job: Job) -> None:
        run, act = job.trial.run, job.act
        if not job.attempt:
            return
        last = max(act.last, job.first)
        write_steps(job.attempt, range(job.first + 1, last + 1), self.now)
        if act.kind == "lost":
            return
        state = "done" if act.cause is None else "failed"
        outcome = {"state": state, "cause": act.cause, "error": act.error if act.cause else None, "began": self.now,
                   "ended": self.now, "first_step": job.first, "last_step": last}  # fmt: skip
        write_json(job.attempt / "outcome.json", outcome)
        run.write_status(state, last_step=last, host=None, error=outcome["error"], cause=act.cause)


class Simulation:
    """Trials, their launcher, and the scheduler that is replaced when a test says so."""

    def __init__(self, trials: list[Trial], launcher: FakeLauncher, rules: Rules):
        self.trials, self.launcher, self.rules = trials, launcher, rules
        self.restart()

    def restart(self) -> None:
        self.scheduler = Scheduler(self.trials, self.launcher, self.rules, self.launcher.clock)

    def polls(self, count: int) -> None:
        for _ in range(count):
            self.scheduler.poll()
            self.launcher.sleep(self.launcher.poll_seconds)

    def run(self, limit: int = 3000) -> dict[str, str]:
        """To the end; returns the state of each trial by its arm."""
        polls = iter(range(limit))
        self.scheduler.run(self.launcher.sleep, each=lambda: next(polls) is not None)
        assert not self.launcher.jobs
        return {one.trial.path.parts[-2]: one.state for one in self.scheduler.trials}

    def started(self) -> list[str]:
        return [name.split("/")[1] for _, name in self.launcher.starts]

    def waits(self) -> list[float]:
        """Seconds between the end of a run and its next start, for a simulation of one trial."""
        starts, ends = [when for when, _ in self.launcher.starts], [when for when, _ in self.launcher.ends]
        return [start - end for start, end in zip(starts[1:], ends, strict=False)]

    def error(self) -> str:
        return self.scheduler.trials[0].error or ""


def wanted(trial: Trial) -> int:
    return max(trial.gpus, 1)


def write_steps(attempt: Path, steps: Sequence[int], now: float) -> None:
    """The attempt's record, if it trained, as of the virtual now."""
    if steps:
        lines = [json.dumps({"step": step, "data": {"response_length": 10.0}}) + "\n" for step in steps]
        (attempt / "metrics.jsonl").write_text("".join(lines))
        os.utime(attempt / "metrics.jsonl", (now, now))
    os.utime(attempt, (now, now))


def trial(root: Path, arm: str, planned: int = 6, **fields: Any) -> Trial:
    """A trial of no real experiment; its name is ``fake/<arm>/seed=0``."""
    return Trial((f"algo={arm}",), root / "fake" / arm / "seed=0", planned, **fields)


def write_outcome(run: RunDir, attempt: Path, **outcome: Any) -> None:
    write_json(attempt / "outcome.json", {"first_step": 0, "last_step": 0, "error": None, "cause": None, **outcome})
