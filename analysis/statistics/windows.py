"""One run as the quantities see it, and the windows of steps in which it is measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import Runs
from analysis.statistics import length_pressure

Window = tuple[int, int]  # first and last step, both inside
DIVERGENCE = "grad_norm"  # the trainer records it at every step; NaN or infinite means that the run diverged


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
        found = [frame for _, frame in self.source.select(run=self.name).responses(columns)]
        steps = found[0]["step"].nunique() if found else 0
        if steps < self.planned or not found:
            raise MissingError(f"responses are recorded at {steps} of {self.planned} steps")
        return found[0]

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
        raise MissingError(f"{metric} was recorded {len(values)} times, at least {count} are needed")
    if values.index[-1] < run.windows["final"][0]:
        raise MissingError(f"no {metric} at the end, the last is at step {values.index[-1]}")
    return values.iloc[-count:]
