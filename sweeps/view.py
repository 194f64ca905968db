"""Tables of a sweep: what it would need, and where each of its runs is. Read from small files alone."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.estimate.cost import between
from harness.run.progress import duration
from sweeps import lock
from sweeps.definition import Sweep
from sweeps.next_steps import report_command, sweeps_command, why
from sweeps.scheduler import refusal, status_of, submission_of
from sweeps.trials import Trial

STYLES = {"done": "green", "running": "cyan", "failed": "red", "refused": "red", "incomplete": "yellow"}
GB = 1e9


@dataclass(frozen=True)
class Row:
    """One run as its directory tells: everything but the name may be missing."""

    name: str
    state: str
    step: int
    planned: int
    last: Mapping[str, float]
    seconds_left: float | None
    host: str
    attempt: int | None
    error: str | None


def row(trial: Trial) -> Row:
    """State: open, submitted, running, done, failed, refused, incomplete."""
    status = status_of(trial.run)
    state, error = status.get("state"), status.get("error")
    submission = None if state in ("done", "running") else submission_of(trial.run)
    if state == "done" and status.get("last_step", 0) < trial.planned:
        state = "incomplete"  # done for fewer steps than are planned now
    elif submission and submission["submitted"] > status.get("heartbeat", 0.0):
        error = refusal(trial.run)
        state = "refused" if error else "submitted"
    host = status.get("host") or (submission or {}).get("cluster") or (submission or {}).get("host") or ""
    return Row(
        trial.name, state or "open", status.get("last_step", 0), trial.planned, status.get("last", {}),
        status.get("seconds_left"), host, status.get("attempt"), error,
    )  # fmt: skip


def status_table(trials: Sequence[Trial], lock_file: Path) -> Group:
    """The live table: one line a run, the errors under it, and who controls the sweep."""
    rows = [row(trial) for trial in trials]
    columns = {
        "run": [one.name for one in rows],
        "state": [Text(one.state, style=STYLES.get(one.state, "")) for one in rows],
        "step": [f"{one.step}/{one.planned}" for one in rows],
        "length": [_number(one.last.get("response_length"), "{:.1f}") for one in rows],
        "clipped %": [_number(one.last.get("clip_frac_token"), "{:.2g}", 100) for one in rows],
        "reward": [_number(one.last.get("reward"), "{:.2f}") for one in rows],
        "left": [duration(one.seconds_left) if one.state == "running" else "" for one in rows],
        "host": [one.host for one in rows],
        "attempt": [str(one.attempt or "") for one in rows],
    }
    table = _table((name for name, cells in columns.items() if any(cells)), left=("run", "state", "host"))
    for cells in zip(*(cells for cells in columns.values() if any(cells)), strict=True):
        table.add_row(*cells)
    counts = ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in rows).most_common())
    holder = controller(lock_file)
    controlled = f"controller: process {holder['pid']} on {holder['host']}" if holder else "no controller"
    errors = [
        Text(f"{one.name}: {one.error}\n  why: {why(trial)}", style="red")
        for one, trial in zip(rows, trials, strict=True)
        if one.error and one.state != "done"
    ]
    return Group(table, *errors, Text(f"{counts}; {controlled}", style="bold"))


def _table(columns: Iterable[str], left: Sequence[str]) -> Table:
    """An empty table of these columns; a run's name is never broken, however narrow the terminal."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", overflow="fold", no_wrap=name == "run")
    return table


def controller(lock_file: Path) -> Mapping[str, Any] | None:
    """The living holder of a sweep's lock, as ``lock.read`` has it; None if nobody controls the sweep."""
    holder = lock.read(lock_file)
    return holder if holder and lock.alive(holder, time.time()) else None


def next_step(name: str, overrides: Sequence[str], trials: Sequence[Trial], lock_file: Path) -> str:
    """The command that a reader of the status table will want: report what is done, follow what runs, or run it."""
    if controller(lock_file):
        return f"{sweeps_command('watch', name)}; {sweeps_command('cancel', name)} ends it"
    states = {row(trial).state for trial in trials}
    if states == {"done"}:
        return report_command([trial.path for trial in trials])
    goes_on = "" if states == {"open"} else " continues what is not done"
    return sweeps_command("run", name, overrides) + goes_on


def plan_table(sweep: Sweep, trials: Sequence[Trial], at_most: Sequence[Trial] = ()) -> Group:
    """What the sweep would run, in the order in which its runs would start, with totals; at_most: all that may come to
    run, of which the totals are then."""
    on_gpus = any(trial.gpus for trial in trials)
    needs = ("nodes", "GPUs", "GPU-hours") if on_gpus else ("core-minutes",)
    table = _table(("run", "steps", *needs, "disk GB", "now"), left=("run", "now"))
    for trial in sorted(trials, key=lambda c: (-c.priority, -c.gpus, -(c.hours or 0.0))):
        table.add_row(
            trial.name, str(trial.planned),
            *((str(trial.nodes), str(trial.gpus or "-"), _hours([trial])) if on_gpus
              else (_number(trial.minutes, "{:.3g}"),)),
            _number(trial.disk / GB, "{:.3g}"), row(trial).state,
        )  # fmt: skip
    shown, trials = len(trials), at_most or trials
    disk = sum(trial.disk for trial in trials)
    root = next(folder for folder in trials[0].path.parents if folder.exists())
    free = shutil.disk_usage(root).free
    minutes = [trial.minutes for trial in trials if trial.minutes is not None]
    spent = f"{_hours(trials)} GPU-hours" if on_gpus else "no GPUs"
    if minutes:
        cores = os.cpu_count() or 1
        spent += f", about {duration(60 * sum(minutes))} of one core, {duration(60 * sum(minutes) / cores)} on {cores}"
    runs = f"{'at most ' * (shown < len(trials))}{len(trials)} runs"
    total = f"{runs}, {spent}, {disk / GB:.3g} GB of checkpoints; {free / GB:.3g} GB free at {root}"
    lines = [Text(sweep.about or sweep.name), table, Text(total, style="bold red" if disk > free else "bold")]
    return Group(*lines)


def _hours(trials: Sequence[Trial]) -> str:
    """GPU-hours of the trials together, from least to most."""
    known = [(trial.hours_least or trial.hours, trial.hours) for trial in trials if trial.hours is not None]
    return between(*(sum(of) for of in zip(*known, strict=True))) if known else "-"


def _number(value: Any, form: str, factor: float = 1) -> str:
    return "-" if value is None else form.format(value * factor)
