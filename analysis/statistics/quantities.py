"""What is measured in a run: the registered quantities that claims compare, each one number a run.

A quantity is a function of the compared runs (one per arm, of one seed) and the name of a window, and returns a value
for each run. Lengths and shares are natural logarithms, accuracies percentage points. A run that lacks what is needed
raises ``MissingError``; a window is never silently shortened.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from analysis.runs.load import AnalysisError
from analysis.statistics import length_pressure
from analysis.statistics.arms import x_axis
from analysis.statistics.intervals import log_ratio
from analysis.statistics.robust import COLLAPSE, length_change
from analysis.statistics.windows import MissingError, Run, series, steps_of, validations

LEAST_COUNT = 0.5  # in place of a count of 0 under a logarithm: half of the smallest that could have been seen
VALIDATIONS = 3  # averaged by C12


def clip_counts(run: Run, window: str) -> tuple[float, float]:
    """Clipped tokens and tokens that could have been, over updates 2..K of the window's steps and advantages not 0."""
    first, last = run.windows[window]
    series(run, "response_length", window)  # every step is there, though one without any candidate records no counts
    counts = run.metrics.reindex(columns=["clip_tokens", "clip_tokens_of"]).loc[first:last].sum()
    if not counts["clip_tokens_of"] > 0:
        raise MissingError("clip_tokens is not recorded (with one update a step nothing is clipped)")
    return float(counts["clip_tokens"]), float(counts["clip_tokens_of"])


def length(run: Run, window: str) -> float:
    """ln of the mean response length in tokens."""
    return math.log(series(run, "response_length", window).mean())


def lost(run: Run, window: str) -> float:
    """1 for a run that failed, diverged or collapsed in length, else 0."""
    return float(run.failed or not length_change(run, "end") >= COLLAPSE)


def growth(run: Run, window: str) -> float:
    """Theil-Sen slope of ln length per step (``scipy.stats.theilslopes``), times the number of steps in the window."""
    from scipy import stats  # takes long to import, and few need it

    values = series(run, "response_length", window)
    return float(stats.theilslopes(np.log(values), values.index).slope) * len(values)


def validation_length(runs: Sequence[Run], window: str) -> list[float]:
    """ln of each run's mean response length in the last validation that all have."""
    return [math.log(values.iloc[0]) for values in validations(runs, "val_response_length", 1)]


def validation_accuracy(runs: Sequence[Run], window: str) -> list[float]:
    """Mean accuracy of the last three validations that all runs have, in percentage points."""
    return [100 * float(values.mean()) for values in validations(runs, "val_accuracy", VALIDATIONS)]


def accuracy(run: Run, window: str) -> float:
    """Mean training accuracy in percentage points, each step counting the same."""
    return 100 * float(series(run, "accuracy", window).mean())


def clipped_tokens(run: Run, window: str) -> float:
    """ln of the clipped share of tokens, ``clip_counts`` pooled over the window."""
    clipped, of = clip_counts(run, window)
    return log_ratio(max(clipped, LEAST_COUNT), of)


def clipped_negatives(run: Run, window: str) -> float:
    """ln of the clipped share of the responses with negative advantage over that of those with positive.

    Shares, not numbers: right and wrong answers are not equally many, and a loss that is blind to the sign would clip
    more of whichever there are more of. Over updates 2..K, where a ratio can be anything but 1.
    """
    rows = run.responses
    rows = rows[(rows["update"] > 1) & (rows["advantage"] != 0)]
    shares = []
    for sign in (-1, 1):
        of = rows[rows["advantage"] * sign > 0]
        if of.empty:
            raise MissingError("no response of one sign could have been clipped (with one update a step none is)")
        shares.append(max((of["clipped"] > 0).sum(), LEAST_COUNT) / len(of))
    return log_ratio(*shares)


def positive_share(run: Run, window: str) -> float:
    """Share of the positive in all kept advantage minus one half, in percentage points.

    Kept is a response's advantage times the share of its tokens that is not clipped. Over all responses of the run, the
    first updates included, where nothing is clipped and both signs weigh the same.
    """
    rows = run.responses
    kept = rows["advantage"] * (1 - rows["clipped"] / rows["tokens"])
    if not kept.abs().sum():
        raise MissingError("no advantage is kept")
    return 100 * float(kept.clip(lower=0).sum() / kept.abs().sum() - 0.5)


def loss_bias(run: Run, window: str) -> float:
    """Normalised length pressure of the run's loss minus that of c = A, in standard deviations of length.

    Mean over all updates of the window's steps, each step's first included, where nothing is clipped but 1/|y| acts;
    spread and standard deviation pooled over the same updates (``length_pressure.loss_bias``).
    """
    return _defined(length_pressure.loss_bias(*_pressed(run, window)))


def pressure_slope(run: Run, window: str) -> float:
    """Slope of the length pressure on a prompt's group on the group's accuracy, by least squares: standard deviations
    of length from accuracy 0 to 1. Over the groups of the window that have both right and wrong responses."""
    from scipy import stats  # takes long to import, and few need it

    prompts = length_pressure.prompt_pressure(*_pressed(run, window))
    if prompts["accuracy"].nunique() < 2:
        raise MissingError("groups with an advantage are all of one accuracy, or there is none")
    return _defined(float(stats.linregress(prompts["accuracy"], prompts["value"]).slope))


