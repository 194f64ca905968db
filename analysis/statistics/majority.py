"""pass@n and maj@k of an arm's runs on one benchmark, in percent: what k samples are worth together."""

import math

import numpy as np
import pandas as pd

from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.benchmarks import pass_at_k, question_means
from analysis.statistics.intervals import Interval, t_interval


def powers(k: int) -> list[int]:
    """1, 2, 4, ... and k itself."""
    return sorted({*(2**i for i in range(k.bit_length()) if 2**i <= k), k})


def pass_by_run(evals: pd.DataFrame, n: int) -> pd.Series:
    """Unbiased pass@n of each run, mean over questions. Raises ``AnalysisError`` as ``question_means``."""
    shares = question_means(evals)
    k = len(evals) // shares.size
    right = (shares * k).round()
    return pd.Series(100 * np.mean(pass_at_k(k, right.to_numpy(), n), axis=1), index=shares.index)


def majority_by_run(evals: pd.DataFrame) -> pd.Series | None:
    """maj@k of each run: the share of questions whose most frequent answer is right (arXiv 2203.11171).

    An answer is its text as the grader read it (``rundir.EVAL_COLUMNS``), so two spellings of one value count apart;
    samples without an answer have no vote. Of equally frequent answers each counts its part. None where a run recorded
    no answer at all.
    """
    if "answer" not in evals or evals.groupby("run")["answer"].agg(lambda of: of.astype(bool).any()).ne(True).any():
        return None
    votes = evals[evals["answer"].astype(bool)].groupby(["run", "question", "answer"], observed=True)["correct"]
    counted = votes.agg(["size", "mean"]).reset_index()
    most = counted.groupby(["run", "question"], observed=True)["size"].transform("max")
    first = counted[counted["size"] == most].groupby(["run", "question"], observed=True)["mean"].mean()
    questions = evals["question"].nunique()  # one without any answer is not solved
    return 100 * first.groupby("run", observed=True).sum() / questions


def over_runs(values: pd.Series, level: float = 0.95) -> Interval:
    """Mean over runs with its t interval, NaN bounds below 3 runs."""
    found = t_interval(values.to_numpy(), level)
    if found.n >= MIN_T_RUNS:
        return found
    return Interval(found.estimate, math.nan, math.nan, found.n, found.df, found.sd, found.p, level)
