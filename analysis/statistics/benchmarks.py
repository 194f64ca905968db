"""Accuracy on benchmarks with its uncertainty. Runs, questions and samples are three sources of variation.

``evals`` is a tidy frame with one row per run, question and sample: run, arm, seed, benchmark, question, sample,
correct (1 or 0), and settings where they are recorded; further columns are ignored. Accuracies are in percent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.runs.load import AnalysisError
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.intervals import Interval, Values, student, t_interval, welch
from analysis.statistics.pairs import Sample

MAX_FLIPPED = 20  # runs whose 2^n sign patterns are enumerated
ROUNDING = 1e-9  # sums that differ by less, relatively, are one and the same

Tables = tuple[pd.DataFrame, pd.DataFrame]  # question means in percent of two arms, seeds x questions, same labels


@dataclass(frozen=True)
class Cell:
    """avg@k of one arm on one benchmark, in percent.

    low, high: t interval over runs, NaN below 3 runs. k: samples a question. values: the mean of each run, by seed.
    se_questions: standard error of these runs' mean over draws of questions, clustered by question (Miller 2024, arXiv
    2411.00640); NaN for one question.
    """

    mean: float
    low: float
    high: float
    n_runs: int
    n_questions: int
    k: int
    se_questions: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """Arm a minus arm b in percent points, paired by seed and question.

    benchmark: interval on these questions, t over runs. questions: interval on new questions (``crossed``).
    sign_flip_p, sign_flip_least: ``sign_flip`` of the runs' differences. correlation: Pearson's r of the two arms' run
    means over seeds, NaN below 3 pairs. welch: as ``benchmark``, without the pairing. seeds: those compared; unpaired:
    those that one side lacks. tables: what all of this was computed from, one pair a benchmark.
    """

    estimate: float
    benchmark: Interval
    questions: Interval
    sign_flip_p: float
    sign_flip_least: float
    correlation: float
    welch: Interval
    n_runs: int
    n_questions: int
    seeds: tuple[int, ...]
    unpaired: tuple[int, ...]
    tables: tuple[Tables, ...] = field(repr=False, compare=False)


def pass_at_k(n: int, c: npt.ArrayLike, k: int) -> Any:
    """Unbiased estimate of the chance that one of k samples is right, if c of n were: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), equation 1. c: whole numbers of any shape, and the result has that shape. As a
    product of ratios below 1, so nothing overflows. Raises ``AnalysisError`` unless 1 <= k <= n and 0 <= c <= n.
    """
    counts = np.asarray(c)
    if not 1 <= k <= n:
        raise AnalysisError(f"pass@{k} of {n} samples: k must be from 1 to {n}")
    if ((counts < 0) | (counts > n) | (counts % 1 != 0)).any():
        raise AnalysisError(f"pass@{k}: right samples must be whole numbers from 0 to {n}")
    factors = np.maximum(0, 1 - k / np.arange(n, 0, -1))  # C(n-c-1, k) / C(n-c, k) for c = 0, 1, ...
    return 1 - np.cumprod([1, *factors])[counts.astype(int)]


def question_means(evals: pd.DataFrame) -> pd.DataFrame:
    """Mean of ``correct`` over samples, a share: rows runs, columns questions of one benchmark.

    Raises ``AnalysisError`` naming run and question where not every run has the same questions with the same number of
    samples, a sample is there twice or has no result; naming the runs where they were sampled or graded with unequal
    settings; or if there is not exactly one benchmark.
    """
    _require_one_settings(evals, _one(evals, "benchmark"))
    again = evals[evals.duplicated(["run", "question", "sample"])]
    if len(again):
        run, question, sample = again[["run", "question", "sample"]].iloc[0]
        raise AnalysisError(f"run {run}: question {question} has sample {sample} twice")
    groups = evals.groupby(["run", "question"], observed=True)["correct"]
    counts = groups.count().unstack(fill_value=0)
    usual = counts.stack().mode()[0]
    odd = counts.stack().loc[lambda count: count != usual]
    if len(odd):
        run, question = odd.index[0]
        raise AnalysisError(f"run {run}: question {question} has {odd.iloc[0]} graded samples, elsewhere {usual}")
    return groups.mean().astype(float).unstack()


def cell(evals: pd.DataFrame, level: float = 0.95) -> Cell:
    """avg@k of the runs of one arm on one benchmark.

    Raises ``AnalysisError`` as ``question_means``, and unless there is one arm with one run a seed.
    """
    table = 100 * question_means(evals).loc[_run_of(evals)]
    values = table.mean(axis=1)
    runs, questions = table.shape
    found = t_interval(values.to_numpy(), level)
    return Cell(
        mean=found.estimate,
        low=found.low if runs >= MIN_T_RUNS else math.nan,
        high=found.high if runs >= MIN_T_RUNS else math.nan,
        n_runs=runs,
        n_questions=questions,
        k=len(evals) // table.size,
        se_questions=float(table.mean(axis=0).std(ddof=1)) / math.sqrt(questions),
        values=tuple(values),
    )


def crossed(parts: Sequence[np.ndarray], level: float = 0.95) -> Interval:
    """Interval of the mean of R x Q paired differences for other runs and other questions; both are random samples.

    parts: a matrix for each benchmark, R runs in all of them, Q questions of its own; each benchmark weighs the same.

    In the two-way layout with one value a cell E[MS_R] = s_RQ^2 + Q s_R^2, E[MS_Q] = s_RQ^2 + R s_Q^2 and E[MS_RQ] =
    s_RQ^2 (which takes in the noise of the samples), hence SE^2 = (MS_R + MS_Q - MS_RQ) / (RQ) without bias, here at
    least max(MS_R, MS_Q) / (RQ), with Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:110). These count
    all three mean squares also where the floor holds, which errs to the wide side.

    Simulated coverage of 95 %: .94 to .99 from 3 runs on; with 2 runs it falls to .90 where runs differ. n: R. sd:
    standard error times sqrt(R). For R = 1 or Q = 1 one source of variation is not seen, so there is no interval.
    """
    effects = np.mean([d.mean(axis=1) for d in parts], axis=0)
    estimate, runs = float(effects.mean()), effects.size
    if runs < 2 or min(d.shape[1] for d in parts) < 2:
        return student(estimate, math.nan, math.nan, runs, 0, level)
    weight = 1 / len(parts) ** 2
    by_run = effects.var(ddof=1) / runs
    by_question = [weight * d.mean(axis=0).var(ddof=1) / d.shape[1] for d in parts]
    rest = [weight * _interaction(d) / d.size for d in parts]
    variance = max(by_run + sum(by_question) - sum(rest), by_run, sum(by_question))
    terms = [(by_run, runs - 1)]
    for question, other, d in zip(by_question, rest, parts, strict=True):
        terms += [(question, d.shape[1] - 1), (other, (runs - 1) * (d.shape[1] - 1))]
    spread = sum(term**2 / df for term, df in terms)
    df = variance**2 / spread if spread else runs - 1
    error = math.sqrt(variance)
    return student(estimate, error * math.sqrt(runs), error, runs, float(df), level)


def sign_flip(effects: Values) -> tuple[float, float]:
    """Exact two-sided p of the sign-flip test of symmetry about 0, and the least p that so many effects can reach.

    p: share of the 2^n sign patterns with a mean at least as far from 0 (Fisher 1935, The Design of Experiments, 21);
    NaN above 20 effects. The least is 2^(1 - n): 0.25 for 3 runs, 0.0625 for 5.
    """
    x = np.asarray(effects, dtype=float)
    least = min(1.0, 2.0 ** (1 - x.size))
    if x.size > MAX_FLIPPED or np.isnan(x).any():
        return math.nan, least
    sums = np.zeros(1)
    for effect in x:
        sums = np.concatenate([sums + effect, sums - effect])
    observed = abs(x.sum()) - ROUNDING * np.abs(x).sum()
    return float((np.abs(sums) >= observed).mean()), least


def compare(a: pd.DataFrame, b: pd.DataFrame, level: float = 0.95) -> Comparison:
    """Arm ``a`` minus arm ``b`` on one benchmark, paired by seed and question; each an ``evals`` frame of one arm.

    Raises ``AnalysisError`` as ``cell``, and if no seed is in both. Runs of unpaired seeds are not looked into.
    """
    runs = [_run_of(a), _run_of(b)]
    seeds = runs[0].index.intersection(runs[1].index)
    if seeds.empty:
        here, there = (f"{_one(side, 'arm')} has {', '.join(map(str, _run_of(side).index))}" for side in (a, b))
        raise AnalysisError(f"no seed to pair by: {here} and {there}")
    runs = [side.loc[seeds] for side in runs]
    table = 100 * question_means(pd.concat([side[side["run"].isin(of)] for side, of in zip((a, b), runs, strict=True)]))
    first, second = (table.loc[of].set_axis(seeds) for of in runs)
    everywhere = _run_of(a).index.union(_run_of(b).index)
    return _compared(((first, second),), tuple(everywhere.difference(seeds)), level)


def average(comparisons: Sequence[Comparison], level: float = 0.95) -> Comparison:
    """The average of several benchmarks, each weighing the same, over the seeds that all of them have.

    ``benchmark``, ``sign_flip_p``, ``correlation`` and ``welch`` are of the run means of the average. ``questions``:
    with B benchmarks of Q_b questions and D_rbq = mu_b + run_rb + question_bq + rest_rbq the estimate's variance is

        Var(mean over b of run_rb) / R + sum over b of (s_Q,b^2 / Q_b + s_RQ,b^2 / (R Q_b)) / B^2.

    A run that is good at one benchmark may be good at the next, so run_rb may correlate over b in any way: its part is
    seen only in the variance of the R averages, not in MS_R of each benchmark. Questions of two benchmarks are
    different questions, so theirs add up. Hence, with V_R = variance of the R averages / R, V_Q = sum of
    MS_Q,b / (R Q_b B^2) and V_RQ = sum of MS_RQ,b / (R Q_b B^2), SE^2 = V_R + V_Q - V_RQ, at least max(V_R, V_Q):
    ``crossed`` for B = 1.

    Raises ``AnalysisError`` without a comparison or a seed that all have.
    """
    tables = tuple(pair for comparison in comparisons for pair in comparison.tables)
    everywhere = {seed for comparison in comparisons for seed in (*comparison.seeds, *comparison.unpaired)}
    seeds = sorted(set.intersection(*(set(first.index) for first, _ in tables))) if tables else []
    if not seeds:
        raise AnalysisError(f"no average of {len(tables)} benchmarks: no seed was compared on all of them")
    chosen = tuple((first.loc[seeds], second.loc[seeds]) for first, second in tables)
    return _compared(chosen, tuple(sorted(everywhere.difference(seeds))), level)


def _compared(tables: tuple[Tables, ...], unpaired: tuple[int, ...], level: float) -> Comparison:
    """The comparison of tables of the same seeds."""
    a, b = (np.mean([pair[side].mean(axis=1) for pair in tables], axis=0) for side in (0, 1))
    seeds = tuple(tables[0][0].index)
    p, least = sign_flip(a - b)
    return Comparison(
        estimate=float((a - b).mean()),
        benchmark=t_interval(a - b, level),
        questions=crossed([(first - second).to_numpy() for first, second in tables], level),
        sign_flip_p=p,
        sign_flip_least=least,
        correlation=Sample(values=dict(zip(seeds, zip(a, b, strict=True), strict=True))).correlation,
        welch=welch(a, b, level),
        n_runs=len(seeds),
        n_questions=sum(first.shape[1] for first, _ in tables),
        seeds=seeds,
        unpaired=unpaired,
        tables=tables,
    )


def _interaction(d: np.ndarray) -> float:
    """MS_RQ: the mean square that is left without run and question means."""
    left = d - d.mean(axis=1, keepdims=True) - d.mean(axis=0, keepdims=True) + d.mean()
    return float((left**2).sum() / ((d.shape[0] - 1) * (d.shape[1] - 1)))


def _one(evals: pd.DataFrame, column: str) -> Any:
    """The only value of a column, since nothing here averages over arms or benchmarks."""
    values = evals[column].unique()
    if len(values) != 1:
        raise AnalysisError(f"evaluations of {len(values)} {column}s ({', '.join(map(str, values))}), one is needed")
    return values[0]


def _require_one_settings(evals: pd.DataFrame, benchmark: str) -> None:
    """Raise ``AnalysisError`` unless all runs were evaluated alike; not recorded is a setting of its own."""
    if "settings" not in evals or evals["settings"].nunique() < 2:
        return
    runs = evals.groupby("settings")["run"].unique()
    named = "; ".join(f"{settings or 'not recorded'}: {', '.join(map(str, of))}" for settings, of in runs.items())
    raise AnalysisError(f"{benchmark}: evaluated with {len(runs)} settings ({named}); evaluate all runs alike")


def _run_of(evals: pd.DataFrame) -> pd.Series:
    """seed -> run of one arm, by seed."""
    arm = _one(evals, "arm")
    runs = evals.drop_duplicates("run").set_index("seed")["run"].sort_index()
    if not runs.index.is_unique:
        seed = runs.index[runs.index.duplicated()][0]
        raise AnalysisError(f"{arm}: seed {seed} has the runs {', '.join(runs.loc[[seed]])}; one is needed")
    return runs
