"""Simulated sweeps that look after every seed: what ``analysis.statistics.sequential`` promises, with a known truth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.statistics.sequential import FIRST_LOOK, Plan, hull, quantile

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

# Noise of the effect of one seed, of mean 0; ``standard`` divides by the true standard deviation.
NOISE: Mapping[str, tuple[Noise, float]] = {
    "normal": (lambda rng, size: rng.normal(size=size), 1.0),
    "exponential": (lambda rng, size: rng.exponential(size=size) - 1, 1.0),
    "log-normal, sigma 0.5": (
        lambda rng, size: rng.lognormal(0, 0.5, size) - np.exp(0.125),
        float(np.sqrt((np.exp(0.25) - 1) * np.exp(0.25))),
    ),
    "Student's t, 3 df": (lambda rng, size: rng.standard_t(3, size), float(np.sqrt(3))),
    "exponential in each arm": (lambda rng, size: rng.exponential(size=size) - rng.exponential(size=size), 2**0.5),
    "log-normal, sigma 1": (
        lambda rng, size: rng.lognormal(0, 1, size) - np.exp(0.5),
        float(np.sqrt((np.e - 1) * np.e)),
    ),
}


@dataclass(frozen=True)
class Looks:
    """Repeated intervals of simulated sweeps: low, high, plain_low, plain_high, sweeps x looks from ``FIRST_LOOK`` on;
    the plain ones are Student's at 95 %, as if each look were the only one."""

    low: np.ndarray
    high: np.ndarray
    plain_low: np.ndarray
    plain_high: np.ndarray


def standard(name: str, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Noise with mean 0 and standard deviation 1."""
    draw, sd = NOISE[name]
    return draw(rng, size) / sd


def look(effects: np.ndarray, plan: Plan) -> Looks:
    """Every look at every sweep; effects: sweeps x max_seeds, of one member of the family.

    The moments are summed up here, with the quantile, the hull and the levels of the plan: the same numbers as
    ``Plan.interval`` of each beginning, at a thousandth of the time (a test compares them).
    """
    n = np.arange(1, effects.shape[1] + 1)
    mean = effects.cumsum(axis=1) / n
    square, cube = (effects**2).cumsum(axis=1) / n, (effects**3).cumsum(axis=1) / n
    second = np.maximum(square - mean**2, 1e-300)
    third = cube - 3 * mean * square + 2 * mean**3
    at = slice(FIRST_LOOK - 1, None)
    n, mean, second, third = n[at], mean[:, at], second[:, at], third[:, at]
    error = np.sqrt(second / (n - 1))
    a = third / second**1.5 * np.sqrt(n * (n - 1)) / (n - 2) / np.sqrt(n)
    t = np.array([quantile(int(one), plan.alpha(int(one))) for one in n])
    below, above = hull(t, a)
    plain = special.stdtrit(n - 1, 0.975) * error
    return Looks(mean - below * error, mean + above * error, mean - plain, mean + plain)


def ever(hits: np.ndarray) -> np.ndarray:
    """Whether it happens at any look; sweeps x looks -> sweeps."""
    return hits.any(axis=1)


def first(hits: np.ndarray, otherwise: int) -> np.ndarray:
    """Seeds at the first look at which it happens, ``otherwise`` where it never does."""
    return np.where(hits.any(axis=1), FIRST_LOOK + hits.argmax(axis=1), otherwise)
