"""What a scheduler's user sees: progress while it runs, a table and curves when it ends, and an exit status."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from rich.console import Console

from harness.config import ConfigError
from harness.run import prefork
from harness.run.offline import sync_hint
from harness.run.progress import Monitor, duration
from harness.rundir import RunDir
from sweeps.decided import UntilDecided, arms_of, experiment_of
from sweeps.launchers.base import Launcher
from sweeps.launchers.local import Local
from sweeps.lock import HeldError, Lock, alive, read
from sweeps.next_steps import report_command, report_folder, sweeps_command, why
from sweeps.scheduler import Progress, Rules, Scheduler, status_of, submission_of
from sweeps.state import SweepState
from sweeps.trials import Trial

PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # how names and paths are printed
SETTLE_SECONDS = 60.0
MOST_SHOWN = 10  # runs that are explained one by one at the end
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
        raise ConfigError(f"hydra.launcher.kind={kind}: no such launcher; there are {', '.join(known)}")
    try:
        return known[kind](**settings)
    except TypeError as error:
        raise ConfigError(f"hydra/launcher={kind}: {error}") from None


def run_trials(
    trials: Sequence[Trial],
    where: Launcher,
    rules: Rules,
    console: Console,
    go_on: Callable[[], bool] = lambda: True,
    until: UntilDecided | None = None,
) -> int:
    """Run the trials to their end, or until ``go_on`` says no; prints the outcome. Returns the exit status.

    until: adds further trials of its own. Raises ``ConfigError`` for a trial that could never run there, before
    anything starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    where.check(trials)
    scheduler = Scheduler(trials, where, rules)
    advance = until.advance if until else lambda _: None
    told: dict[str, str] = {}
    # Whether the runs start here, on a CPU: then they share what they import.
    waiting = [one.trial.overrides for one in scheduler.trials if one.state == "waiting"]
    shared = where.name == "local" and bool(waiting) and all(prefork.eligible(words) for words in waiting)
    try:
        with prefork.standing(shared), Monitor(console) as monitor:
            advance(scheduler)

            def each() -> bool:
                advance(scheduler)
                for one in scheduler.trials:
                    if (one.trial.path / "manifest.json").exists():
                        monitor.watch(one.trial.run)
                    tell(one, told, console)
                monitor.update()
                tell_queue(scheduler.trials, told, console)
                return go_on()

            scheduler.run(each=each)
        if not scheduler.over:  # asked to cancel
            scheduler.cancel()
            settle(scheduler)
    except KeyboardInterrupt:
        if where.ends_with_us:
            scheduler.cancel()
            settle(scheduler)
        left = "its runs were stopped" if where.ends_with_us else "the submitted runs go on"
        console.print(f"interrupted: {left}; the same command continues", style="yellow")
        return 130
    trials = until.trials if until else trials
    closing(trials, console)
    tell_longer(trials, console)
    if until and until.text:
        console.print(until.text, **PLAIN)
    tell_unfinished(scheduler, console)
    return int(not scheduler.over or bool(scheduler.failed))


def tell_queue(trials: Sequence[Progress], told: dict[str, str], console: Console) -> None:
    """Which runs wait for their turn and, once it is known, how long all of them will take: when that is new."""
    waiting = [one.trial.name for one in trials if one.state == "waiting"]
    statuses = [status_of(one.trial.run) for one in trials if one.state == "running"]
    known = [one for one in statuses if one.get("seconds_left") is not None and one.get("started")]
    if not waiting or not statuses:
        return
    some = ", ".join(waiting[:3]) + (f" and {len(waiting) - 3} more" if waiting[3:] else "")
    news = f"{some} {len(known) == len(statuses)}"
    if told.get("queue") == news:
        return
    told["queue"] = news
    text = f"queued: {some}"
    if len(known) == len(statuses):
        whole = mean(time.time() - one["started"] + one["seconds_left"] for one in known)
        left = sum(one["seconds_left"] for one in known) + len(waiting) * whole
        text += f"; {duration(left / len(known))} left for all"
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def tell_longer(trials: Sequence[Trial], console: Console) -> None:
    """Which runs were there before with more steps than are asked for now: they are left as they are."""
    longer = [t for t in trials if status_of(t.run).get("state") == "done" and t.run.last_step() > t.planned]
    if longer:
        some = f"{len(longer)} of {len(trials)} runs were finished before, with {longer[0].run.last_step()} steps"
        console.print(
            f"{some}, and not with the {longer[0].planned} asked for now; for shorter runs give another folder, "
            "harness.root=results/short",
            **PLAIN,
        )


