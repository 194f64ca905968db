"""The data of the interactive curves: the figures' own means and intervals, possible values, no lost peak."""

from pathlib import Path

import numpy as np
import pytest
from fake_runs import training_like, write_run
from scipy import stats

from analysis import load_runs
from analysis.report.explorer import POINTS, explorer, thin
from analysis.runs.load import Runs
from analysis.statistics.arms import arm_tables, pointwise

STEPS, SEEDS = 40, 4


def write(root: Path, steps: int = STEPS, seeds: int = SEEDS) -> Runs:
    """Three losses, two of which are one and the same."""
    for arm, growth in (("grpo", 0.5), ("grpo_sum", 0.5), ("luspo", 0.9)):
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            metrics = training_like(steps, seed, growth)
            metrics["clip_frac_token"] = rng.exponential(0.01, steps) * (rng.random(steps) > 0.5)
            validated = [value if at % 10 == 9 else None for at, value in enumerate(metrics["accuracy"])]
            more = {
                "cumulative_tokens": np.cumsum(16 * metrics["response_length"]),
                "step_seconds": rng.uniform(1, 3, steps),
                "ppo_kl": rng.normal(0, 1e-3, steps),
                "val_accuracy": validated,
            }
            write_run(root, {**metrics, **more}, experiment="tiny", arm=arm, seed=seed)
    return load_runs(root)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return write(tmp_path_factory.mktemp("explorer"))


def chosen(data: dict, metric: str) -> dict:
    return next(one for one in data["quantities"] if one["id"] == metric)


@pytest.mark.parametrize("metric", ["response_length", "clip_frac_token", "val_accuracy"])
@pytest.mark.parametrize("x", ["step", "tokens", "hours", "kl"])
def test_curves_are_those_of_the_static_figures(runs: Runs, metric: str, x: str) -> None:
    data = explorer(runs)
    assert data is not None
    quantity = chosen(data, metric)
    for window in quantity["windows"]:
        tables = arm_tables(runs.metrics, metric, window, x)
        for arm, curve in zip(data["arms"], quantity["means"][x][str(window)], strict=True):
            expected = pointwise(tables[arm["name"]][1], "t" if metric == "response_length" else "share")
            seconds = 3600 if x == "hours" else 1  # short runs are shown in seconds
            np.testing.assert_allclose(curve["x"], expected.index.to_numpy(float) * seconds, rtol=1e-5)
            np.testing.assert_allclose(curve["mean"], expected["mean"], rtol=6e-4)
            np.testing.assert_allclose(curve["high"], expected["high"], rtol=6e-4)
            np.testing.assert_allclose(curve["low"], expected["low"].clip(lower=0), rtol=6e-4)
            assert curve["n"] == [SEEDS] * len(expected)


def test_an_interval_is_students_over_the_runs_of_one_step(runs: Runs) -> None:
    data = explorer(runs)
    assert data is not None
    arm = [arm["name"] for arm in data["arms"]].index("luspo")
    curve = chosen(data, "response_length")["means"]["step"]["1"][arm]
    rows = runs.metrics[(runs.metrics["arm"] == "luspo") & (runs.metrics["step"] == 17)]["response_length"]
    low, high = stats.t.interval(0.95, SEEDS - 1, rows.mean(), stats.sem(rows))
    at = curve["x"].index(17)
    assert (curve["mean"][at], curve["low"][at], curve["high"][at]) == pytest.approx((rows.mean(), low, high), rel=6e-4)


def test_bands_stay_inside_what_a_quantity_can_be(runs: Runs) -> None:
    data = explorer(runs)
    assert data is not None
    unbounded = pointwise(arm_tables(runs.metrics, "clip_frac_token")["luspo"][1])
    assert (unbounded["low"] < 0).any()  # the test has something to find
    for quantity in data["quantities"]:
        least, most = (
            np.inf * sign if end is None else end for sign, end in zip((-1, 1), quantity["bounds"], strict=True)
        )
        for curve in (c for of in quantity["means"].values() for curves in of.values() for c in curves):
            assert np.nanmin(curve["low"]) >= least
            assert np.nanmax(curve["high"]) <= most


def test_equal_curves_are_named_and_no_others(runs: Runs) -> None:
    data = explorer(runs)
    assert data is not None
    names = [arm["name"] for arm in data["arms"]]
    found = {metric: chosen(data, metric)["equal"] for metric in ("response_length", "accuracy")}
    assert [[names[arm] for arm in group] for group in found["response_length"]] == [["grpo", "grpo_sum"]]
    assert found["accuracy"] == [[0, 1, 2]]  # which does not depend on the made-up growth


def test_a_smoothing_that_takes_in_half_of_the_points_is_not_offered(runs: Runs) -> None:
    data = explorer(runs)
    assert data is not None
    assert chosen(data, "response_length")["windows"] == [1, 5]
    assert chosen(data, "val_accuracy")["windows"] == [1]


def test_of_long_curves_no_peak_is_lost(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, 5000)
    values[[1234, 4321]] = 50, -50
    kept = thin(values)
    assert len(kept) <= POINTS
    assert {0, 1234, 4321, 4999} <= {*kept}
    assert (np.diff(kept) > 0).all()
    assert list(thin(values[:POINTS])) == list(range(POINTS))
    data = explorer(write(tmp_path, 2 * POINTS, 1))
    assert data is not None
    assert data["thinned"]
    curves = [c for q in data["quantities"] for c in q["means"]["step"]["1"]]
    assert max(len(curve["x"]) for curve in curves) <= POINTS
    assert chosen(data, "val_accuracy")["means"]["step"]["1"][0]["x"] == list(range(10, 2 * POINTS + 1, 10))


def test_a_single_run_has_a_curve_and_no_band(tmp_path: Path) -> None:
    write_run(tmp_path, training_like(3, 0), experiment="tiny", arm="gspo")
    data = explorer(load_runs(tmp_path))
    assert data is not None
    (curve,) = chosen(data, "response_length")["means"]["step"]["1"]
    assert np.isnan(curve["low"]).all()
    assert curve["n"] == [1, 1, 1]
    assert [axis["id"] for axis in data["axes"]] == ["step"]


def test_runs_that_recorded_nothing_have_no_curves(tmp_path: Path) -> None:
    write_run(tmp_path, {"other/metric": [1.0]}, experiment="tiny", arm="gspo")
    assert explorer(load_runs(tmp_path)) is None
