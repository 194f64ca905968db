"""The scheduler on hundreds of trials over simulated GPUs that fail, in virtual time; its own files are real.

    python tests/bench/scheduler_bench.py [--trials 300] [--gpus 128] [--out results/bench]

Measured: makespan against its lower bound, CPU time and memory of the controller, file operations, time of a status
table. Durations, sizes and failures are drawn from one seed.
"""

import argparse
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import described, environment, write
from rich.console import Console

from harness.rundir import write_json
from sweeps.scheduler import Rules, Scheduler
from sweeps.trials import Trial
from sweeps.view import status_table

HOUR = 3600.0
STEPS = 100
EVERY = 10  # steps between checkpoints
SIZES = (1, 4, 8, 16, 32)  # GPUs of a trial
LOST, PREEMPTED = 0.08, 0.04  # probability that an attempt ends so


class Simulated:
    """A launcher whose trials are arithmetic: each attempt's end is drawn at its start and written when it is over."""

    name = "simulated"
    poll_seconds = 15.0
    ends_with_us = False

    def __init__(self, gpus: int, seed: int):
        self.gpus, self.random, self.now = gpus, random.Random(seed), 0.0
        self.hours: dict[Path, float] = {}
        self.ends: dict[str, tuple[float, Trial, dict[str, Any]]] = {}
        self.busy = 0.0  # GPU-seconds
        self.started = 0

    def place(self, trial: Trial, running: Any) -> dict[str, Any] | None:
        used = sum(submission["gpus"] for submission in running)
        return {"gpus": trial.gpus} if used + trial.gpus <= self.gpus else None

    def start(self, trial: Trial, place: dict[str, Any]) -> dict[str, Any]:
        run = trial.run
        done = [outcome["last_step"] for outcome in run.outcomes() if outcome]
        first = max(done, default=0) // EVERY * EVERY
        attempt = run.new_attempt()
        drawn = self.random.random()
        cause = "lost" if drawn < LOST else "preempted" if drawn < LOST + PREEMPTED else None
        last = STEPS if cause is None else self.random.randint(first, STEPS)
        seconds = self.hours[trial.path] * HOUR * (last - first) / STEPS + 300
        self.busy += seconds * trial.gpus
        self.started += 1
        outcome = {"state": "failed" if cause else "done", "cause": cause, "error": cause, "first_step": first,
                   "last_step": last, "began": self.now, "ended": self.now + seconds}  # fmt: skip
        write_json(
            run.path / "status.json", {"state": "incomplete", "heartbeat": self.now, "attempt": int(attempt.name)}
        )
        self.ends[str(attempt)] = (self.now + seconds, trial, outcome)
        return {"job": str(attempt)}

    def alive(self, submission: Any) -> bool:
        job = submission["job"]
        if job not in self.ends:
            return False
        end, trial, outcome = self.ends[job]
        if self.now < end:
            return True
        del self.ends[job]
        write_json(Path(job) / "outcome.json", outcome)
        trial.run.write_status(outcome["state"], last_step=outcome["last_step"], attempt=int(Path(job).name))
        return False

    def cancel(self, submission: Any) -> None:
        raise NotImplementedError


def simulate(trials: int, gpus: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run one sweep; times in the result are virtual hours, but for ``cpu_seconds`` and ``status_seconds``."""
    launcher = Simulated(gpus, seed)
    draw = random.Random(seed + 1)
    planned = []
    for number in range(trials):
        path = folder / "simulated" / f"arm{number // 3}" / f"seed={number % 3}"
        hours = draw.lognormvariate(1.5, 0.6)
        size = draw.choice(SIZES)
        launcher.hours[path] = hours
        planned.append(Trial((f"trial={number}",), path, STEPS, gpus=size, hours=hours * size))
    opened = _count_files()
    scheduler = Scheduler(planned, launcher, Rules(retries=5, backoff=60), clock=lambda: launcher.now)
    began, files = time.process_time(), opened()

    def sleep(seconds: float) -> None:
        launcher.now += seconds

    scheduler.run(sleep)
    cpu, files = time.process_time() - began, opened() - files
    states = [one.state for one in scheduler.trials]
    bound = max(launcher.busy / gpus, *(hours * HOUR for hours in launcher.hours.values()))
    began_status = time.perf_counter()
    with Console(file=open(os.devnull, "w"), width=200) as console:
        console.print(status_table(planned, folder / "lock"))
    return {
        "trials": trials, "gpus": gpus, "seed": seed, "done": states.count("done"), "given_up": states.count("failed"),
        "attempts": launcher.started, "makespan_hours": launcher.now / HOUR, "bound_hours": bound / HOUR,
        "over_bound": launcher.now / bound, "polls": launcher.now / launcher.poll_seconds, "cpu_seconds": cpu,
        "cpu_ms_a_poll": 1000 * cpu / (launcher.now / launcher.poll_seconds),
        "files_a_minute": files / (launcher.now / 60), "status_seconds": time.perf_counter() - began_status,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }  # fmt: skip


def _count_files():
    """How many files this process has opened, from now on."""
    count = 0

    def hook(event: str, _: Any) -> None:
        nonlocal count
        if event in ("open", "os.listdir", "os.scandir", "os.rename", "os.mkdir"):
            count += 1

    sys.addaudithook(hook)
    return lambda: count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--gpus", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    args = parser.parse_args()
    result: dict[str, Any] = {**environment(), "rounds": []}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory(prefix="scheduler-") as folder:
            result["rounds"].append(simulate(args.trials, args.gpus, seed, Path(folder)))
        print(result["rounds"][-1], flush=True)
    names = [name for name in result["rounds"][0] if name not in ("trials", "gpus", "seed")]
    lines = [f"# {args.trials} trials over {args.gpus} simulated GPUs", "", described(result), ""]
    lines += [
        f"Sizes {SIZES} GPUs, {LOST:.0%} of the attempts lost, {PREEMPTED:.0%} preempted; {args.seeds} draws.",
        "",
    ]
    lines += ["| | median | lowest | highest |", "|---|---|---|---|"]
    for name in names:
        values = [one[name] for one in result["rounds"]]
        lines.append(f"| {name} | {statistics.median(values):.4g} | {min(values):.4g} | {max(values):.4g} |")
    write(args.out / "scheduler", result, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
