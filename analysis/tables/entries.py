"""Estimates as entries of a table: text with interval and number of runs, bold where the interval says so.

An interval is shown from 3 runs on. None, what was not run, says so in the table.
"""

import math
from collections.abc import Sequence

import numpy as np

from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.benchmarks import Cell, Comparison
from analysis.statistics.intervals import Interval
from analysis.tables.table import Entry

NOT_RUN = Entry("not run")


def cell_entry(found: Cell | None, bold: bool = False) -> Entry:
    """``41.3 [39.0, 43.6] (3), se 1.9``; below 3 runs the single values: ``40.2, 42.4 (2), se 1.9``."""
    if found is None:
        return NOT_RUN
    interval = found.n_runs >= MIN_T_RUNS
    text = f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}]" if interval else _listed(found.values)
    error = "" if math.isnan(found.se_questions) else f", se {found.se_questions:.1f}"
    text = f"{text} ({found.n_runs}){error}"
    return Entry(text, found.mean, found.low, found.high, found.n_runs, found.se_questions, bold)


def comparison_entry(found: Comparison | None) -> Entry:
    """``+4.0 [+1.2, +6.8] (3)`` with the interval on new questions; bold where it does not hold 0."""
    if found is None:
        return NOT_RUN
    low, high = _shown(found.questions, found.n_runs)
    text = f"{_signed(found.estimate)}{_bounds(low, high)} ({found.n_runs})"
    return Entry(text, found.estimate, low, high, found.n_runs, bold=favours(found) != 0)


def favours(found: Comparison | None) -> int:
    """1 where the interval on new questions is above 0, -1 below; 0 where it is neither or below 3 runs."""
    low, high = _shown(found.questions, found.n_runs) if found else (math.nan, math.nan)
    return int(low > 0) - int(high < 0)


def comparison_note(found: Comparison) -> str:
    """The other views of a difference, in one phrase: these questions, unpaired, correlation, sign-flip test."""
    these, unpaired = (_bounds(*_shown(interval, found.n_runs)) for interval in (found.benchmark, found.welch))
    parts = [f"on these questions{these}, unpaired (Welch){unpaired}"] if these else []
    parts += [] if math.isnan(found.correlation) else [f"r = {found.correlation:.2f}"]
    p = "not computed" if math.isnan(found.sign_flip_p) else f"{found.sign_flip_p:.3g}"
    parts.append(f"sign-flip p = {p} (least possible with {found.n_runs} runs: {found.sign_flip_least:.3g})")
    if found.unpaired:
        parts.append(f"seeds without a pair: {', '.join(map(str, found.unpaired))}")
    return "; ".join(parts)


def mean_entry(found: Interval | None, scale: float = 1.0) -> Entry:
    """``35.4 [32.8, 38.0] (5)``, of the mean times ``scale``; no interval below 3 runs."""
    if found is None:
        return NOT_RUN
    low, high = (scale * bound for bound in _shown(found, found.n))
    mean = scale * found.estimate
    bounds = "" if math.isnan(low) else f" [{tokens(low)}, {tokens(high)}]"
    return Entry(f"{tokens(mean)}{bounds} ({found.n})", mean, low, high, found.n)


def difference_entry(found: Interval | None, scale: float = 1.0) -> Entry:
    """``+0.7 [-0.8, +2.1] (5)``, of the difference times ``scale``; no interval below 3 runs."""
    if found is None:
        return NOT_RUN
    low, high = (scale * bound for bound in _shown(found, found.n))
    mean = scale * found.estimate
    return Entry(f"{_signed(mean)}{_bounds(low, high)} ({found.n})", mean, low, high, found.n)


def ratio_entry(found: Interval | None) -> Entry:
    """``1.60 x [1.32, 1.93] (5)`` of an interval of logarithms, which average to the geometric mean of the ratios."""
    if found is None:
        return NOT_RUN
    mean, low, high = (float(np.exp(value)) for value in (found.estimate, *_shown(found, found.n)))
    bounds = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    return Entry(f"{mean:.2f} x{bounds} ({found.n})", mean, low, high, found.n)


def tokens(value: float) -> str:
    """A length or a percentage: one decimal below 100, none from there on."""
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def _shown(interval: Interval, runs: int) -> tuple[float, float]:
    return (interval.low, interval.high) if runs >= MIN_T_RUNS else (math.nan, math.nan)


def _bounds(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)
