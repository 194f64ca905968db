"""Synthetic batches, and the gradient of one update of them: split into micro-batches, spread over ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

DTYPE = torch.float64


class LossError(Exception):
    """The loss cannot be probed: one line that says why."""


@dataclass(frozen=True)
class Call:
    """What a loss is called with for one micro-batch. Tensors: (responses, tokens); log-probabilities in nats.

    Args:
        log_prob, old_log_prob, ref_log_prob: of the model that is trained, that sampled, that the KL is taken to.
        advantages: one number a response, repeated over its tokens and its padding.
        response_mask: True for the tokens of a response, False for padding, which is always behind them.
        weights: importance weights of the rollout engine's mismatch, or None.
        responses, tokens: of the whole update, over all micro-batches and ranks.
        micro_batches, ranks: how many share the update.
        lengths, signed: tokens and advantage of every response of the whole update, which here is one group.
        first: number of this call's first response in the update.
    """

    log_prob: Tensor
    old_log_prob: Tensor
    ref_log_prob: Tensor
    advantages: Tensor
    response_mask: Tensor
    weights: Tensor | None
    responses: int
    tokens: int
    micro_batches: int = 1
    ranks: int = 1
    lengths: tuple[int, ...] = ()
    signed: tuple[float, ...] = ()
    first: int = 0


class Loss(Protocol):
    """A loss under test; ``harness.passport.frameworks`` says what the properties are."""

    @property
    def title(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def takes_weights(self) -> bool: ...
    @property
    def equal_rows(self) -> bool: ...
    @property
    def note(self) -> str: ...

    def gradient(self, call: Call) -> Tensor:
        """d loss / d log_prob of one micro-batch as it enters the sum over micro-batches; raises ``LossError``."""
        ...


@dataclass(frozen=True)
class Batch:
    """Responses of some ``lengths`` (tokens), each with one advantage; log-ratios are 0 unless ``log_ratio`` is given.

    Args:
        log_ratio: log_prob - old_log_prob, (responses, width), or None for on-policy.
        width: padded width; None: the longest response.
        shift: added to every log-probability.
        drift: log_prob - ref_log_prob.
    """

    lengths: tuple[int, ...]
    advantages: tuple[float, ...]
    log_ratio: Tensor | None = None
    width: int | None = None
    shift: float = 0.0
    drift: float = 0.0
    weights: Tensor | None = None
    seed: int = field(default=0)

    @property
    def mask(self) -> Tensor:
        width = self.width or max(self.lengths)
        return torch.arange(width) < torch.tensor(self.lengths)[:, None]

    def call(self) -> Call:
        """The whole batch as one micro-batch on one rank."""
        mask = self.mask
        widest = torch.empty(len(self.lengths), max(512, mask.shape[1]), dtype=DTYPE)  # equal draws for every width
        noise = widest.uniform_(-2.0, -0.5, generator=torch.Generator().manual_seed(self.seed))
        old = noise[:, : mask.shape[1]] + self.shift
        new = old if self.log_ratio is None else old + self.log_ratio
        advantages = torch.tensor(self.advantages, dtype=DTYPE)[:, None].expand(mask.shape).clone()
        sizes = {"responses": len(mask), "tokens": int(mask.sum()), "lengths": self.lengths, "signed": self.advantages}
        return Call(new.clone(), old, new - self.drift, advantages, mask, self.weights, **sizes)


def gradient(loss: Loss, batch: Batch, splits: Sequence[Sequence[slice]] | None = None) -> Tensor:
    """The gradient of an update, (responses, width).

    ``splits``: for each rank its micro-batches, as slices of the responses in their order. Gradients are added up over
    micro-batches and averaged over ranks, as every data-parallel trainer does.
    """
    whole = batch.call()
    if splits is None:
        return loss.gradient(whole)
    parts = []
    for rank in splits:
        for rows in rank:
            tensors = {
                name: value[rows] for name, value in vars(whole).items() if isinstance(value, Tensor)
            }  # weights may be None
            first = rows.indices(whole.responses)[0]
            call = replace(whole, **tensors, micro_batches=len(rank), ranks=len(splits), first=first)
            parts.append(loss.gradient(call) / len(splits))
    return torch.cat(parts)


def factor_of(one: Tensor, other: Tensor) -> tuple[float, float]:
    """(f, residual): f times ``other`` is nearest to ``one``; the residual relative to the norm of ``one``."""
    square = float((other * other).sum())
    if square == 0:
        return (0.0, 0.0) if not one.any() else (float("nan"), 1.0)
    f = float((one * other).sum()) / square
    norm = float(one.norm())
    return f, float((one - f * other).norm()) / norm if norm else 0.0


def close(value: float, target: float, tolerance: float = 1e-4) -> bool:
    """Equal up to the rounding of a loss that computes in float32."""
    return abs(value - target) <= tolerance * max(1.0, abs(target))


def plain(value: Any) -> Any:
    """A number rounded to what a loss in float64 and one in float32 agree on, for tables."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
