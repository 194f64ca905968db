"""Further terms of a loss: a KL to a reference model, whatever else has no advantage, and importance weights."""

import math
from dataclasses import dataclass, replace

import torch

from harness.passport.update import DTYPE, Batch, Loss, close, gradient
from harness.passport.weighting import has_more, idle, ones, policy_gradient

DRIFT = 0.5  # nats
DRIFTS = (-DRIFT, DRIFT, 2 * DRIFT)
WEIGHT = 1.5
# Derivative in log_prob of an estimator of the KL, as a function of x = log_prob - ref_log_prob.
ESTIMATORS = {
    "k1": lambda x: 1.0,
    "k2": lambda x: x,
    "k3": lambda x: 1 - math.exp(-x),
    "abs": lambda x: float(x > 0) - float(x < 0),
}


@dataclass(frozen=True)
class Terms:
    """kl: estimator (``k1``, ``k2``, ``k3``, ``abs``, ``other``) or "" if there is none.

    Args:
        coefficient: of the KL, where a token's policy gradient is 1; None: unknown, or not the same for each |y|.
        without_advantage: there is a gradient where all advantages are 0 and no KL explains it.
        weights: what importance weights do: ``multiply``, ``ignored``, ``other``, or "" where the loss takes none.
    """

    kl: str
    coefficient: float | None
    without_advantage: bool
    weights: str


def measure(loss: Loss) -> Terms:
    kl, coefficient = _kl(loss)
    return Terms(kl, coefficient, has_more(loss) and not kl, _weights(loss))


def _idle(drift: float = 0.0) -> Batch:
    return idle(ones((4, 9), drift=drift))


def _kl(loss: Loss) -> tuple[str, float | None]:
    at = {x: float(gradient(loss, _idle(x))[0, 0]) for x in DRIFTS}
    if len(set(at.values())) == 1:  # the reference plays no part: k1's gradient cannot be told from a constant
        return ("k1", _share(loss, 1.0, DRIFT)) if at[DRIFT] and _reads_reference(loss) else ("", None)
    for name, slope in ESTIMATORS.items():
        fits = (math.isclose(value * slope(DRIFT), at[DRIFT] * slope(x), rel_tol=1e-4) for x, value in at.items())
        if name != "k1" and all(fits):
            return name, _share(loss, slope(DRIFT), DRIFT)
    return "other", None


def _reads_reference(loss: Loss) -> bool:
    """Whether the loss fails without reference log-probabilities: k1 enters the gradient as a constant."""
    call = _idle().call()
    broken = replace(call, ref_log_prob=torch.full_like(call.ref_log_prob, math.nan))
    try:
        loss.gradient(broken)
    except Exception:  # noqa: BLE001  (any failure answers the question)
        return True
    return False


def _share(loss: Loss, slope: float, drift: float) -> float | None:
    """The KL's gradient, of which ``slope`` is the estimator's part at this ``drift``, relative to the policy's."""
    more = gradient(loss, _idle(drift))
    policy = (gradient(loss, ones((4, 9), drift=drift)) - more).abs()
    shares = [float(more[row, 0] / policy[row, 0]) / slope for row in (0, 1)]
    return shares[0] if close(shares[0] / shares[1], 1) else None


def _weights(loss: Loss) -> str:
    if not loss.takes_weights:
        return ""
    batch = ones((4, 9))
    weights = torch.ones(2, 9, dtype=DTYPE)
    plain = policy_gradient(loss, replace(batch, weights=weights))
    weights[0] = WEIGHT
    weighted = policy_gradient(loss, replace(batch, weights=weights))
    size = float(plain.abs().max())
    if float((weighted - plain).abs().max()) < 1e-6 * size:
        return "ignored"
    expected = plain.clone()
    expected[0] *= WEIGHT
    return "multiply" if float((weighted - expected).abs().max()) < 1e-4 * size else "other"
