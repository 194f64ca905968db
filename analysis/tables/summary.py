"""One row a run: how far it came and what it did, as a frame and as a table for a terminal or a log."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.runs.load import Runs
from analysis.statistics.fork import fork_frame, is_fork

END_SHARE = 0.2  # of the planned steps, at their end
POOLED = {  # sum of clipped, sum of candidates, the mean to fall back on
    "clip_token": ("clip_tokens", "clip_tokens_of", "clip_frac_token"),
    "clip_seq": ("clip_seqs", "clip_seqs_of", "clip_frac_seq"),
}
QUANTITIES = ("length", "length_end", *POOLED, "reward", "accuracy", "minutes")
STYLES = {"failed": "red", "incomplete": "yellow", "planned": "dim", "running": "cyan"}


def summary_frame(runs: Runs) -> pd.DataFrame:
    """One row per run: run, experiment, arm, algo, seed, state, last_step, planned_steps, error, and ``QUANTITIES``.

    length: mean response length in tokens over the run's steps. length_end: over the last fifth of the *planned*
    steps, NaN for a run that did not reach their end (a shorter window is another quantity). clip_token, clip_seq:
    clipped share, pooled over the run from sums and counts where the metrics have them, else the mean over steps.
    reward, accuracy: mean over the run. minutes: of training. NaN is missing.
    """
    by_run = dict(list(runs.metrics.groupby("run")))
    keys = ["run", "experiment", "arm", "algo", "seed", "state", "last_step", "planned_steps", "error"]
    rows: list[dict[str, Any]] = []
    for run in runs.runs.to_dict("records"):
        metrics = by_run.get(run["run"], runs.metrics.iloc[:0])
        window = metrics["step"] > (1 - END_SHARE) * run["planned_steps"]
        reached = run["last_step"] >= run["planned_steps"]
        rows.append(
            {
                **{key: run[key] for key in keys},
                "length": metrics["response_length"].mean(),
                "length_end": metrics.loc[window, "response_length"].mean() if reached else math.nan,
                **{name: _pooled(metrics, *columns) for name, columns in POOLED.items()},
                "reward": metrics["reward"].mean(),
                "accuracy": metrics["accuracy"].mean(),
                "minutes": run["minutes"],
            }
        )
    return pd.DataFrame.from_records(rows)


def print_summary(runs: Runs, console: Console | None = None) -> None:
    """Print a table per experiment: a row per run and, for an arm of several seeds, the mean over those that are done.

    Runs that failed are red; their errors and all warnings follow below, a line each. Fits 80 columns.
    """
    console = console or Console()
    for experiment, rows in summary_frame(runs).groupby("experiment", sort=False):
        table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
        table.title = Text(str(experiment), style="bold")
        for header in ("arm", "seed", "state"):
            table.add_column(header, overflow="fold")
        for header in ("length", "at\nend", "clip %\ntoken", "\nseq", "reward", "acc\n%", "min"):
            table.add_column(header, justify="right", no_wrap=True)
        # No mean over runs of different length: a smoke run is no seed of a real one.
        for (arm, _), group in rows.groupby(["arm", "planned_steps"], sort=False):
            for row in group.to_dict("records"):
                reached = (
                    str(row["last_step"]) if row["state"] == "done" else f"{row['last_step']}/{row['planned_steps']}"
                )
                cells = [str(arm), str(row["seed"]), f"{row['state']} {reached}", *_cells(row)]
                table.add_row(*map(Text, cells), style=STYLES.get(row["state"]))
            done = group[group["state"] == "done"]
            if len(group) > 1:
                cells = [str(arm), "mean", f"{len(done)}/{len(group)} done", *_cells(done[list(QUANTITIES)].mean())]
                table.add_row(*map(Text, cells), style="bold")
            table.add_section()
        console.print(table)
    for run in runs.runs.to_dict("records"):
        if run["error"]:
            console.print(Text(f"{run['state']}: {run['run']}: {run['error']}", style="red"), soft_wrap=True)
        for warning in run["warnings"]:
            console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def print_forks(runs: Runs, console: Console) -> None:
    """The lengths on the probes before and after the one update, where the runs are forks; nothing where not.

    What a fork is made for: the lengths of ``print_summary`` are of the batch before the update, equal for all losses.
    """
    done = runs.runs["run"][runs.runs["state"] == "done"]
    if done.empty or not is_fork(runs.select(run=list(done))):
        return
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, title_justify="left")
    table.title = Text("mean length on the probes, tokens", style="bold")
    for header in ("arm", "seed", "before", "after", "change"):
        table.add_column(header, justify="left" if header == "arm" else "right")
    for row in fork_frame(runs).to_dict("records"):
        numbers = (f"{row['before']:.2f}", f"{row['after']:.2f}", f"{row['change']:+.2f}")
        table.add_row(Text(row["arm"]), str(row["seed"]), *numbers)
    console.print(table)


def _pooled(metrics: pd.DataFrame, clipped: str, of: str, fraction: str) -> float:
    if {clipped, of} <= set(metrics.columns):
        sums = metrics[[clipped, of]].dropna().sum()
        if sums[of] > 0:
            return sums[clipped] / sums[of]
    return metrics[fraction].mean()


def _cells(row: Mapping[Any, Any] | pd.Series) -> list[str]:
    """The quantities as text, shares in percent, ``-`` where missing."""
    formats = {"clip_token": ".3g", "clip_seq": ".3g", "reward": ".3f"}
    cells = []
    for name in QUANTITIES:
        value = row[name] * (100 if name in {"clip_token", "clip_seq", "accuracy"} else 1)
        cells.append("-" if math.isnan(value) else f"{value:{formats.get(name, '.1f')}}")
    return cells
