"""Any recorded metric as a quantity of a claim: its mean over a window, at equal steps, tokens or movement."""

import difflib
import math
from collections.abc import Collection, Sequence

from analysis.statistics.pairs import Quantity
from analysis.statistics.quantities import AT_EQUAL, BENCHMARKS, OVER_VALIDATIONS, QUANTITIES, UNITS, at_equal
from analysis.statistics.windows import MissingError, Run, series, validations
from harness.rundir import STANDARD_METRICS

VALIDATION = "val"  # begins the names of what is recorded at validations alone: val_accuracy, val-core/...
OWN = (VALIDATION, "reward_")  # begin names that are no mistakes, close as they may be: so do the reward's parts
ALMOST = 0.8  # a name as similar as that (``difflib``) is meant to be the other one
SCALES = {"ratio": math.log, "points": lambda value: 100 * value}  # by unit; of all others as recorded


def quantity_of(name: str, unit: str) -> Quantity:
    """The registered quantity of that name, else the recorded metric of that name.

    Of a metric: its mean over the window, each step counting the same; of a validation the last one that all compared
    runs have; with a suffix of ``AT_EQUAL`` the mean at equal tokens or movement. unit: ``ratio`` for the natural
    logarithm, ``points`` for a hundred times the value.
    """
    if name in QUANTITIES:
        return QUANTITIES[name]
    metric, spent = parts_of(name)

    def of(runs: Sequence[Run], window: str) -> list[float]:
        if spent:
            values = at_equal(spent, metric, runs, window)
        elif over_validations(metric):
            values = [float(found.iloc[0]) for found in validations(runs, metric, 1)]
        else:
            values = [float(series(run, metric, window).mean()) for run in runs]
        if unit == "ratio" and not min(values) > 0:
            raise MissingError(f"{metric} is not above 0, so it has no ratio")
        scale = SCALES.get(unit)
        return [scale(value) for value in values] if scale else values

    of.of_one_run = not spent and not over_validations(metric)  # type: ignore[attr-defined]
    return of


def parts_of(name: str) -> tuple[str, str]:
    """(metric, what is equal: tokens, kl, or "" for steps) of a quantity's name."""
    for suffix, spent in AT_EQUAL.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), spent
    return name, ""


def over_validations(name: str) -> bool:
    """Whether a quantity is of the end of training alone: of validations, or of benchmarks."""
    return name in (*OVER_VALIDATIONS, BENCHMARKS) or (name not in QUANTITIES and name.startswith(VALIDATION))


def is_known(name: str, recorded: Collection[str]) -> bool:
    """Whether a claim can be about it: a registered quantity, a standard metric, or one that runs have recorded.

    Before there are runs (``recorded`` is empty), a name is taken as it is unless it is almost a known one: verl and
    every grader record names of their own.
    """
    metric, _ = parts_of(name)
    if name in (*QUANTITIES, BENCHMARKS) or metric in (*STANDARD_METRICS, *recorded):
        return True
    return not recorded and (metric.startswith(OWN) or not difflib.get_close_matches(metric, names(()), 1, ALMOST))


def names(recorded: Collection[str]) -> list[str]:
    """What there is to choose from, registered quantities first."""
    return list(dict.fromkeys([*QUANTITIES, BENCHMARKS, *STANDARD_METRICS, *recorded]))


def unit_of(name: str) -> str:
    """The unit of a registered quantity, "" for a metric, which is as it was recorded."""
    return UNITS.get(name, "")
