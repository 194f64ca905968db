"""Do new runs learn what recorded ones learnt? Summaries of a run, the band of the recorded runs, how often it errs.

The mean of m new runs is compared with n recorded ones by the prediction interval of Student's t: it lies within
t * s * sqrt(1/n + 1/m) of the recorded mean, s being the recorded runs' standard deviation, n - 1 degrees of freedom.
The new runs' own spread is not used: a fault that makes runs wild must not widen its own band. All summaries of all
losses are one family, corrected by Holm. A permutation of 10 + 3 runs has 286 outcomes; its smallest p, 0.0035, would
be no finding among thirty.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from analysis.statistics.intervals import POWER, Interval, holm, student

ALPHA = 0.01  # of one false alarm in a whole check
NEW_RUNS = 3

Key = tuple[str, str, int, int]  # loss, measure, first and last step
Summaries = Mapping[Key, np.ndarray]


@dataclass(frozen=True)
class Measure:
    """A recorded metric and the scale on which seeds scatter about alike at any level; ``back`` undoes it."""

    unit: str
    scale: Callable[[np.ndarray], np.ndarray] = np.asarray
    back: Callable[[float], float] = float


def _square(value: float) -> float:
    return max(value, 0.0) ** 2


MEASURES = {
    "response_length": Measure("tokens", np.log, math.exp),
    "reward": Measure(""),
    "clip_frac_token": Measure("", np.sqrt, _square),  # as of counts; it may be 0
    "entropy": Measure("nats", np.log, math.exp),
    "grad_norm": Measure("", np.log, math.exp),  # sees a factor that Adam makes the weights not see
}


@dataclass(frozen=True)
class Compared:
    """One summary of the new runs beside the recorded ones.

    found: on the measure's scale, the difference of the means with its interval at the level that Holm leaves it.
    p: Holm's. new, recorded, low, high: in the measure's unit; low and high are the ends of the band.
    """

    key: Key
    found: Interval
    p: float
    new: float
    recorded: float
    low: float
    high: float

    @property
    def departs(self) -> bool:
        return self.p < ALPHA


def windows(steps: int) -> tuple[tuple[int, int], ...]:
    """The first quarter and the second half of a run, first and last step of each."""
    return (1, max(1, steps // 4)), (steps // 2 + 1, steps)


def summaries(rows: pd.DataFrame, steps: int) -> dict[tuple[str, int, int], np.ndarray]:
    """(measure, first step, last step) -> each seed's mean over these steps, on the measure's scale.

    rows: seed, step and ``MEASURES`` of one loss. A measure without any value (a loss that does not clip) is left out.
    """
    found = {}
    for name, measure in MEASURES.items():
        if rows[name].isna().all():
            continue
        table = rows.pivot(index="seed", columns="step", values=name)
        for first, last in windows(steps):
            with np.errstate(invalid="ignore", divide="ignore"):
                found[name, first, last] = measure.scale(table.loc[:, first:last].to_numpy().mean(axis=1))
    return found


def compare(recorded: Summaries, new: Summaries) -> list[Compared]:
    """Every summary that was recorded of the losses that are in ``new``. NaN among the new runs is outside any band."""
    losses = {key[0] for key in new}
    keys = [key for key in recorded if key[0] in losses]
    given = {key: new.get(key, np.full(1, math.nan)) for key in keys}
    adjusted, own = holm([_difference(recorded[key], given[key]).p for key in keys], ALPHA)
    compared = []
    for key, p, alpha in zip(keys, adjusted, own, strict=True):
        found = _difference(recorded[key], given[key], 1 - alpha)
        back, mean = MEASURES[key[1]].back, float(recorded[key].mean())
        half = _half(recorded[key], given[key].size, alpha)
        new_mean = back(mean + found.estimate) if math.isfinite(found.estimate) else math.nan
        compared.append(Compared(key, found, p, new_mean, back(mean), back(mean - half), back(mean + half)))
    return compared


def false_alarms(recorded: Summaries, new_runs: int = NEW_RUNS) -> tuple[int, int]:
    """(splits with an alarm, splits) where ``new_runs`` of the recorded seeds, the same of every loss, stand for new
    ones, in every possible way. Every loss has the same number of seeds."""
    n = len(next(iter(recorded.values())))
    alarms = total = 0
    for chosen in combinations(range(n), new_runs):
        taken = np.isin(np.arange(n), chosen)
        kept = {key: values[~taken] for key, values in recorded.items()}
        tested = {key: values[taken] for key, values in recorded.items()}
        p = [_difference(kept[key], tested[key]).p for key in recorded]
        alarms += min(holm(p, ALPHA)[0]) < ALPHA
        total += 1
    return alarms, total


def smallest_found(recorded: Summaries, new_runs: int = NEW_RUNS, power: float = POWER) -> dict[Key, float]:
    """The shift of each summary, on its measure's scale, that such a check finds with probability ``power`` if it is
    the only one (noncentral t at ALPHA over the number of summaries); s is taken as the true one."""
    found = {}
    for key, values in recorded.items():
        n = values.size
        quantile = float(special.stdtrit(n - 1, 1 - ALPHA / len(recorded) / 2))
        shift = optimize.brentq(lambda x, q=quantile, df=n - 1: stats.nct.sf(q, df, x) - power, 0, 10 * quantile)
        found[key] = float(shift) * _error(values, new_runs)
    return found


def steps_beyond(recorded: pd.DataFrame, new: pd.DataFrame, measure: str) -> list[int]:
    """The steps at which the new runs' mean lies above or below every recorded run, or is no number."""
    old = recorded.groupby("step")[measure].agg(["min", "max"])
    mean = new.groupby("step")[measure].agg(lambda values: values.mean(skipna=False))
    inside = mean.between(old["min"], old["max"])
    return [int(step) for step in inside.index[~inside]]


def first_difference(recorded: pd.DataFrame, new: pd.DataFrame) -> tuple[int, str, float, float] | None:
    """(step, measure, recorded, new) where two runs of one seed differ first; None if they are equal throughout."""
    a, b = (rows.sort_values("step")[["step", *MEASURES]].to_numpy(dtype=float) for rows in (recorded, new))
    differ = (a != b) & ~(np.isnan(a) & np.isnan(b))
    if not differ.any():
        return None
    row, column = np.argwhere(differ)[0]  # the first of the first row
    return int(a[row, 0]), [*MEASURES][column - 1], float(a[row, column]), float(b[row, column])


def _difference(recorded: np.ndarray, new: np.ndarray, level: float = 0.95) -> Interval:
    if not np.isfinite(new).all():
        return Interval(math.nan, math.nan, math.nan, new.size, recorded.size - 1, math.nan, 0.0, level)
    sd, error = float(recorded.std(ddof=1)), _error(recorded, new.size)
    return student(float(new.mean() - recorded.mean()), sd, error, new.size, recorded.size - 1, level)


def _error(recorded: np.ndarray, new_runs: int) -> float:
    """Standard error of the difference of the two means, from the recorded runs' spread."""
    return float(recorded.std(ddof=1)) * math.sqrt(1 / recorded.size + 1 / new_runs)


def _half(recorded: np.ndarray, new_runs: int, alpha: float) -> float:
    return float(special.stdtrit(recorded.size - 1, 1 - alpha / 2)) * _error(recorded, new_runs)
