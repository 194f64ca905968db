"""What is measured in a run: the few quantities that the claims compare, each one number a run.

A quantity is a function of the compared runs (one per arm, of one seed) and the name of a window, and returns a value
for each run. Lengths and shares are natural logarithms, accuracies hundredths. A run that lacks what is needed raises
``MissingError``; a window is never silently shortened.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis import length_pressure
from analysis.intervals import log_ratio
from analysis.load import AnalysisError, Runs

Window = tuple[int, int]  # first and last step, both inside
CLIP_LOW, CLIP_HIGH = (f"actor_rollout_ref.actor.clip_ratio_{side}" for side in ("low", "high"))
DIVERGENCE = "grad_norm"  # the trainer records it at every step; NaN or infinite means that the run diverged
LEAST_COUNT = 0.5  # in place of a count of 0 under a logarithm: half of the smallest that could have been seen
VALIDATIONS = 3  # averaged by C12


class MissingError(Exception):
    """A run lacks what a quantity needs; the message is a phrase that says what."""


@dataclass(frozen=True)
class Run:
    """One run as the quantities see it. metrics: its rows of ``Runs.metrics``, indexed by step."""

    name: str
    arm: str
    seed: int
    state: str
    planned: int
    windows: Mapping[str, Window]
    metrics: pd.DataFrame
    source: Runs

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.source.manifests[self.name]

    @cached_property
    def responses(self) -> pd.DataFrame:
        """The run's recorded responses of all planned steps: step, advantage, log_ratio, tokens, clipped."""
        return self._recorded("step", "advantage", "log_ratio", "tokens", "clipped")

    @cached_property
    def grouped_responses(self) -> pd.DataFrame:
        """The same with what length pressure needs: ``length_pressure.COLUMNS`` and accuracy."""
        return self._recorded(*length_pressure.COLUMNS, "accuracy")

    def _recorded(self, *columns: str) -> pd.DataFrame:
        frame = self.source.select(run=self.name).sequences(columns)
        steps = frame["step"].nunique()
        if steps < self.planned:
            raise MissingError(f"responses are recorded at {steps} of {self.planned} steps")
        return frame

    @property
    def failed(self) -> bool:
        """Whether the run failed or diverged: a gradient norm that is no finite number, where any run records it."""
        trained = self.metrics[self.metrics["response_length"].notna()]
        recorded = self.source.metrics[DIVERGENCE].notna().any()
        return self.state == "failed" or bool(recorded and not np.isfinite(trained[DIVERGENCE]).all())


def windows(rules: Mapping[str, Any], planned: int) -> dict[str, Window]:
    """The named windows of a run of ``planned`` steps under one entry of ``rules`` of claims.yaml."""
    share, at_least = rules["end"]["share"], rules["end"]["at_least"]
    last = max(at_least, math.ceil(round(share * planned, 9)))
    end = (planned - last + 1, planned)
    early = {name: (int(rules[name][0]), int(rules[name][1])) for name in ("start", "growth", "early")}
    return {**early, "end": end, "final": end, "run": (1, planned)}


def steps_of(run: Run, window: str) -> Window:
    """First and last step of the window, which the run has planned."""
    first, last = run.windows[window]
    if last > run.planned or first < 1:
        raise MissingError(f"the window, steps {first}-{last}, is not within the {run.planned} planned steps")
    return first, last


def series(run: Run, metric: str, window: str) -> pd.Series:
    """The metric's values at all steps of the window."""
    first, last = steps_of(run, window)
    if metric not in run.metrics or run.metrics[metric].isna().all():
        raise MissingError(f"{metric} is not recorded")
    values = run.metrics[metric].reindex(range(first, last + 1))
    if values.isna().any():
        raise MissingError(f"no {metric} at step {values.index[values.isna()][0]}")
    return values


def validations(run: Run, metric: str, count: int) -> pd.Series:
    """The last ``count`` validations during training, the last of them within the window ``final``."""
    values = run.metrics[metric].dropna() if metric in run.metrics else pd.Series(dtype=float)
    values = values[values.index > 0]
    if len(values) < count:
        raise MissingError(f"{metric} is there {len(values)} times, {count} needed")
    if values.index[-1] < run.windows["final"][0]:
        raise MissingError(f"no {metric} at the end, the last is at step {values.index[-1]}")
    return values.iloc[-count:]


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


def length_change(run: Run, window: str) -> float:
    """ln of the mean length in the window over that in the window ``start``."""
    now, then = (series(run, "response_length", name).mean() for name in (window, "start"))
    return log_ratio(now, then)


