"""Estimators for benchmarks against enumeration, hand computation, scipy, statsmodels and simulation."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.runs.load import AnalysisError
from analysis.statistics.benchmarks import average, cell, compare, crossed, pass_at_k, question_means, sign_flip
from analysis.statistics.intervals import t_interval


def evals_of(correct: Any, arm: str = "gspo", seeds: Any = None, benchmark: str = "aime") -> pd.DataFrame:
    """The frame of an array runs x questions x samples of 1 and 0, its rows in no order."""
    values = np.asarray(correct)
    run, question, sample = np.indices(values.shape).reshape(3, -1)
    seed = np.asarray(range(values.shape[0]) if seeds is None else seeds)[run]
    frame = pd.DataFrame(
        {
            "run": [f"tiny/{arm}/seed={s}" for s in seed],
            "arm": arm,
            "seed": seed,
            "benchmark": benchmark,
            "question": question,
            "sample": sample,
            "correct": values.ravel(),
            "tokens": 9,
            "truncated": False,
            "outcome": "graded",
        }
    )
    return frame.sample(frac=1, random_state=0)


def answers(seed: int, shape: tuple[int, int, int] = (5, 8, 4), base: float = 0.5) -> np.ndarray:
    """Random answers: questions of different difficulty, runs of different skill."""
    rng = np.random.default_rng(seed)
    chance = base + rng.uniform(-0.3, 0.3, (1, shape[1], 1)) + rng.uniform(-0.1, 0.1, (shape[0], 1, 1))
    return (rng.random(shape) < chance).astype(int)


def test_pass_at_k_is_the_mean_over_all_subsets() -> None:
    for n in range(1, 7):
        for k in range(1, n + 1):
            for c in range(n + 1):
                right = [any(i < c for i in chosen) for chosen in itertools.combinations(range(n), k)]
                assert pass_at_k(n, c, k) == pytest.approx(np.mean(right), abs=1e-15)


def test_pass_at_k_of_many_samples_is_exact() -> None:
    n, k, counts = 20_000, 9_000, np.array([[0, 1, 2], [12, 11_000, 11_001]])
    exact = [float(1 - Fraction(math.comb(n - int(c), k), math.comb(n, k))) for c in counts.ravel()]
    assert pass_at_k(n, counts, k).tolist() == pytest.approx(np.reshape(exact, counts.shape), rel=1e-12)
    assert pass_at_k(n, n - k + 1, k) == 1  # no subset without a right one


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 2), (4, -1, 2), (4, [1, 1.5], 2)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: Any, k: int) -> None:
    with pytest.raises(AnalysisError, match=f"pass@{k}"):
        pass_at_k(n, c, k)


def test_question_means_by_hand() -> None:
    found = question_means(evals_of([[[1, 1], [0, 1]], [[0, 0], [1, 1]]], seeds=[10, 9]))
    assert found.loc["tiny/gspo/seed=10"].to_dict() == {0: 1.0, 1: 0.5}
    assert found.loc["tiny/gspo/seed=9"].to_dict() == {0: 0.0, 1: 1.0}


def test_question_means_refuse_what_is_not_balanced() -> None:
    frame = evals_of(answers(0))
    at = (frame["seed"] == 3) & (frame["question"] == 6)
    one = at & (frame["sample"] == 2)
    ungraded = frame.assign(correct=frame["correct"].mask(one))
    for bad, message in (
        (frame[~at], "run tiny/gspo/seed=3: question 6 has 0 graded samples, elsewhere 4"),
        (frame[~one], "run tiny/gspo/seed=3: question 6 has 3 graded samples, elsewhere 4"),
        (ungraded, "run tiny/gspo/seed=3: question 6 has 3 graded samples, elsewhere 4"),
        (pd.concat([frame, frame[one]]), "run tiny/gspo/seed=3: question 6 has sample 2 twice"),
        (pd.concat([frame, frame.assign(benchmark="math")]), "2 benchmarks"),
        (frame[:0], "0 benchmarks"),
    ):
        with pytest.raises(AnalysisError, match=message):
            question_means(bad)


def test_cell_by_hand_and_as_scipy() -> None:
    values = answers(1)
    found = cell(evals_of(values, seeds=[10, 2, 3, 0, 1]), level=0.9)
    runs = 100 * values.mean(axis=(1, 2))[[3, 4, 1, 2, 0]]
    assert found.values == pytest.approx(runs)  # by seed
    assert (found.n_runs, found.n_questions, found.k) == (5, 8, 4)
    bounds = stats.ttest_1samp(runs, 0).confidence_interval(0.9)
    assert (found.mean, found.low, found.high) == pytest.approx((100 * values.mean(), *bounds))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_cell_of_few_runs_has_values_and_no_interval(runs: int) -> None:
    found = cell(evals_of(answers(2)[:runs]))
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert len(found.values) == runs
    assert found.mean == pytest.approx(np.mean(found.values))
    assert found.se_questions > 0


def test_a_cell_is_of_one_arm_with_one_run_a_seed() -> None:
    with pytest.raises(AnalysisError, match=r"2 arms \(gspo, luspo\)"):
        cell(pd.concat([evals_of(answers(0)), evals_of(answers(1), arm="luspo")]))
    again = evals_of(answers(1)).assign(run=lambda frame: frame["run"] + "b")
    with pytest.raises(AnalysisError, match="seed 0 has the runs tiny/gspo/seed=0, tiny/gspo/seed=0b"):
        cell(pd.concat([evals_of(answers(0)), again]))


@pytest.mark.parametrize("shape", [(5, 8, 4), (1, 30, 1), (3, 12, 16)])
def test_standard_error_over_questions_is_the_clustered_one(shape: tuple[int, int, int]) -> None:
    api = pytest.importorskip("statsmodels.api")
    frame = evals_of(answers(3, shape))
    fit = api.OLS(100 * frame["correct"], np.ones(len(frame))).fit(
        cov_type="cluster", cov_kwds={"groups": frame["question"]}
    )
    assert cell(frame).se_questions == pytest.approx(fit.bse.iloc[0])


def test_standard_error_over_questions_is_the_spread_of_the_mean_over_draws() -> None:
    rng = np.random.default_rng(4)
    chance = rng.beta(0.5, 0.5, (400, 1, 20, 1))  # 400 draws of 20 questions
    draws = (rng.random((400, 3, 20, 2)) < chance).astype(int)
    found = [cell(evals_of(draw)) for draw in draws[:60]]
    true = 100 * draws.mean(axis=(1, 2, 3)).std()
    assert np.sqrt(np.mean([c.se_questions**2 for c in found])) == pytest.approx(true, rel=0.15)


def test_crossed_without_interaction_is_the_sum_of_two_variances() -> None:
    # D_rq = run + question: runs 0, 2, 4 have variance 4, questions -1, 0, 1, 4 have variance 14/3.
    found = crossed([np.add.outer([0, 2, 4], [-1, 0, 1, 4])])
    by_run, by_question = 4 / 3, 14 / 3 / 4
    error = math.sqrt(by_run + by_question)
    df = (by_run + by_question) ** 2 / (by_run**2 / 2 + by_question**2 / 3)
    assert (found.estimate, found.n, found.df) == pytest.approx((3, 3, df))
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, df) * error)
    assert found.sd == pytest.approx(error * math.sqrt(3))
    assert found.p == pytest.approx(2 * stats.t.sf(3 / error, df))


def test_crossed_of_equal_questions_is_students_interval_over_runs_and_the_other_way_round() -> None:
    effects = [1.0, 2.5, 0.5, 3.0]
    student = t_interval(effects, 0.9)
    found = crossed([np.tile(np.reshape(effects, (4, 1)), 7)], 0.9)
    assert (found.low, found.high, found.p, found.df) == pytest.approx((student.low, student.high, student.p, 3))
    turned = crossed([np.tile(effects, (7, 1))], 0.9)
    assert (turned.low, turned.high, turned.n) == pytest.approx((student.low, student.high, 7))


@pytest.mark.parametrize(
    ("of_runs", "of_questions", "floored"), [(2.0, 2.0, False), (2.0, 0.0, True), (0.0, 2.0, True), (0.0, 0.0, True)]
)
def test_crossed_as_the_anova_of_statsmodels(of_runs: float, of_questions: float, floored: bool) -> None:
    formula_api = pytest.importorskip("statsmodels.formula.api")
    anova_lm = pytest.importorskip("statsmodels.stats.anova").anova_lm
    rng = np.random.default_rng(5)
    floors = 0
    for _ in range(6):
        d = rng.normal(0.3, 1, (4, 9)) + rng.normal(0, of_runs, (4, 1)) + rng.normal(0, of_questions, (1, 9))
        run, question = np.indices(d.shape).reshape(2, -1)
        frame = pd.DataFrame({"d": d.ravel(), "run": run, "question": question})
        table = anova_lm(formula_api.ols("d ~ C(run) + C(question)", frame).fit())
        runs, questions, rest = (table.loc[name, "mean_sq"] for name in ("C(run)", "C(question)", "Residual"))
        total = runs + questions - rest
        floors += total < max(runs, questions)
        squares = np.array([runs, questions, rest])
        df = max(total, runs, questions) ** 2 / (squares**2 / table["df"].to_numpy()).sum()
        bounds = stats.t.interval(0.95, df, d.mean(), math.sqrt(max(total, runs, questions) / d.size))
        found = crossed([d])
        assert (found.low, found.high) == pytest.approx(bounds)
        assert found.df == pytest.approx(df)
    assert (floors > 0) == floored


def test_crossed_says_nothing_where_a_source_of_variation_is_not_seen() -> None:
    for d in (np.array([[1.0, 2.0, 3.0]]), np.array([[1.0], [2.0], [3.0]]), np.array([[2.0]])):
        found = crossed([d])
        assert (found.estimate, found.n) == (2, d.shape[0])
        assert np.isnan([found.low, found.high, found.df, found.sd, found.p]).all()
    constant = crossed([np.full((3, 4), 0.5)])
    assert (constant.low, constant.high, constant.p) == (0.5, 0.5, 0)


def test_sign_flip_by_hand() -> None:
    assert sign_flip([1, 2, 3]) == (0.25, 0.25)
    assert sign_flip([-1, 2, 3]) == (0.5, 0.25)  # of |sums| 6, 4, 2, 0, twice each, 4 or more
    assert sign_flip([0.1, 0.2, -0.3]) == (1, 0.25)
    assert sign_flip([-0.3, 0.4, 0.3]) == (0.75, 0.25)  # sums that tie but for rounding
    assert sign_flip([0.1] * 5) == (0.0625, 0.0625)
    assert sign_flip([0.3]) == (1, 1)
    assert sign_flip([0.0, 0.0]) == (1, 0.5)
    assert math.isnan(sign_flip([1.0] * 21)[0])
    assert math.isnan(sign_flip([1.0, math.nan])[0])


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_sign_flip_as_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    # Whole numbers, so that sums tie often.
    for effects in (rng.normal(0.5, 1, n), rng.integers(-2, 4, n).astype(float), rng.integers(-2, 4, n) / 10):
        test = stats.permutation_test((effects,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip(effects)[0] == pytest.approx(test.pvalue)


def test_compare_pairs_by_seed_and_question() -> None:
    a, b = answers(6, base=0.6), answers(7)
    found = compare(evals_of(a, "luspo", [4, 3, 2, 1, 0]), evals_of(b[:4], "gspo", [0, 1, 2, 7]), level=0.9)
    assert (found.seeds, found.unpaired) == ((0, 1, 2), (3, 4, 7))
    assert (found.n_runs, found.n_questions, found.sign_flip_least) == (3, 8, 0.25)
    # Positions of the seeds 0, 1, 2 on either side.
    d = 100 * (a[[4, 3, 2]] - b[[0, 1, 2]]).mean(axis=2)
    first, second = 100 * a[[4, 3, 2]].mean(axis=(1, 2)), 100 * b[[0, 1, 2]].mean(axis=(1, 2))
    assert found.estimate == pytest.approx(d.mean())
    paired, welch = stats.ttest_rel(first, second), stats.ttest_ind(first, second, equal_var=False)
    assert (found.benchmark.low, found.benchmark.high) == pytest.approx(tuple(paired.confidence_interval(0.9)))
    assert (found.welch.low, found.welch.high) == pytest.approx(tuple(welch.confidence_interval(0.9)))
    assert found.correlation == pytest.approx(stats.pearsonr(first, second).statistic)
    assert found.questions == crossed([d], 0.9)
    assert found.sign_flip_p == sign_flip(d.mean(axis=1))[0]


def test_compare_is_antisymmetric() -> None:
    a, b = evals_of(answers(6), "luspo"), evals_of(answers(7), "gspo")
    there, back = compare(a, b), compare(b, a)
    assert back.estimate == -there.estimate
    for name in ("benchmark", "questions", "welch"):
        one, other = getattr(there, name), getattr(back, name)
        assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p))
    assert (back.sign_flip_p, back.correlation) == pytest.approx((there.sign_flip_p, there.correlation))


def test_compare_refuses_what_cannot_be_paired() -> None:
    a, b = evals_of(answers(6), "luspo"), evals_of(answers(7), "gspo")
    with pytest.raises(AnalysisError, match="luspo has 0, 1, 2, 3, 4 and gspo has 9"):
        compare(a, evals_of(answers(7)[:1], "gspo", [9]))
    with pytest.raises(AnalysisError, match="run tiny/gspo/seed=1: question 3 has 0 graded"):
        compare(a, b[~((b["seed"] == 1) & (b["question"] == 3))])
    with pytest.raises(AnalysisError, match="2 benchmarks"):
        compare(a, b.assign(benchmark="math"))
    with pytest.raises(AnalysisError, match="2 arms"):
        compare(pd.concat([a, b]), b)
    unpaired = evals_of(answers(8), "luspo", [9, 1, 2, 3, 4])
    holes = unpaired[~((unpaired["seed"] == 9) & (unpaired["question"] == 3))]
    assert compare(holes, b).unpaired == (0, 9)  # a hole in a run that is not compared does not matter


def test_one_pair_of_runs_has_an_estimate_and_no_interval() -> None:
    found = compare(evals_of(answers(6)[:1], "luspo"), evals_of(answers(7)[:1], "gspo"))
    assert found.estimate == pytest.approx(100 * (answers(6)[0].mean() - answers(7)[0].mean()))
    assert np.isnan([found.benchmark.low, found.questions.low, found.welch.low, found.correlation]).all()
    assert (found.sign_flip_p, found.sign_flip_least) == (1, 1)


def test_the_average_of_one_benchmark_is_that_benchmark() -> None:
    alone = compare(evals_of(answers(6), "luspo"), evals_of(answers(7), "gspo"))
    assert average([alone]) == alone


def comparison(d: np.ndarray, benchmark: str, seeds: Any = None):
    """The comparison of two arms of which every question mean is D / 2 to either side of 1/2, in tenths of a point."""
    samples = np.arange(1000) < 500 + d[..., None] / 2
    return compare(
        evals_of(samples, "luspo", seeds, benchmark), evals_of(samples[..., ::-1] ^ True, "gspo", seeds, benchmark)
    )


def test_each_benchmark_weighs_the_same_whatever_its_questions() -> None:
    # Additive: runs 0, 20, 40 and 0, 40, 20; questions -10, 10 and -30, 0, 30, all in tenths of a point.
    one = comparison(np.add.outer([0, 20, 40], [-10, 10]), "aime")
    other = comparison(100 + np.add.outer([0, 40, 20], [-30, 0, 30]), "math")
    found = average([one, other])
    assert (one.estimate, other.estimate, found.estimate) == pytest.approx((2, 12, 7))
    assert (found.n_runs, found.n_questions) == (3, 5)
    # Averages of the runs 5, 8, 8 points: variance 3. Questions: variances 2 and 9.
    assert (found.benchmark.low, found.benchmark.high) == pytest.approx(tuple(stats.t.interval(0.95, 2, 7, 1)))
    by_run, first, second = 3 / 3, 2 / 2 / 4, 9 / 3 / 4
    total = by_run + first + second
    df = total**2 / (by_run**2 / 2 + first**2 / 1 + second**2 / 2)
    assert found.questions.df == pytest.approx(df)
    assert (found.questions.low, found.questions.high) == pytest.approx(
        tuple(stats.t.interval(0.95, df, 7, math.sqrt(total)))
    )


def test_the_average_is_over_the_seeds_that_all_benchmarks_have() -> None:
    one = comparison(np.add.outer([0, 20, 40, 60], [-10, 10]), "aime", [0, 1, 2, 3])
    other = comparison(np.add.outer([60, 0, 40, 20], [-30, 0, 30]), "math", [4, 1, 3, 2])
    found = average([one, other])
    assert (found.seeds, found.unpaired) == ((1, 2, 3), (0, 4))
    assert found.estimate == pytest.approx((np.mean([2, 4, 6]) + np.mean([0, 2, 4])) / 2)
    with pytest.raises(AnalysisError, match="no average of 2 benchmarks"):
        average([one, comparison(np.add.outer([0, 20], [-10, 10]), "math", [8, 9])])
    with pytest.raises(AnalysisError, match="no average of 0 benchmarks"):
        average([])


@pytest.mark.parametrize("shared", [True, False])
def test_the_variance_of_the_average_whether_runs_are_good_at_all_benchmarks_or_at_one(shared: bool) -> None:
    rng, repeats, runs, sizes = np.random.default_rng(9), 800, 5, (6, 15)
    any_comparison = compare(evals_of(answers(6), "luspo"), evals_of(answers(7), "gspo"))
    estimates, squares, apart = [], [], []
    for _ in range(repeats):
        skill = rng.normal(0, 6, (2, runs, 1))
        parts = [
            skill[0 if shared else at] + rng.normal(0, 6, questions) + rng.normal(0, 4, (runs, questions))
            for at, questions in enumerate(sizes)
        ]
        tables = tuple((pd.DataFrame(d), pd.DataFrame(np.zeros_like(d))) for d in parts)
        found = average([replace(any_comparison, tables=(pair,)) for pair in tables])
        estimates.append(found.estimate)
        squares.append(found.questions.sd**2 / runs)
        apart.append(sum(crossed([d]).sd ** 2 / runs for d in parts) / 4)  # as if every benchmark had runs of its own
    true = (36 if shared else 18) / runs + sum(36 / q + 16 / (runs * q) for q in sizes) / 4
    relative_error = math.sqrt(2 / repeats)  # of the variance of normal estimates
    assert np.var(estimates, ddof=1) == pytest.approx(true, rel=4 * relative_error)
    assert np.mean(squares) == pytest.approx(true, rel=0.1)
    assert (np.mean(apart) < 0.8 * true) == shared
