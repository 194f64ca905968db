"""Rows of a run in the order they were written -> one row a step, and what was understood of them."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from analysis.runs.load import AnalysisError
from analysis.runs.sources.names import STEPS
from analysis.runs.sources.source import Row, listed

LOOKED_AT = 1000  # rows from whose columns the column of the steps is chosen
MAX_STEPS = 200_000  # of one run; more are no training steps
MAX_RESUMES = 100
MAX_LAYOUTS = 1000
NOT_FINITE = {"nan": math.nan, "infinity": math.inf, "-infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}


@dataclass
class History:
    """What a run recorded, by step and under its own names; only names that ``holds`` is true of are held.

    trains: whether a name is of training, not of validation.
    rows: how many were read. repeated: rows with a value that its step had already: the later one is kept. skipped:
    rows without a step. resumed: (from, to) where trained steps go back: what was trained from there on before is
    dropped. columns: every name that was seen. texts: wanted names with values that are no numbers, which are left out.
    """

    holds: Callable[[str], bool]
    trains: Callable[[str], bool]
    where: str
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    rows: int = 0
    repeated: int = 0
    skipped: int = 0
    step_name: str = ""
    resumed: list[tuple[int, int]] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)
    _last: int = 0
    _layouts: dict[tuple[str, ...], list[str]] = field(default_factory=dict)  # a row's names -> those that are held

    def read(self, rows: Iterable[Row], step: str | None, where: Mapping[str, str]) -> None:
        """Take all rows. step: the column of the steps, by default the first of ``STEPS`` that is there.

        Raises ``AnalysisError``: no such column, a step that is no whole number, more than ``MAX_STEPS`` of them.
        """
        rows = iter(rows)
        head = list(islice(rows, LOOKED_AT))
        there = dict.fromkeys(name for row in head for name in row)
        if not there:
            raise AnalysisError(f"{self.where}: holds no row of metrics")
        for name in (step, *where) if step else where:
            if name not in there:
                raise AnalysisError(f"{self.where}: has no column {name}; there are {listed(list(there), 12)}")
        self.step_name = step or next((name for name in STEPS if name in there), "")
        if not self.step_name:
            raise AnalysisError(
                f"{self.where}: no column of steps ({', '.join(STEPS)}) among {listed(list(there), 12)}; name yours "
                "with --step"
            )
        for row in chain(head, rows):
            if all(str(row.get(name)) == value for name, value in where.items()):
                self._take(row)

    def _take(self, row: Row) -> None:
        self.rows += 1
        held = self._held(tuple(row))
        step = self._step(row.get(self.step_name))
        if step is None:
            self.skipped += 1
            return
        values = {}
        for name in held:
            value = self._number(name, row[name])
            if value is not None:
                values[name] = value
        if not values:
            return
        there = self.steps.get(step)
        if there is not None and not values.keys().isdisjoint(there):
            self.repeated += 1
            if step < self._last and any(name in there and self.trains(name) for name in values):
                self._resume(step)
        if step > self._last and any(map(self.trains, values)):
            self._last = step
        self.steps.setdefault(step, {}).update(values)
        if len(self.steps) > MAX_STEPS:
            raise AnalysisError(
                f"{self.where}: more than {MAX_STEPS:,} steps in {self.step_name}; is it the column of the training "
                "steps? Another one is named with --step"
            )

    def _held(self, layout: tuple[str, ...]) -> list[str]:
        if layout not in self._layouts:
            self.columns.update(dict.fromkeys(layout))
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[layout] = [name for name in layout if self.holds(name)]
        return self._layouts[layout]

    def _resume(self, step: int) -> None:
        self.resumed.append((self._last, step))
        if len(self.resumed) > MAX_RESUMES:
            raise AnalysisError(
                f"{self.where}: steps go back more than {MAX_RESUMES} times, so this is no single run; choose one's "
                "rows with --run-name, or with `where` in the mapping"
            )
        for later in [at for at in self.steps if at >= step]:
            del self.steps[later]
        self._last = step

    def _step(self, value: Any) -> int | None:
        number = self._number(self.step_name, value)
        if number is None or math.isnan(number):
            return None
        if number != int(number) if math.isfinite(number) else True:
            raise AnalysisError(f"{self.where}: step {value} in {self.step_name} is no whole number; see --step")
        return int(number)

    def _number(self, name: str, value: Any) -> float | None:
        """None for what was not recorded. A text may be a number: W&B and Trackio write NaN and infinity so."""
        if value is None:
            return None
        if isinstance(value, float):
            return value
        if isinstance(value, int | np.number):
            return float(value)
        if isinstance(value, str):
            try:
                return NOT_FINITE[value.lower()] if value.lower() in NOT_FINITE else float(value)
            except ValueError:
                pass
        self.texts.add(name)
        return None
