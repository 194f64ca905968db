"""Off-policy measurements: what the importance ratio is taken over, and where the gradient vanishes."""

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from harness.passport.update import DTYPE, Batch, Loss, LossError, close
from harness.passport.weighting import policy_gradient

STEP = 1e-5  # nats; smaller than every clip range in use
LARGEST = 8.0  # nats: a ratio of 2981, below the numerical guards that frameworks have
FAR = (5.0, 6.0)  # nats: where the course of the gradient is looked at; three tokens together stay below a guard of 20
SCAN = tuple(math.exp(x) for x in torch.linspace(math.log(2e-5), math.log(LARGEST), 15).tolist())
SHORT, LONG = 3, 12
SIDES = (("positive", "up"), ("negative", "down"), ("positive", "down"), ("negative", "up"))
RESPONSES, SHORTEST, WIDTH = 512, 4, 64  # of the synthetic distribution of ratios
TOKEN_SPREAD, RESPONSE_SPREAD = 0.1, 0.002  # nats


@dataclass(frozen=True)
class Side:
    """What becomes of a response's gradient when all its ratios move up or down together.

    Args:
        kind: ``zero``, it vanishes at a bound; ``fades``, it goes to 0 without one; ``constant``, it stops changing;
            ``ratio``, it goes on in proportion to the ratio; ``constant from the start``; ``other``; ``not finite``.
        bound: the ratio at which it vanishes, or the value in units of the on-policy gradient that it settles at.
        growth: q, where the bound in nats of the mean log-ratio is proportional to |y|^q; 0 if there is no bound.
        unit: ``token``, where one token outside the range loses its own gradient alone; ``sequence``; "" if none does.
    """

    kind: str
    bound: float | None = None
    growth: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Clipping:
    """level: what the ratio is over, ``token``, ``sequence mean``, ``sequence sum``, ``none`` or ``mixed``.

    Args:
        own, cross: d log|gradient of a token| / d its own log-ratio, and / d that of another token, |y| = 12.
        sides: by (sign of the advantage, direction of the ratio), as in ``SIDES``.
        gate: gradient at a ratio of 2 relative to on-policy, for positive and negative advantage.
        tokens, sequences: fraction clipped on the synthetic distribution, a token with gradient 0 and a response all
            of whose tokens have none.
    """

    level: str
    own: float
    cross: float
    sides: dict[tuple[str, str], Side]
    gate: tuple[float, float]
    tokens: float
    sequences: float


def measure(loss: Loss) -> Clipping:
    own, cross = _slopes(loss)
    sides = {(sign, way): _side(loss, 1.0 if sign == "positive" else -1.0, way) for sign, way in SIDES}
    gate = tuple(_relative(loss, math.log(2), SHORT, advantage) for advantage in (1.0, -1.0))
    tokens, sequences = fractions(loss)
    return Clipping(_level(own, cross), own, cross, sides, (gate[0], gate[1]), tokens, sequences)


def row(loss: Loss, log_ratios: Tensor, advantage: float = 1.0) -> Tensor:
    """Gradient that the advantage makes on the tokens of a response with these log-ratios, beside another response."""
    matrix = torch.zeros(2, len(log_ratios), dtype=DTYPE)
    matrix[0] = log_ratios
    batch = Batch((len(log_ratios), 2), (advantage, 0.5 * advantage), log_ratio=matrix)
    return policy_gradient(loss, batch)[0]


def _relative(loss: Loss, nats: float, length: int, advantage: float) -> float:
    """Summed gradient with all log-ratios at ``nats``, relative to on-policy."""
    here = row(loss, torch.full((length,), nats, dtype=DTYPE), advantage)
    return float(here.sum()) / float(_on_policy(loss, length, advantage).sum())


@cache
def _on_policy(loss: Loss, length: int, advantage: float) -> Tensor:
    return row(loss, torch.zeros(length, dtype=DTYPE), advantage)


def _slopes(loss: Loss) -> tuple[float, float]:
    """Upwards; downwards where that leads to no ratio that is known, as beside a bound at 1."""

    def logs(token: int, step: float) -> float:
        moved = torch.zeros(LONG, dtype=DTYPE)
        moved[token] = step
        return math.log(max(float(row(loss, moved)[0].abs()), 1e-300))

    found = []
    for step in (STEP, -STEP):
        own, cross = ((logs(token, step) - logs(token, 0.0)) / step for token in (0, 1))
        if _level(own, cross) not in ("mixed", "none"):
            return own, cross
        found.append((own, cross))
    return found[0]