def at_equal(spent: str, metric: str, runs: Sequence[Run], window: str) -> list[float]:
    """Mean of ``metric`` in each run over one and the same stretch of what was spent on training.

    spent: tokens, or kl: the movement that is the axis of curves. The stretch is what the window covers in the run that
    has spent less by its end. Each unit counts the same: a step weighs with what it spends inside the stretch.
    """
    first, last = steps_of(runs[0], window)
    columns = [spent if spent == "tokens" else x_axis(spent).column(run.metrics) for run in runs]
    totals = [series(run, name, "run").abs().cumsum() for run, name in zip(runs, columns, strict=True)]
    thrifty = min(totals, key=lambda total: total[last])
    bounds = (0.0 if first == 1 else thrifty[first - 1], thrifty[last])
    if not bounds[1] > bounds[0]:
        raise MissingError(f"{columns[0]} adds up to 0 (with one update a step a policy is where it sampled)")
    result = []
    for run, total in zip(runs, totals, strict=True):
        inside = total.clip(*bounds)
        weights = inside.diff().fillna(inside.iloc[0] - bounds[0])
        result.append(float(np.average(series(run, metric, "run"), weights=weights)))
    return result


def accuracy_at_equal(spent: str, runs: Sequence[Run], window: str) -> list[float]:
    """Mean training accuracy in percentage points, ``at_equal`` tokens or movement."""
    return [100 * value for value in at_equal(spent, "accuracy", runs, window)]


def length_at_equal(spent: str, runs: Sequence[Run], window: str) -> list[float]:
    """ln of the mean response length in tokens, ``at_equal`` tokens or movement."""
    return [math.log(value) for value in at_equal(spent, "response_length", runs, window)]


def each(quantity: Callable[[Run, str], float]) -> Callable[[Sequence[Run], str], list[float]]:
    """A quantity of one run as a quantity of the compared runs, which do not matter to each other (``of_one_run``)."""

    def of_each(runs: Sequence[Run], window: str) -> list[float]:
        return [quantity(run, window) for run in runs]

    of_each.of_one_run = True  # type: ignore[attr-defined]
    return of_each


BENCHMARKS = "benchmark_accuracy"  # what evaluations give, not the metrics of training (``evaluated``)
AT_EQUAL = {"_at_equal_tokens": "tokens", "_at_equal_movement": "kl"}  # ends of names -> what is equal (``at_equal``)
COUNTS_FAILURES = ("lost",)  # a failed run has a value; of all others it caps the verdict
ABOUT_COLLAPSE = ("lost", "length_change")  # a collapsed run is what they measure; of all others it caps the verdict
OVER_VALIDATIONS = {
    "validation_length": ("val_response_length", 1),
    "validation_accuracy": ("val_accuracy", VALIDATIONS),
}
QUANTITIES: dict[str, Callable[[Sequence[Run], str], list[float]]] = {
    "length": each(length),
    "length_change": each(length_change),
    "lost": each(lost),
    "growth": each(growth),
    "validation_length": validation_length,
    "validation_accuracy": validation_accuracy,
    "accuracy": each(accuracy),
    "accuracy_at_equal_tokens": partial(accuracy_at_equal, "tokens"),
    "accuracy_at_equal_movement": partial(accuracy_at_equal, "kl"),
    "length_at_equal_tokens": partial(length_at_equal, "tokens"),
    "length_at_equal_movement": partial(length_at_equal, "kl"),
    "clipped_tokens": each(clipped_tokens),
    "clipped_negatives": each(clipped_negatives),
    "positive_share": each(positive_share),
    "loss_bias": each(loss_bias),
    "pressure_slope": each(pressure_slope),
}

UNITS = {  # of the effect in each; a ratio is averaged as a logarithm
    **dict.fromkeys(("length", "length_change", "growth", "validation_length", "clipped_tokens"), "ratio"),
    **dict.fromkeys(("length_at_equal_tokens", "length_at_equal_movement", "clipped_negatives"), "ratio"),
    **dict.fromkeys(("accuracy", "accuracy_at_equal_tokens", "accuracy_at_equal_movement"), "points"),
    **dict.fromkeys(("validation_accuracy", "positive_share", BENCHMARKS), "points"),
    **dict.fromkeys(("loss_bias", "pressure_slope"), "sd of length"),
    "lost": "runs",
}


def _pressed(run: Run, window: str) -> tuple[pd.DataFrame, str]:
    """The responses of the window's steps and the loss that the run trained with (``length_pressure.loss_of``)."""
    first, last = run.windows[window]
    try:
        loss = length_pressure.loss_of(run.manifest)
    except AnalysisError as error:
        raise MissingError(str(error)) from None
    return run.grouped_responses[run.grouped_responses["step"].between(first, last)], loss


def _defined(value: float) -> float:
    """The value; without one the loss has no direction or lengths do not differ."""
    if math.isnan(value):
        raise MissingError("no length pressure: no advantage is kept, or all lengths are equal")
    return value
