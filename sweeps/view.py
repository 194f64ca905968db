"""Tables of a sweep: what it would need, and where each of its runs is. Read from small files alone."""

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

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
    table = Table(box=None, pad_edge=False)
    for name in ("run", "state", "step", "length", "clipped %", "reward", "left", "host", "attempt"):
        table.add_column(name, justify="left" if name in ("run", "state", "host") else "right", overflow="fold")
    for one in rows:
        table.add_row(
            one.name,
            Text(one.state, style=STYLES.get(one.state, "")),
            f"{one.step}/{one.planned}",
            _number(one.last.get("response_length"), "{:.1f}"),
            _number(one.last.get("clip_frac_token"), "{:.2g}", 100),
            _number(one.last.get("reward"), "{:.2f}"),
            duration(one.seconds_left) if one.state == "running" else "",
            one.host,
            str(one.attempt or ""),
        )
    counts = ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in rows).most_common())
    holder = controller(lock_file)
    controlled = f"controller: process {holder['pid']} on {holder['host']}" if holder else "no controller"
    errors = [
        Text(f"{one.name}: {one.error}\n  why: {why(trial)}", style="red")
        for one, trial in zip(rows, trials, strict=True)
        if one.error and one.state != "done"
    ]
    return Group(table, *errors, Text(f"{counts}; {controlled}", style="bold"))


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


def plan_table(sweep: Sweep, trials: Sequence[Trial]) -> Group:
    """What the sweep would run, in the order in which its runs would start, with totals."""
    table = Table(box=None, pad_edge=False)
    for name in ("run", "steps", "nodes", "GPUs", "GPU-hours", "disk GB", "now"):
        table.add_column(name, justify="left" if name in ("run", "now") else "right", overflow="fold")
    for trial in sorted(trials, key=lambda c: (-c.priority, -c.gpus, -(c.hours or 0.0))):
        table.add_row(
            trial.name, str(trial.planned), str(trial.nodes), str(trial.gpus or "-"), _number(trial.hours, "{:.3g}"),
            _number(trial.disk / GB, "{:.3g}"), row(trial).state,
        )  # fmt: skip
    hours = [trial.hours for trial in trials if trial.hours is not None]
    disk = sum(trial.disk for trial in trials)
    root = next(folder for folder in trials[0].path.parents if folder.exists())
    free = shutil.disk_usage(root).free
    spent = f"{sum(hours):.4g} GPU-hours" if hours else "no GPUs"
    total = f"{len(trials)} runs, {spent}, {disk / GB:.3g} GB of checkpoints; {free / GB:.3g} GB free at {root}"
    lines = [Text(sweep.about or sweep.name), table, Text(total, style="bold red" if disk > free else "bold")]
    return Group(*lines)


def duration(seconds: float | None) -> str:
    """``2 h 05 min``, ``12 min``, ``40 s``."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _number(value: Any, form: str, factor: float = 1) -> str:
    return "-" if value is None else form.format(value * factor)