def tell_unfinished(scheduler: Scheduler, console: Console) -> None:
    """What is not done: how many runs the same command continues, and which were given up and what shows why."""
    failed = scheduler.failed
    waiting = [one for one in scheduler.trials if one.state not in ("done", "failed")]
    total = len(scheduler.trials)
    if waiting:
        console.print(f"{len(waiting)} of {total} runs are not finished; the same command continues them")
    if not failed:
        return
    again = "once the cause is mended, the same command tries them again"
    console.print(f"{len(failed)} of {total} runs given up; {again}", soft_wrap=True)
    for one in failed[:MOST_SHOWN]:
        console.print(f"why {one.trial.name}: {why(one.trial)}", highlight=False, soft_wrap=True, markup=False)
    if len(failed) > MOST_SHOWN:
        console.print(f"and {len(failed) - MOST_SHOWN} more, whose errors are above")


def settle(scheduler: Scheduler) -> None:
    """Wait until the runs that were asked to end have ended, for ``SETTLE_SECONDS`` at most."""
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
    where.check(state.trials)  # also of seeds that may never come
    until = until_decided(state, lambda line: console.print(line, **PLAIN)) if state.sweep.until else None
    try:
        with Lock(state.lock) as lock:
            state.write()
            state.cancel_request.unlink(missing_ok=True)

            def go_on() -> bool:
                if not lock.held():
                    raise ConfigError(
                        f"{state.lock}: another controller has taken over this sweep, so this one stops; "
                        f"see it with {sweeps_command('status', name)}"
                    )
                return not state.cancel_request.exists()

            return run_trials(until.trials if until else state.trials, where, rules, console, go_on, until)
    except HeldError as error:
        raise ConfigError(str(error)) from None


def until_decided(state: SweepState, say: Callable[[str], None] = print) -> UntilDecided:
    """What feeds a sweep with ``until``, by the rule of the analysis. Raises ``ConfigError`` for what does not fit."""
    from analysis import AnalysisError
    from analysis.report.decision import Decision

    until = state.sweep.until
    try:
        decision = Decision.of(
            arms_of(state.trials),
            until["claim"],
            until["max_seeds"],
            experiment_of(state.trials),
            until.get("claims", ""),
        )
    except AnalysisError as error:
        raise ConfigError(f"until=decided: {error}") from None
    return UntilDecided(state.trials, until["start"], decision, state.folder, say)


def cancel(name: str, overrides: Sequence[str], console: Console) -> int:
    """End a named sweep's controller, wherever it is, and all runs that it started. Returns 1 if some could not be."""
    state = SweepState.last(name, overrides)
    where = launcher(state.kind, state.launcher_settings)
    if not state.folder.exists():
        console.print(f"sweep {state.sweep.name} was never run, so there is nothing to cancel")
        return 0
    state.cancel_request.touch()
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
            host = status_of(trial.run).get("host")
            console.print(f"{trial.name}: runs on {host}, not started by this sweep; end it there", soft_wrap=True)
    console.print(f"{asked} runs asked to end" if asked else "no run of this sweep was left to end")
    again = sweeps_command("run", name, state.overrides)
    console.print(f"next: {again} continues from the last checkpoints", highlight=False, soft_wrap=True, markup=False)
    return int(left > 0)


def tell(one: Progress, told: dict[str, str], console: Console) -> None:
    """Print an error once, when it is new."""
    if one.error and told.get(one.trial.name) != one.error:
        told[one.trial.name] = one.error
        what = "given up" if one.state == "failed" else "will be tried again"
        console.print(f"{one.trial.name}: {one.error} ({what})", style="red", highlight=False, soft_wrap=True)


def closing(trials: Sequence[Trial], console: Console) -> None:
    """The table and the curves of the trials that have become runs, and the command for their whole report."""
    # Only here and in ``until_decided`` do sweeps call the analysis, and only when these are called: a sweep ends with
    # what its user wants to see first, and nothing else here depends on how runs are analysed.
    from analysis import AnalysisError, load_runs, print_forks, print_summary
    from analysis.report.write import write_figures

    paths = [trial.path for trial in trials if (trial.path / "manifest.json").exists()]
    if not paths:
        return
    try:
        runs = load_runs(paths)
        print_summary(runs, console)
        print_forks(runs, console)
        apart = report_folder(paths)
        write_figures(runs, apart and apart / "figures", console=console, names=CLOSING)
    except AnalysisError as error:
        console.print(f"no curves: {error}", style="yellow", highlight=False, soft_wrap=True)
    if hint := sync_hint([RunDir(path) for path in paths]):
        console.print(hint, **PLAIN)
    console.print(f"report: {report_command(paths)}", highlight=False, soft_wrap=True, markup=False)
