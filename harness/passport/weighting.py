"""On-policy measurements: how much weight a response's gradient has, and what it depends on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from harness.passport.update import DTYPE, Batch, Loss, LossError, close, factor_of, gradient

LENGTHS = (3, 12, 24, 48, 1)
SQUARE = (8, 3, 6, 8, 1, 5, 7, 2)  # as many responses as tokens, so that a wrong broadcast is no error but a number
HALVES = (9, 2, 12, 4, 1, 7, 11, 3, 5, 1, 2, 6)  # lengths; the halves have 35 and 28 tokens
NONE = 1e-9  # relative size of a gradient that is none
# Updates that differ in responses, tokens and width: whatever the divisor is, it is one that fits all of them.
SIZES = (((3, 12), None), ((3, 12, 7, 7, 2), None), ((3, 12), 40), ((3, 12, 30), 33))


@dataclass(frozen=True)
class Weighting:
    """sign: 1 if a step raises the probability of responses with positive advantage, -1 if it lowers it.

    Args:
        advantage: ``own``; else what a response's gradient depends on instead.
        power: p, where the sum over a response's tokens of |dL/dlogp| is proportional to |y|^p; None: no power fits.
        weights: these sums for responses of ``LENGTHS`` tokens in one batch, relative to the first.
        uniform: all tokens of a response have equal gradients.
        divisor, constant: a response's summed gradient is |A| |y|^p / (divisor * constant).
        padding_gradient: largest gradient on a padding token, relative to a token's.
        padding_factor: of the gradient when the padded width doubles; None: not only a factor.
        padding_content: the gradient changes with what the log-probabilities of padding are.
        micro, ranks: factor of the gradient when the update is split in two; None: not only a factor.
        micro_error, ranks_error: why that could not be measured, or "".
        others: what of the other responses changes a response's gradient.
        level: the gradient changes if log_prob, old_log_prob and ref_log_prob are all moved by the same number.
    """

    sign: int
    advantage: str
    power: float | None
    weights: tuple[float, ...]
    uniform: bool
    divisor: str
    constant: float | None
    padding_gradient: float
    padding_factor: float | None
    padding_content: bool
    micro: float | None
    micro_error: str
    ranks: float | None
    ranks_error: str
    others: tuple[str, ...]
    level: bool


def ones(lengths: Sequence[int], **more: Any) -> Batch:
    """Responses of these lengths with advantage 1."""
    return Batch(tuple(lengths), (1.0,) * len(lengths), **more)


def measure(loss: Loss) -> Weighting:
    """All of it; raises ``LossError`` if the loss cannot be called on an ordinary batch."""
    advantage, sign = _advantage(loss)
    weights = _sums(loss, ones(LENGTHS))
    power = _power(weights)
    divisor, constant = _divisor(loss, power)
    factor, content, on_padding = _padding(loss)
    micro, micro_error = _split(loss, ranks=False)
    ranks, ranks_error = _split(loss, ranks=True)
    return Weighting(
        sign=sign,
        advantage=advantage,
        power=power,
        weights=tuple(w / weights[0] if weights[0] else math.nan for w in weights),
        uniform=_uniform(loss),
        divisor=divisor,
        constant=constant,
        padding_gradient=on_padding,
        padding_factor=factor,
        padding_content=content,
        micro=micro,
        micro_error=micro_error,
        ranks=ranks,
        ranks_error=ranks_error,
        others=_others(loss),
        level=_level(loss),
    )


def policy_gradient(loss: Loss, batch: Batch) -> Tensor:
    """The part of the gradient that the advantages make: without a KL term or whatever else there is without them."""
    found = gradient(loss, batch)
    return found - gradient(loss, idle(batch)) if has_more(loss) else found


def idle(batch: Batch) -> Batch:
    """The same responses with advantage 0."""
    return replace(batch, advantages=(0.0,) * len(batch.lengths))


@cache
def has_more(loss: Loss) -> bool:
    """Whether there is a gradient without advantages, on-policy or off it, at the reference model or away from it."""
    moved = torch.zeros(2, 9, dtype=DTYPE)
    moved[0, :4], moved[1] = 0.3, -0.2
    batches = (ones((4, 9)), ones((4, 9), drift=0.5), ones((4, 9), log_ratio=moved, drift=-0.5))
    return any(bool(gradient(loss, idle(batch)).any()) for batch in batches)


def _sums(loss: Loss, batch: Batch) -> list[float]:
    """Sum over a response's tokens of |dL/dlogp|, (responses,)."""
    return (policy_gradient(loss, batch) * batch.mask).abs().sum(-1).tolist()


