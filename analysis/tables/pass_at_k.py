"""avg@k, pass@n and maj@k of every arm on every benchmark."""

import math

import pandas as pd

from analysis.runs.load import Runs
from analysis.statistics.intervals import Interval
from analysis.statistics.majority import majority_by_run, over_runs, pass_by_run, powers
from analysis.statistics.outcomes import BASE, evaluations
from analysis.tables.table import Entry, Table

MAX_COLUMNS = 4  # of pass@n: the first, the last, and those between at equal distances


def pass_table(runs: Runs, level: float = 0.95) -> Table:
    """One row per experiment, benchmark and arm (the initial model too), in percent: mean over runs and interval."""
    evals = runs.evals()
    rows: list[tuple[str | Entry, ...]] = []
    found = {name: evaluations(runs, name, evals, level) for name in dict.fromkeys(runs.runs["experiment"])}
    parts = [
        (name, benchmark, arm, of_one.rows(arm, benchmark))
        for name, of_one in found.items()
        for benchmark in of_one.benchmarks
        for arm in (BASE, *of_one.arms)
        if len(of_one.rows(arm, benchmark))
    ]
    shown = _thinned(sorted({n for *_, frame in parts for n in powers(_samples(frame))}))
    for name, benchmark, arm, frame in parts:
        k = _samples(frame)
        cells = [_entry(over_runs(pass_by_run(frame, n), level)) if n <= k else Entry("-") for n in shown]
        majority = majority_by_run(frame)
        last = _entry(over_runs(majority, level)) if majority is not None else Entry("-")
        rows.append((name, benchmark, arm, str(k), *cells, last))
    notes = (
        f"Percent, mean over runs; in brackets the {100 * level:g} % t interval over runs, from 3 on. pass@1 is avg@k. "
        "pass@n: the chance that one of n samples is right, unbiased from k (arXiv 2107.03374). maj@k: the most "
        "frequent answer is right, each of equally frequent ones counting its part; answers are compared as text, "
        "after the grader's normalisation; - where no answer text was recorded.",
    )
    columns = ("experiment", "benchmark", "arm", "k", *(f"pass@{n}" for n in shown), "maj@k")
    empty = ("No benchmark was evaluated.",)
    return Table("pass_at_k", "pass@n and maj@k at the end of training", columns, tuple(rows),
                 notes if rows else empty, labels=3)  # fmt: skip


def _samples(frame: pd.DataFrame) -> int:
    return len(frame) // (frame["run"].nunique() * frame["question"].nunique())


def _thinned(numbers: list[int]) -> list[int]:
    if len(numbers) <= MAX_COLUMNS:
        return numbers
    last = len(numbers) - 1
    return [numbers[round(at * last / (MAX_COLUMNS - 1))] for at in range(MAX_COLUMNS)]


def _entry(found: Interval) -> Entry:
    bounds = "" if math.isnan(found.low) else f" [{found.low:.1f}, {found.high:.1f}]"
    return Entry(f"{found.estimate:.1f}{bounds} ({found.n})", found.estimate, found.low, found.high, found.n)
