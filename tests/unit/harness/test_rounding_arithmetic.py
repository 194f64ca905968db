"""Clipping by rounding alone, against drawn log-ratios and against means over tokens."""

import numpy as np
import pytest

from harness.rundir.rounding import clipped_by_rounding, length_needed


@pytest.mark.parametrize(("noise", "low", "high"), [(2.5e-3, 2e-3, 2.5e-3), (3e-4, 3e-4, 4e-4), (0.1, 0.2, 0.28)])
def test_the_expected_share_is_that_of_drawn_responses(noise: float, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    ratio, positive = np.exp(rng.normal(0, noise, 10**6)), rng.random(10**6) < 0.5
    clipped = np.where(positive, ratio > 1 + high, ratio < 1 - low).mean()
    assert clipped_by_rounding(noise, low, high) == pytest.approx(clipped, abs=4 * (clipped / 10**6) ** 0.5)


def test_without_noise_nothing_and_without_a_lower_end_one_side() -> None:
    assert clipped_by_rounding(0.0, 2e-3, 2.5e-3) == 0.0
    assert clipped_by_rounding(1.0, 1.0, 1e9) < 1e-12


def test_at_the_needed_length_one_response_in_a_thousand_leaves_the_range() -> None:
    """Tokens of sd .01: the mean over L tokens has sd .01 / sqrt(L)."""
    low = high = 2e-3
    needed = length_needed(0.01, 1, low, high)
    assert needed == pytest.approx(225)
    assert length_needed(0.01 / 17**0.5, 17, low, high) == pytest.approx(needed)
    assert clipped_by_rounding(0.01 / needed**0.5, low, high) == pytest.approx(0.00135, rel=0.01)