def _advantage(loss: Loss) -> tuple[str, int]:
    """(what a response's gradient depends on, the sign of the step)."""
    n = len(SQUARE)
    own = policy_gradient(loss, ones(SQUARE))
    if not (own.abs().sum() > 0):
        raise LossError("its gradient is 0 for every response on-policy with advantage 1")
    sign = -1 if float((own * ones(SQUARE).mask).sum()) > 0 else 1
    size = float(own.abs().max())
    leaks = False
    for row in range(n):
        alone = policy_gradient(loss, Batch(SQUARE, tuple(float(i == row) for i in range(n))))
        elsewhere = torch.cat([alone[:row], alone[row + 1 :]]).abs().max()
        leaks |= float(elsewhere) > NONE * size
    if leaks:
        return "those of other responses", sign
    opposite = policy_gradient(loss, Batch(SQUARE, (-1.0,) * n))
    double = policy_gradient(loss, Batch(SQUARE, (2.0,) * n))
    if factor_of(opposite, own)[1] > 1e-4 or not close(factor_of(opposite, own)[0], -1):
        return "its own, differently for each sign", sign
    if factor_of(double, own)[1] > 1e-4 or not close(factor_of(double, own)[0], 2):
        return "its own, not in proportion", sign
    return "own", sign


def _power(weights: Sequence[float]) -> float | None:
    """The slope of log weight over log length if one slope fits all neighbours; else None."""
    if min(weights) <= 0:
        return None
    pairs = sorted(zip(LENGTHS, weights, strict=True))
    slopes = [math.log(w / v) / math.log(m / n) for (n, v), (m, w) in pairwise(pairs)]
    mean = sum(slopes) / len(slopes)
    if any(abs(slope - mean) > 1e-3 for slope in slopes):
        return None
    return round(mean) if abs(mean - round(mean)) < 1e-3 else round(mean, 3)


def _uniform(loss: Loss) -> bool:
    row = policy_gradient(loss, ones((12, 3)))[0, :12]
    return float((row - row.mean()).abs().max()) <= 1e-4 * float(row.abs().max())


def _divisor(loss: Loss, power: float | None) -> tuple[str, float | None]:
    """Which size of the update a response's weight is divided by, and the constant that is left."""
    if power is None:
        return "unknown", None
    found: dict[str, list[float]] = {}
    for lengths, width in SIZES:
        try:
            weight = _sums(loss, ones(lengths, width=width))[1] / lengths[1] ** power
        except LossError:
            return "unknown", None
        b, t, w = len(lengths), sum(lengths), width or max(lengths)
        sizes = {
            "responses": b, "tokens": t, "1": 1, "responses * width": b * w, "width": w, "tokens * responses": b * t,
            "tokens * width": t * w,
        }  # fmt: skip
        for name, size in sizes.items():
            found.setdefault(name, []).append(1 / (weight * size) if weight else math.nan)
    for name, constants in found.items():
        if all(close(constant / constants[0], 1) for constant in constants):
            return name, constants[0]
    return "unknown", None


def _padding(loss: Loss) -> tuple[float | None, bool, float]:
    """(factor when the width doubles or None, whether the padding's content matters, gradient on padding)."""
    try:
        narrow, wide = (gradient(loss, ones((3, 12, 5), width=width)) for width in (12, 24))
    except LossError:
        return None, False, 0.0
    factor, rest = factor_of(wide[:, :12], narrow)
    mask = ones((3, 12, 5)).mask
    noise = torch.empty(3, 12, dtype=DTYPE).uniform_(-3, 3, generator=torch.Generator().manual_seed(1))
    garbage = gradient(loss, ones((3, 12, 5), log_ratio=noise * ~mask))
    size = float((narrow * mask).abs().max())
    changed = float(((garbage - narrow) * mask).abs().max()) > 1e-6 * size
    leaks = max(float((one * ~mask).abs().max()) for one in (narrow, garbage)) / size
    return (factor if rest < 1e-4 else None), changed, leaks if leaks > NONE else 0.0


def _split(loss: Loss, ranks: bool) -> tuple[float | None, str]:
    """(factor of the gradient when two halves of the update are two micro-batches, or two ranks; "")."""
    batch = ones(HALVES, width=12)
    halves = [slice(0, 6), slice(6, 12)]
    try:
        parted = gradient(loss, batch, [[half] for half in halves] if ranks else [halves])
        factor, rest = factor_of(parted, gradient(loss, batch))
    except LossError as error:
        return None, str(error)
    return (factor if rest < 1e-4 else None), ""


def _others(loss: Loss) -> tuple[str, ...]:
    """What of the others changes the gradient of the first of three responses, at equal width."""
    base = Batch((6, 4, 8), (1.0, 0.5, -0.7), width=12)
    moved = torch.zeros(3, 12, dtype=DTYPE)
    moved[1, :4], moved[2, :8] = 0.5, -0.5
    changes = {
        "lengths": replace(base, lengths=(6, 9, 2)),
        "advantages": replace(base, advantages=(1.0, -1.5, 0.2)),
        "ratios": replace(base, log_ratio=moved),
    }
    first = gradient(loss, base)[0, :6]
    size = float(first.abs().max())
    return tuple(
        name
        for name, batch in changes.items()
        if float((gradient(loss, batch)[0, :6] - first).abs().max()) > 1e-6 * size
    )


def _level(loss: Loss) -> bool:
    here, there = (gradient(loss, ones((5, 9), shift=shift)) for shift in (0.0, -0.8))
    return float((there - here).abs().max()) > 1e-4 * float(here.abs().max())
