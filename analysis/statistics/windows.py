"""One run as the quantities see it, and the windows of steps in which it is measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.foreign import is_imported
from analysis.runs.load import Runs
from analysis.runs.proofs import FALSE
from analysis.statistics import length_pressure
from harness.rundir import MACHINE_CAUSES

Window = tuple[int, int]  # first and last step, both inside
N_MIN = "n_min"  # among the rules of an experiment: runs per arm without which nothing is decided
USUAL = {  # rules of an experiment of which no file says others
    N_MIN: 5, "start": (1, 5), "growth": (1, 20), "early": (10, 19), "end": {"share": 0.2, "at_least": 1}
}  # fmt: skip
DIVERGENCE = "grad_norm"  # verl makes no update where it is no finite number
DIVERGED_STEPS = 3  # at the end of a run without an update: it diverged; a single one is passed over


class MissingError(Exception):
    """A run lacks what a quantity needs; the message is a phrase that says what."""


@dataclass(frozen=True)
class Run:
    """One run as the quantities see it. metrics: its rows of ``Runs.metrics``, indexed by step."""

    name: str
    arm: str
    seed: int
    state: str
    cause: str
    last_step: int
    planned: int
    windows: Mapping[str, Window]
    metrics: pd.DataFrame
    source: Runs
    found: dict[tuple[str, str], pd.Series] = field(default_factory=dict, repr=False, compare=False)  # by ``series``

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.source.manifests[self.name]

    @cached_property
    def responses(self) -> pd.DataFrame:
        """The run's recorded responses of all planned steps: step, update, advantage, tokens, clipped."""
        return self._recorded("step", "update", "advantage", "tokens", "clipped")

    @cached_property
    def grouped_responses(self) -> pd.DataFrame:
        """The same with what length pressure needs: ``length_pressure.COLUMNS`` and accuracy."""
        return self._recorded(*length_pressure.COLUMNS, "accuracy")

    def _recorded(self, *columns: str) -> pd.DataFrame:
        proof = self.source.rows_proof(self.name)
        if proof.state == FALSE:
            raise MissingError(f"the responses of {self.arm} are not used: {proof.detail}")
        found = [frame for _, frame in self.source.select(run=self.name).responses(columns)]
        steps = found[0]["step"].nunique() if found else 0
        if steps < self.planned or not found:
            raise MissingError(f"responses are recorded at {steps} of {self.planned} steps")
        return found[0]

    @property
    def stopped_by_machine(self) -> bool:
        """Whether the run failed for a reason that says nothing of its loss (``rundir.MACHINE_CAUSES``)."""
        return self.state == "failed" and self.cause in MACHINE_CAUSES

    @property
    def unfinished(self) -> str:
        """Why the run has no result yet, in a phrase: it can go on; nothing for one that ended, well or badly."""
        if self.stopped_by_machine and self.last_step >= self.planned:
            return ""  # all that is measured is there
        if self.state in ("done", "failed") and not self.stopped_by_machine:
            return ""
        why = f"{self.state} ({self.cause})" if self.cause and self.state != "done" else self.state
        return f"{self.arm} is {why} at step {self.last_step} of {self.planned}"

    @cached_property
    def diverged(self) -> bool:
        """Whether the last steps brought no update, because their gradient norm is no finite number."""
        norms = self.metrics.loc[self.metrics["response_length"].notna(), DIVERGENCE]
        if norms.isna().all():
            return False  # not recorded: nobody knows
        if is_imported(self.manifest):  # where there is none of a step, it was not recorded
            norms = norms.dropna()
        last = norms.iloc[-DIVERGED_STEPS:]
        return len(last) == DIVERGED_STEPS and not np.isfinite(last).any()

    @property
    def failed(self) -> bool:
        """Whether the run failed in a way that speaks of its loss, or diverged: a result, which caps a verdict."""
        return (self.state == "failed" and not self.stopped_by_machine) or self.diverged


def windows(rules: Mapping[str, Any], planned: int) -> dict[str, Window]:
    """The named windows of a run of ``planned`` steps under the rules of its experiment (``Claims.rules_of``).

    A window is a pair of steps, or the last ``share`` of the planned steps, ``at_least`` so many of them. ``final`` is
    the same as ``end``, ``run`` all steps.
    """
    named = {name: _window(given, planned) for name, given in rules.items() if name != N_MIN}
    return {**named, "final": named["end"], "run": (1, planned)}


def _window(given: Any, planned: int) -> Window:
    if isinstance(given, Mapping):
        last = max(given.get("at_least", 1), math.ceil(round(given["share"] * planned, 9)))
        return planned - last + 1, planned
    return int(given[0]), int(given[1])


def steps_of(run: Run, window: str) -> Window:
    """First and last step of the window, which the run has planned."""
    first, last = run.windows[window]
    if last > run.planned or first < 1:
        raise MissingError(f"the window, steps {first}-{last}, is not within the {run.planned} planned steps")
    return first, last


def series(run: Run, metric: str, window: str) -> pd.Series:
    """The metric's values at all steps of the window; not to be changed."""
    first, last = steps_of(run, window)
    if (metric, window) not in run.found:
        values = run.metrics.get(metric)
        if values is None or values.isna().all():
            raise MissingError(f"{metric} is not recorded")
        values = values.reindex(range(first, last + 1))
        if values.isna().any():
            raise MissingError(f"no {metric} at step {values.index[values.isna()][0]}")
        run.found[metric, window] = values
    return run.found[metric, window]


def validations(runs: Sequence[Run], metric: str, count: int) -> list[pd.Series]:
    """Each run's last ``count`` validations during training, at steps that all of ``runs`` have.

    How often a run validates changes nothing that it learns, so it must not change what is compared. The last step is
    within the window ``final``.
    """
    recorded = []
    for run in runs:
        values = run.metrics[metric].dropna() if metric in run.metrics else pd.Series(dtype=float)
        recorded.append(values[values.index > 0])
    shared = sorted(set.intersection(*(set(values.index) for values in recorded)))
    together = " at the same steps" if len(runs) > 1 and any(len(values) for values in recorded) else ""
    if len(shared) < count:
        raise MissingError(f"{metric} was recorded {len(shared)} times{together}, at least {count} are needed")
    if shared[-1] < runs[0].windows["final"][0]:
        raise MissingError(f"no {metric} at the end, the last{together} is at step {shared[-1]}")
    return [values[shared[-count:]] for values in recorded]
