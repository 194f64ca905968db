"""What a scheduler's user sees: progress while it runs, a table and curves when it ends, and an exit status."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from harness.config import ConfigError
from harness.progress import Monitor
from sweeps.book import Book
from sweeps.cells import Cell
from sweeps.local import Local
from sweeps.lock import HeldError, Lock, alive, read
from sweeps.scheduler import Launcher, Progress, Rules, Scheduler, status_of, submission_of

SETTLE_SECONDS = 60.0
CLOSING = ("response_length", "clip_fraction", "reward", "accuracy")  # drawn at the end; `make report` draws all


def launchers() -> dict[str, Callable[..., Launcher]]:
    """The launchers by name; each is imported only when it is asked for."""

    def slurm(**settings: Any) -> Launcher:
        from sweeps.slurm import Slurm

        return Slurm(**settings)

    def ray_jobs(**settings: Any) -> Launcher:
        from sweeps.ray_jobs import RayJobs

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


def run_cells(
    cells: Sequence[Cell], where: Launcher, rules: Rules, console: Console, go_on: Callable[[], bool] = lambda: True
) -> int:
    """Run the cells to their end, or until ``go_on`` says no; prints the outcome. Returns the exit status.

    Raises ``ConfigError`` for a cell that could never run there, before anything starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    where.check(cells)
    scheduler = Scheduler(cells, where, rules)
    told: dict[str, str] = {}
    try:
        with Monitor(console) as monitor:

            def each() -> bool:
                for one in scheduler.cells:
                    if (one.cell.path / "manifest.json").exists():
                        monitor.watch(one.cell.run)
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
    closing(cells, console)
    if scheduler.failed:
        console.print(
            f"{len(scheduler.failed)} of {len(cells)} runs are not done; the same command continues them",
            soft_wrap=True,
        )
    return int(not scheduler.over or bool(scheduler.failed))


def settle(scheduler: Scheduler) -> None:
    """Wait until what was asked to end has ended, for a while."""
    end = time.time() + SETTLE_SECONDS
    while time.time() < end and any(
        one.state == "running" and one.submission and scheduler.launcher.alive(one.submission)
        for one in scheduler.cells
    ):
        time.sleep(0.2)


def run_sweep(name: str, overrides: Sequence[str], console: Console) -> int:
    """Run a named sweep, as its only controller. Returns the exit status; raises ``ConfigError``."""
    book = Book.of(name, overrides)
    where = launcher(book.kind, book.launcher_settings)
    rules = Rules(book.sweep.retries, book.sweep.backoff_seconds)
    try:
        with Lock(book.lock) as lock:
            book.write()
            book.wish.unlink(missing_ok=True)

            def go_on() -> bool:
                if not lock.held():
                    raise ConfigError(f"{book.lock}: another controller has taken over")
                return not book.wish.exists()

            return run_cells(book.cells, where, rules, console, go_on)
    except HeldError as error:
        raise ConfigError(str(error)) from None


def cancel(name: str, overrides: Sequence[str], console: Console) -> int:
    """End a named sweep's controller, wherever it is, and all runs that it started. Returns 1 if some could not be."""
    book = Book.last(name, overrides)
    where = launcher(book.kind, book.launcher_settings)
    if not book.folder.exists():
        console.print("nothing was ever started")
        return 0
    book.wish.touch()
    end = time.time() + SETTLE_SECONDS
    while time.time() < end and (holder := read(book.lock)) and alive(holder, time.time()):
        time.sleep(0.2)
    asked, left = 0, 0
    for cell in book.cells:
        submission = submission_of(cell.run)
        if submission and submission["launcher"] == where.name and where.alive(submission):
            where.cancel(submission)
            asked += 1
        elif status_of(cell.run).get("state") == "running":
            left += 1
            console.print(
                f"{cell.name}: runs on {status_of(cell.run).get('host')}, not started from here", soft_wrap=True
            )
    console.print(f"{asked} runs asked to end" if asked else "nothing was left to end")
    return int(left > 0)


def tell(one: Progress, told: dict[str, str], console: Console) -> None:
    """Print an error once, when it is new."""
    if one.error and told.get(one.cell.name) != one.error:
        told[one.cell.name] = one.error
        what = "given up" if one.state == "failed" else "will be tried again"
        console.print(f"{one.cell.name}: {one.error} ({what})", style="red", highlight=False, soft_wrap=True)


def closing(cells: Sequence[Cell], console: Console) -> None:
    """The table and the curves of the cells that have become runs."""
    from analysis import AnalysisError, load_runs, print_summary
    from analysis.report.write import write_figures

    paths = [cell.path for cell in cells if (cell.path / "manifest.json").exists()]
    if not paths:
        return
    try:
        runs = load_runs(paths)
        print_summary(runs, console)
        write_figures(runs, console=console, names=CLOSING)
    except AnalysisError as error:
        console.print(f"no curves: {error}", style="yellow", highlight=False, soft_wrap=True)