def growth(run: Run, window: str) -> float:
    """Theil-Sen slope of ln length per step (``scipy.stats.theilslopes``), times the number of steps in the window."""
    values = series(run, "response_length", window)
    return float(stats.theilslopes(np.log(values), values.index).slope) * len(values)


def validation_length(run: Run, window: str) -> float:
    """ln of the mean response length of the last validation."""
    return math.log(validations(run, "val_response_length", 1).iloc[0])


def validation_accuracy(run: Run, window: str) -> float:
    """Mean of the last three validations' accuracies, in hundredths."""
    return 100 * float(validations(run, "val_accuracy", VALIDATIONS).mean())


def accuracy(run: Run, window: str) -> float:
    """Mean training accuracy in hundredths, each step counting the same."""
    return 100 * float(series(run, "accuracy", window).mean())


def clipped_tokens(run: Run, window: str) -> float:
    """ln of the clipped share of tokens, ``clip_counts`` pooled over the window."""
    clipped, of = clip_counts(run, window)
    return log_ratio(max(clipped, LEAST_COUNT), of)


def clipped_negatives(run: Run, window: str) -> float:
    """ln of the number of clipped responses with negative over positive advantage, as recorded."""
    rows = run.responses
    return _negatives(rows[rows["clipped"] > 0])


def clip_higher(run: Run, window: str) -> float:
    """``clipped_negatives`` minus the same after clipping at low = high = mean of the pair. Sequence-level losses only:

    a response is outside where exp(log_ratio) leaves [1 - low, 1 + high], and clipped on the side its advantage pushes.
    """
    treatment = run.manifest.get("treatment", {})
    if not {CLIP_LOW, CLIP_HIGH} <= treatment.keys():
        raise MissingError("the manifest has no clip range")
    side = (treatment[CLIP_LOW] + treatment[CLIP_HIGH]) / 2
    rows = run.responses
    ratio, advantage = np.exp(rows["log_ratio"]), rows["advantage"]
    again = ((advantage < 0) & (ratio < 1 - side)) | ((advantage > 0) & (ratio > 1 + side))
    return clipped_negatives(run, window) - _negatives(rows[again])


def positive_share(run: Run, window: str) -> float:
    """Share of the positive in all kept advantage minus one half, in hundredths.

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
    prompts = length_pressure.prompt_pressure(*_pressed(run, window))
    if prompts["accuracy"].nunique() < 2:
        raise MissingError("groups with an advantage are all of one accuracy, or there is none")
    return _defined(float(stats.linregress(prompts["accuracy"], prompts["value"]).slope))


def accuracy_at_equal_tokens(runs: Sequence[Run], window: str) -> list[float]:
    """Mean accuracy in hundredths of each run over one and the same stretch of tokens spent on training.

    The stretch is what the window covers in the run that has spent fewer tokens by its end. Each token counts the same:
    a step's accuracy weighs with the tokens it spends inside the stretch.
    """
    first, last = steps_of(runs[0], window)
    spent = [series(run, "tokens", "run").cumsum() for run in runs]
    thrifty = min(spent, key=lambda tokens: tokens[last])
    bounds = (0.0 if first == 1 else thrifty[first - 1], thrifty[last])
    result = []
    for run, tokens in zip(runs, spent, strict=True):
        inside = tokens.clip(*bounds)
        weights = inside.diff().fillna(inside.iloc[0] - bounds[0])
        result.append(100 * float(np.average(series(run, "accuracy", "run"), weights=weights)))
    return result


def each(quantity: Callable[[Run, str], float]) -> Callable[[Sequence[Run], str], list[float]]:
    """A quantity of one run as a quantity of the compared runs, which do not matter to each other."""
    return lambda runs, window: [quantity(run, window) for run in runs]


QUANTITIES: dict[str, Callable[[Sequence[Run], str], list[float]]] = {
    "length": each(length),
    "length_change": each(length_change),
    "growth": each(growth),
    "validation_length": each(validation_length),
    "validation_accuracy": each(validation_accuracy),
    "accuracy": each(accuracy),
    "accuracy_at_equal_tokens": accuracy_at_equal_tokens,
    "clipped_tokens": each(clipped_tokens),
    "clipped_negatives": each(clipped_negatives),
    "clip_higher": each(clip_higher),
    "positive_share": each(positive_share),
    "loss_bias": each(loss_bias),
    "pressure_slope": each(pressure_slope),
}


def _negatives(clipped: pd.DataFrame) -> float:
    negative, positive = (max((clipped["advantage"] * sign > 0).sum(), LEAST_COUNT) for sign in (-1, 1))
    return log_ratio(float(negative), float(positive))


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
