"""What runs say of an arm and of two arms at their end: on benchmarks, and in the last validation during training.

Only finished runs speak, and only of the model at their end. None is what was not run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.runs.load import Runs
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.benchmarks import Cell, Comparison, average, cell, compare
from analysis.statistics.intervals import Interval, log_ratio, t_interval
from analysis.statistics.matched import require_matched

BASE = "base"  # the model before training, evaluated as step 0


@dataclass(frozen=True)
class Evaluations:
    """Benchmark results of one experiment's finished runs. frame: rows of ``Runs.evals`` of one model each.

    varies: keys in which compared runs may differ (``require_matched``). Arms are as runs name them, and ``BASE``.
    Benchmarks are found whatever their case and punctuation.
    """

    frame: pd.DataFrame
    runs: Runs
    level: float
    varies: Sequence[str] = ()

    @property
    def arms(self) -> list[str]:
        """Arms with any result, the base model apart."""
        return [str(arm) for arm in self.frame["arm"].unique() if arm != BASE]

    @property
    def benchmarks(self) -> list[str]:
        return [str(benchmark) for benchmark in self.frame["benchmark"].unique()]

    def rows(self, arm: str, benchmark: str) -> pd.DataFrame:
        return self._parts.get((arm, _plain(benchmark)), self.frame.iloc[:0])

    @cached_property
    def _parts(self) -> dict[tuple[str, str], pd.DataFrame]:
        plain = {name: _plain(str(name)) for name in self.frame["benchmark"].unique()}
        parts = self.frame.groupby(["arm", self.frame["benchmark"].map(plain)], sort=False, observed=True)
        return {(str(arm), str(name)): rows for (arm, name), rows in parts}

    def cell(self, arm: str, benchmark: str) -> Cell | None:
        rows = self.rows(arm, benchmark)
        return cell(rows, self.level) if len(rows) else None

    def mean(self, arm: str, benchmarks: Sequence[str]) -> Cell | None:
        """The average over benchmarks, each weighing the same, of the runs that have all of them.

        se_questions: of the sum of independent means, as questions of two benchmarks are different questions.
        """
        parts = [(self.rows(arm, benchmark), self.cell(arm, benchmark)) for benchmark in benchmarks]
        cells = [(sorted(rows["seed"].unique()), part) for rows, part in parts if part]
        if not benchmarks or len(cells) < len(benchmarks):
            return None
        values = pd.concat([pd.Series(part.values, seeds) for seeds, part in cells], axis=1, join="inner").mean(axis=1)
        if values.empty:
            return None
        found = t_interval(values.to_numpy(), self.level)
        low, high = (found.low, found.high) if found.n >= MIN_T_RUNS else (math.nan, math.nan)
        error = math.hypot(*(part.se_questions for _, part in cells)) / len(cells)
        questions = sum(part.n_questions for _, part in cells)
        samples = {part.k for _, part in cells}
        k = samples.pop() if len(samples) == 1 else 0
        return Cell(found.estimate, low, high, found.n, questions, k, error, tuple(values))

    def compare(self, a: str, b: str, benchmark: str) -> Comparison | None:
        """Arm a minus arm b over the seeds that both have; raises ``AnalysisError`` if they are not matched."""
        first, second = self.rows(a, benchmark), self.rows(b, benchmark)
        if not set(first["seed"]) & set(second["seed"]):
            return None
        require_matched(self.runs.select(run=[*first["run"].unique(), *second["run"].unique()]), self.varies)
        return compare(first, second, self.level)

    def compare_mean(self, a: str, b: str, benchmarks: Sequence[str]) -> Comparison | None:
        """The average over benchmarks of ``compare``."""
        parts = [part for benchmark in benchmarks if (part := self.compare(a, b, benchmark))]
        if not parts or len(parts) < len(benchmarks) or not set.intersection(*(set(part.seeds) for part in parts)):
            return None
        return average(parts, self.level)


@dataclass(frozen=True)
class Validations:
    """A metric at the last validation during training, of one experiment's finished runs.

    frame: one row per run with columns run, arm, seed, step, value.
    """

    frame: pd.DataFrame
    runs: Runs
    level: float
    varies: Sequence[str] = ()

    @property
    def arms(self) -> list[str]:
        return [str(arm) for arm in self.frame["arm"].unique()]

    def of(self, arm: str) -> Interval | None:
        """Mean over the arm's runs."""
        values = self.frame.loc[self.frame["arm"] == arm, "value"]
        return t_interval(values.to_numpy(), self.level) if len(values) else None

    def compare(self, a: str, b: str, logs: bool = False) -> Interval | None:
        """Mean of a minus b over the seeds that both have, with ``logs`` of ln(a / b).

        Raises ``AnalysisError`` if the runs are not matched.
        """
        pairs = self.frame[self.frame["arm"].isin([a, b])]
        values = pairs.pivot(index="seed", columns="arm", values="value").reindex(columns=[a, b]).dropna()
        if values.empty:
            return None
        require_matched(self.runs.select(run=list(pairs["run"])), self.varies)
        effects = [log_ratio(x, y) if logs else x - y for x, y in values.to_numpy()]
        return t_interval(effects, self.level)


def evaluations(
    runs: Runs, experiment: str, evals: pd.DataFrame, level: float, varies: Sequence[str] = ()
) -> Evaluations:
    """The rows of ``evals`` (``Runs.evals()``) that are of finished runs of ``experiment`` at their last step.

    Step 0 is the base model, one for all runs: the rows of the first arm that has any.
    """
    frame = evals[evals["run"].isin(_done(runs, experiment)["run"])]
    last = frame["run"].map(runs.runs.set_index("run")["last_step"])
    trained = frame[(frame["step"] == last) & (frame["step"] > 0)]
    start = frame[frame["step"] == 0]
    base = start[start["arm"] == start["arm"].iloc[0]] if len(start) else start
    return Evaluations(pd.concat([trained, base.assign(arm=BASE)], ignore_index=True), runs, level, varies)


def last_validations(runs: Runs, experiment: str, metric: str, level: float, varies: Sequence[str] = ()) -> Validations:
    """The last value of ``metric`` after step 0 of every finished run of ``experiment``."""
    there = runs.metrics["run"].isin(_done(runs, experiment)["run"]) & (runs.metrics["step"] > 0)
    rows = runs.metrics.loc[there].reindex(columns=["run", "arm", "seed", "step", metric])
    last = rows.dropna(subset=[metric]).drop_duplicates("run", keep="last").rename(columns={metric: "value"})
    return Validations(last.reset_index(drop=True), runs, level, varies)


def left_out(runs: Runs, experiment: str) -> list[str]:
    """The experiment's runs that are not finished, with their state; they are in no number."""
    there = runs.runs[(runs.runs["experiment"] == experiment) & (runs.runs["state"] != "done")]
    return [f"{row['run']} ({row['state']})" for row in there.to_dict("records")]


def not_evaluated(found: Evaluations, experiment: str) -> list[str]:
    """The experiment's finished runs without any benchmark result at their last step; the model before training, which
    has a folder of a run where it was evaluated, is none of them."""
    done = _done(found.runs, experiment)
    trained = done.loc[done["arm"] != BASE, "run"]
    return list(trained[~trained.isin(found.frame.loc[found.frame["arm"] != BASE, "run"])])


def _done(runs: Runs, experiment: str) -> pd.DataFrame:
    return runs.runs[(runs.runs["experiment"] == experiment) & (runs.runs["state"] == "done")]


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
