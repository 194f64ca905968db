"""What a scheduler's user sees: progress while it runs, a table and curves when it ends, and an exit status."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from harness.config import ConfigError
from harness.run.progress import Monitor
from sweeps.launchers.local import Local
from sweeps.lock import HeldError, Lock, alive, read
from sweeps.scheduler import Launcher, Progress, Rules, Scheduler, status_of, submission_of
from sweeps.state import SweepState
from sweeps.trials import Trial

SETTLE_SECONDS = 60.0
CLOSING = ("response_length", "clip_fraction", "reward", "accuracy")  # drawn at the end; `make report` draws all


def launchers() -> dict[str, Callable[..., Launcher]]:
    """The launchers by name; each is imported only when it is asked for."""

    def slurm(**settings: Any) -> Launcher:
        from sweeps.launchers.slurm import Slurm

        return Slurm(**settings)

    def ray_jobs(**settings: Any) -> Launcher:
        from sweeps.launchers.ray_jobs import RayJobs

        return RayJobs(**settings)

    return {"local": Local, "slurm": slurm, "ray_jobs": ray_jobs}


def launcher(kind: str, settings: Mapping[str, Any]) -> Launcher:
    """The launcher of that name; raises ``ConfigError`` for an unknown one or a setting that it does not have."""
    known = launchers()
    if kind not in known:
        raise ConfigError(f"hydra.launcher.kind={kind}: there are {', '.join(known)}")
    try:
        return known[kind](**settings)
    except TypeError as error:
        raise ConfigError(f"hydra/launcher={kind}: {error}") from None


def run_trials(
    trials: Sequence[Trial], where: Launcher, rules: Rules, console: Console, go_on: Callable[[], bool] = lambda: True
) -> int:
    """Run the trials to their end, or until ``go_on`` says no; prints the outcome. Returns the exit status.

    Raises ``ConfigError`` for a trial that could never run there, before anything starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    where.check(trials)
    scheduler = Scheduler(trials, where, rules)
    told: dict[str, str] = {}
    try:
        with Monitor(console) as monitor:

            def each() -> bool:
                for one in scheduler.trials:
                    if (one.trial.path / "manifest.json").exists():
                        monitor.watch(one.trial.run)
                    tell(one, told, console)
                monitor.update()
                return go_on()

            scheduler.run(each=each)
        if not scheduler.over:  # asked to cancel
            scheduler.cancel()
            settle(scheduler)
    except KeyboardInterrupt:
        if where.ends_with_us:
            scheduler.cancel()
            settle(scheduler)
        left = "stopped" if where.ends_with_us else "what was submitted goes on"
        console.print(f"interrupted, {left}; the same command continues", style="yellow")
        return 130
    closing(trials, console)
    if scheduler.failed:
        console.print(
            f"{len(scheduler.failed)} of {len(trials)} runs are not done; the same command continues them",
            soft_wrap=True,
        )
    return int(not scheduler.over or bool(scheduler.failed))


def settle(scheduler: Scheduler) -> None:
    """Wait until what was asked to end has ended, for a while."""
    end = time.time() + SETTLE_SECONDS
    while time.time() < end and any(
        one.state == "running" and one.submission and scheduler.launcher.alive(one.submission)
        for one in scheduler.trials
    ):
        time.sleep(0.2)


def run_sweep(name: str, overrides: Sequence[str], console: Console) -> int:
    """Run a named sweep, as its only controller. Returns the exit status; raises ``ConfigError``."""
    state = SweepState.of(name, overrides)
    where = launcher(state.kind, state.launcher_settings)
    rules = Rules(state.sweep.retries, state.sweep.backoff_seconds)
    try:
        with Lock(state.lock) as lock:
            state.write()
            state.wish.unlink(missing_ok=True)

            def go_on() -> bool:
                if not lock.held():
                    raise ConfigError(f"{state.lock}: another controller has taken over")
                return not state.wish.exists()

            return run_trials(state.trials, where, rules, console, go_on)
    except HeldError as error:
        raise ConfigError(str(error)) from None


def cancel(name: str, overrides: Sequence[str], console: Console) -> int:
    """End a named sweep's controller, wherever it is, and all runs that it started. Returns 1 if some could not be."""
    state = SweepState.last(name, overrides)
    where = launcher(state.kind, state.launcher_settings)
    if not state.folder.exists():
        console.print("nothing was ever started")
        return 0
    state.wish.touch()
    end = time.time() + SETTLE_SECONDS
    while time.time() < end and (holder := read(state.lock)) and alive(holder, time.time()):
        time.sleep(0.2)
    asked, left = 0, 0
    for trial in state.trials:
        submission = submission_of(trial.run)
        if submission and submission["launcher"] == where.name and where.alive(submission):
            where.cancel(submission)
            asked += 1
        elif status_of(trial.run).get("state") == "running":
            left += 1
            console.print(
                f"{trial.name}: runs on {status_of(trial.run).get('host')}, not started from here", soft_wrap=True
            )
    console.print(f"{asked} runs asked to end" if asked else "nothing was left to end")
    return int(left > 0)


def tell(one: Progress, told: dict[str, str], console: Console) -> None:
    """Print an error once, when it is new."""
    if one.error and told.get(one.trial.name) != one.error:
        told[one.trial.name] = one.error
        what = "given up" if one.state == "failed" else "will be tried again"
        console.print(f"{one.trial.name}: {one.error} ({what})", style="red", highlight=False, soft_wrap=True)


def closing(trials: Sequence[Trial], console: Console) -> None:
    """The table and the curves of the trials that have become runs."""
    from analysis import AnalysisError, load_runs, print_summary
    from analysis.report.write import write_figures

    paths = [trial.path for trial in trials if (trial.path / "manifest.json").exists()]
    if not paths:
        return
    try:
        runs = load_runs(paths)
        print_summary(runs, console)
        write_figures(runs, console=console, names=CLOSING)
    except AnalysisError as error:
        console.print(f"no curves: {error}", style="yellow", highlight=False, soft_wrap=True)