def _level(own: float, cross: float) -> str:
    known = {"token": (1, 0), "sequence mean": (1 / LONG, 1 / LONG), "sequence sum": (1, 1), "none": (0, 0)}
    for name, (mine, others) in known.items():
        if abs(own - mine) < 0.02 and abs(cross - others) < 0.02:
            return name
    return "mixed"


def _side(loss: Loss, advantage: float, way: str) -> Side:
    sign = 1.0 if way == "up" else -1.0
    try:
        edge, inside = _edge(loss, sign, LONG, advantage), 0.0
        if edge is not None:
            inside = abs(_relative(loss, sign * edge * (1 - 1e-4), LONG, advantage))
        if edge is not None and inside > 1e-4:  # else it only became too small to see
            short = _edge(loss, sign, SHORT, advantage)
            growth = math.log(edge / short) / math.log(LONG / SHORT) if short else math.nan
            growth = round(growth, 2) + 0.0
            bound = sign * edge
            return Side("zero", math.exp(bound), growth, _unit(loss, bound, advantage))
        near, far = (_relative(loss, sign * nats, SHORT, advantage) for nats in FAR)
    except LossError:
        return Side("not finite")
    if far and close(near / far, 1, 1e-6):
        return Side("constant from the start" if close(far, 1) else "constant", far)
    slope = math.log(abs(far / near)) if near and far else -math.inf
    if close(slope, sign, 0.01) or close(slope, SHORT * sign, 0.01):
        return Side("ratio")
    if abs(far) < 1e-3:
        return Side("fades")
    return Side("other", far)


def _edge(loss: Loss, sign: float, length: int, advantage: float) -> float | None:
    """Nats (positive) at which the gradient vanishes, to 7 digits; None: nowhere up to ``LARGEST``."""

    def gone(nats: float) -> bool:
        return abs(_relative(loss, sign * nats, length, advantage)) < 1e-12

    inside = 0.0
    for outside in SCAN:
        if gone(outside):
            break
        inside = outside
    else:
        return None
    while outside - inside > 1e-7 * outside:
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if gone(middle) else (middle, outside)
    return outside


def _unit(loss: Loss, bound: float, advantage: float) -> str:
    """Whether one token far outside the range ends its own gradient or that of the whole response."""
    for nats, unit in ((1.5 * bound, "token"), (1.5 * LONG * bound, "sequence")):
        moved = torch.zeros(LONG, dtype=DTYPE)
        moved[0] = max(-30.0, min(30.0, nats))
        after = row(loss, moved, advantage).abs()
        gone = after < 1e-9 * float(_on_policy(loss, LONG, advantage).abs().max())
        if unit == "token" and bool(gone[0]) and not gone[1:].any():
            return unit
        if bool(gone.all()):
            return "sequence"
    return "other"


def synthetic(seed: int = 0) -> Batch:
    """512 responses of 4 to 64 tokens, evenly; advantage 1 or -1, evenly; log-ratios normal: 0.1 a token, and 0.002
    that all tokens of a response share."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(SHORTEST, WIDTH + 1, (RESPONSES,), generator=generator)
    advantages = torch.randint(0, 2, (RESPONSES,), generator=generator) * 2.0 - 1
    token = TOKEN_SPREAD * torch.randn(RESPONSES, WIDTH, generator=generator, dtype=DTYPE)
    shared = RESPONSE_SPREAD * torch.randn(RESPONSES, 1, generator=generator, dtype=DTYPE)
    ratios = (token + shared) * (torch.arange(WIDTH) < lengths[:, None])
    return Batch(tuple(lengths.tolist()), tuple(advantages.tolist()), log_ratio=ratios, width=WIDTH)


def fractions(loss: Loss) -> tuple[float, float]:
    """(tokens, responses) of the synthetic distribution whose gradient is 0; nan where the loss cannot be called."""
    batch = synthetic()
    try:
        found = policy_gradient(loss, batch)
    except LossError:
        return math.nan, math.nan
    gone = found.abs() <= 1e-9 * float(found.abs().max())
    clipped = gone & batch.mask
    whole = clipped.sum(-1) == torch.tensor(batch.lengths)
    return float(clipped.sum() / batch.mask.sum()), float(whole.double().mean())
