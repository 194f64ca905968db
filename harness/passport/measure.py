"""A passport: all measurements of one loss."""

from dataclasses import dataclass

import torch

from harness.passport import clipping, terms, weighting
from harness.passport.clipping import Clipping
from harness.passport.formulas import Formula, Parameters
from harness.passport.terms import Terms
from harness.passport.update import DTYPE, Batch, Loss, factor_of
from harness.passport.weighting import Weighting, policy_gradient

LENGTHS = (1, 7, 4, 9, 3, 9, 2, 5, 6, 8, 3, 10)
ADVANTAGES = (1.3, 0.7, -0.4, -2.1, 0.9, -0.6, -1.1, 0.8, 1.9, 0.3, -0.2, 1.1)
POSITIONS = (-2.0, 2.0, 0.5, -0.5, 3.0, -3.0, 1.5, -1.5, 2.5, 0.3, -2.0, 0.9)  # mean log-ratio in units of the range


@dataclass(frozen=True)
class Passport:
    title: str
    version: str
    note: str
    weighting: Weighting
    clipping: Clipping
    terms: Terms


def measure(loss: Loss) -> Passport:
    """Probe ``loss`` as a black box; about a second for one in this process. Raises ``LossError``."""
    return Passport(
        loss.title,
        loss.version,
        loss.note,
        weighting.measure(loss),
        clipping.measure(loss),
        terms.measure(loss),
    )


def parameters_of(passport: Passport) -> Parameters:
    """The constants of a published formula that come nearest to what was measured."""
    sides = passport.clipping.sides
    up, down = sides["positive", "up"], sides["negative", "down"]
    default = Parameters()
    upper = up.bound if up.kind in ("zero", "constant") else None
    lower = down.bound if down.kind == "zero" else None
    root = clipping.LONG**0.5
    return Parameters(
        lower=default.lower if lower is None else lower,
        upper=default.upper if upper is None else upper,
        tau_positive=_temperature(passport.clipping.gate[0]),
        tau_negative=_temperature(passport.clipping.gate[1]),
        c_lower=_band(lower) * root if lower else default.c_lower,
        c_upper=_band(upper) * root if upper else default.c_upper,
    )


def _band(bound: float) -> float:
    return abs(float(torch.tensor(bound, dtype=DTYPE).log()))


def _temperature(gate: float) -> float:
    """tau where SAPO's gradient at a ratio of 2, 8 sigmoid(tau) (1 - sigmoid(tau)), is ``gate``."""
    low, high = 1e-6, 50.0
    for _ in range(60):
        tau = (low + high) / 2
        s = float(torch.sigmoid(torch.tensor(tau, dtype=DTYPE)))
        low, high = (tau, high) if 8 * s * (1 - s) > gate else (low, tau)
    return (low + high) / 2


def deviation(loss: Loss, formula: Formula, parameters: Parameters) -> tuple[float, float]:
    """(factor, residual): on responses on every side of the range the loss's gradient is ``factor`` times the
    formula's; the residual is relative, 0 for exactly that."""
    generator = torch.Generator().manual_seed(2)
    width = max(LENGTHS)
    nats = [abs(float(torch.tensor(bound).log())) for bound in (parameters.lower, parameters.upper) if bound > 0]
    unit = min(min(nats, default=0.3), 0.5) if nats else 0.3
    ratios = unit * 0.5 * torch.randn(len(LENGTHS), width, generator=generator, dtype=DTYPE)
    mask = torch.arange(width) < torch.tensor(LENGTHS)[:, None]
    ratios = (ratios + unit * torch.tensor(POSITIONS, dtype=DTYPE)[:, None]) * mask
    batch = Batch(LENGTHS, ADVANTAGES, log_ratio=ratios)
    return factor_of(policy_gradient(loss, batch), policy_gradient(formula.at(parameters), batch))
