"""The band of recorded runs, on draws from known distributions: false alarms, power, what lies outside any band."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.statistics.conform import (
    ALPHA,
    MEASURES,
    compare,
    false_alarms,
    first_difference,
    smallest_found,
    steps_beyond,
    summaries,
    windows,
)

LINEAR = ("loss", "reward", 1, 5)  # a key whose measure is on its own scale


def keys(count: int) -> list[tuple[str, str, int, int]]:
    return [("loss", "reward", at, at) for at in range(1, count + 1)]


def drawn(rng: np.random.Generator, count: int, runs: int, shared: float = 0.5) -> np.ndarray:
    """(count, runs) standard normal summaries, those of one run correlated."""
    return math.sqrt(shared) * rng.normal(size=runs) + math.sqrt(1 - shared) * rng.normal(size=(count, runs))


def test_the_band_is_the_prediction_interval_of_the_mean_of_new_runs() -> None:
    rng = np.random.default_rng(1)
    old, new = rng.normal(0.5, 0.1, 10), rng.normal(0.5, 0.1, 3)
    (found,) = compare({LINEAR: old}, {LINEAR: new})
    error = old.std(ddof=1) * math.sqrt(1 / 10 + 1 / 3)
    half = stats.t.ppf(1 - ALPHA / 2, 9) * error
    assert (found.low, found.high) == pytest.approx((old.mean() - half, old.mean() + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(new.mean() - old.mean()) / error, 9))
    assert (found.new, found.recorded) == pytest.approx((new.mean(), old.mean()))


def test_departing_means_that_the_new_mean_is_outside_the_band_shown() -> None:
    """Also after Holm, whose levels differ from value to value."""
    rng = np.random.default_rng(2)
    named = keys(8)
    old = dict(zip(named, drawn(rng, 8, 10), strict=True))
    new = {key: values[:3] + 3 * at for at, (key, values) in enumerate(old.items())}
    found = compare(old, new)
    assert 0 < sum(one.departs for one in found) < len(found)
    assert all(one.departs == (not one.low <= one.new <= one.high) for one in found)


def test_one_check_in_a_hundred_is_a_false_alarm_at_most() -> None:
    rng = np.random.default_rng(3)
    named, checks = keys(10), 1500
    alarms = 0
    for _ in range(checks):
        every = dict(zip(named, drawn(rng, 10, 13), strict=True))
        old, new = ({key: values[part] for key, values in every.items()} for part in (slice(10), slice(10, 13)))
        alarms += any(one.departs for one in compare(old, new))
    assert alarms <= stats.binom.ppf(0.999, checks, ALPHA)
    assert alarms >= stats.binom.ppf(0.001, checks, ALPHA / 4)  # it does use its level: correlated, so not all of it


def test_the_shift_that_is_called_found_is_found_in_four_of_five_checks() -> None:
    named, checks = keys(10), 1500
    unit = stats.zscore(np.random.default_rng(4).normal(size=10), ddof=1)
    shift = smallest_found(dict.fromkeys(named, unit))[named[0]]
    assert shift == pytest.approx(4.2, abs=0.4)  # standard deviations of one run
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(checks):
        old = dict(zip(named, rng.normal(size=(10, 10)), strict=True))
        new = dict(zip(named, rng.normal(size=(10, 3)), strict=True))
        new[named[0]] = new[named[0]] + shift
        found += compare(old, new)[0].departs
    assert found / checks == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / checks))


def test_leaving_three_out_of_runs_of_one_distribution_alarms_as_often_as_asked_for() -> None:
    rng = np.random.default_rng(6)
    sets = [false_alarms(dict(zip(keys(4), drawn(rng, 4, 8), strict=True))) for _ in range(40)]
    assert {total for _, total in sets} == {math.comb(8, 3)}
    assert sum(alarms for alarms, _ in sets) / sum(total for _, total in sets) < 3 * ALPHA
    apart = np.array([0.0, 0.1, -0.1, 0.05, -0.05, 50.0, 50.1, 49.9])
    assert false_alarms({LINEAR: apart})[0] == 1  # the three that are another distribution, and no other three


@pytest.mark.parametrize("new", [[1.0, 100.0, 1000.0], [0.5, math.nan, 0.5], [0.5, math.inf, 0.5]])
def test_wild_runs_and_runs_without_a_value_are_outside(new: list[float]) -> None:
    old = np.random.default_rng(7).normal(0.5, 0.1, 10)
    (found,) = compare({LINEAR: old}, {LINEAR: np.array(new)})
    assert found.departs


def test_a_measure_that_is_lacking_is_outside_and_other_losses_are_not_asked_for() -> None:
    old = np.random.default_rng(8).normal(size=10)
    other = ("loss", "grad_norm", 1, 5)
    found = compare({LINEAR: old, other: old, ("other", *other[1:]): old}, {LINEAR: old[:3]})
    assert [(one.key, one.departs) for one in found] == [(LINEAR, False), (other, True)]


def test_a_value_that_never_varied_must_be_the_same() -> None:
    key = ("loss", "clip_frac_token", 1, 5)
    assert not compare({key: np.zeros(10)}, {key: np.zeros(3)})[0].departs
    assert compare({key: np.zeros(10)}, {key: np.full(3, 1e-4)})[0].departs


def rows(value: float, seeds: int = 3, steps: int = 8, **other: float) -> pd.DataFrame:
    frame = pd.DataFrame([{"seed": seed, "step": step} for seed in range(seeds) for step in range(1, steps + 1)])
    return frame.assign(**{name: other.get(name, value) for name in MEASURES})


def test_summaries_are_means_over_the_first_quarter_and_the_second_half() -> None:
    assert windows(20) == ((1, 5), (11, 20))
    frame = rows(0.5, clip_frac_token=math.nan)
    frame["reward"] = frame["step"] + 100 * frame["seed"]
    found = summaries(frame, 8)
    assert {name for name, *_ in found} == {*MEASURES} - {"clip_frac_token"}
    assert found["reward", 1, 2].tolist() == [1.5, 101.5, 201.5]
    assert found["reward", 5, 8].tolist() == [6.5, 106.5, 206.5]
    assert found["response_length", 1, 2].tolist() == pytest.approx([math.log(0.5)] * 3)


@pytest.mark.parametrize("name", MEASURES)
def test_a_scale_can_be_undone(name: str) -> None:
    measure = MEASURES[name]
    assert measure.back(float(measure.scale(np.array([0.03]))[0])) == pytest.approx(0.03)


def test_steps_at_which_the_mean_is_beyond_every_recorded_run() -> None:
    old, new = rows(1.0), rows(1.0)
    old["reward"] = old["seed"] * 1.0  # 0, 1 and 2
    new["reward"] = np.where(new["step"] > 5, 2.5, 1.0)
    new.loc[(new["step"] == 2) & (new["seed"] == 1), "reward"] = math.nan
    assert steps_beyond(old, new, "reward") == [2, 6, 7, 8]


def test_the_first_figure_that_differs_is_named() -> None:
    old, new = rows(1.0, 1, clip_frac_token=math.nan), rows(1.0, 1, clip_frac_token=math.nan)
    assert first_difference(old, new) is None
    new.loc[new["step"] >= 3, ["entropy", "grad_norm"]] = 1.5
    assert first_difference(old, new) == (3, "entropy", 1.0, 1.5)
    new.loc[new["step"] == 2, "reward"] = math.nan
    assert first_difference(old, new) == (2, "reward", 1.0, pytest.approx(math.nan, nan_ok=True))
