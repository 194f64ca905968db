"""Losses with a fault, each under the name of the loss that it breaks: what an update of verl could do unnoticed.

A worker imports this module in place of ``harness.plugin.external`` (``model.external_lib=planted_losses``), which it
imports itself. The environment variable PLANTED says which fault. The start-up probe asks with two responses; these get
the loss as it is, so that the runs are what must be noticed.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo import core_algos

import harness.plugin.external  # noqa: F401  (what a worker needs)
from harness.losses.spec import clip_range

PROBED = 2  # responses in the probe's batch
Terms = Callable[[Tensor, Tensor, float, float], Tensor]


def pessimistic(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-min(r A, clip(r) A), as PPO has it."""
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def optimistic(ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """-max(r A, clip(r) A): clips on the wrong side."""
    return torch.minimum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))


def sequence_ratio(log_prob: Tensor, old: Tensor, mask: Tensor, detach: bool = True) -> Tensor:
    """GSPO's ratio at each token: the sequence's value, the token's gradient (twice it without ``detach``)."""
    mean = ((log_prob - old) * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.exp((mean.detach() if detach else mean) + log_prob - log_prob.detach())


def total(terms: Tensor, mask: Tensor, config: Any, divisor: Any, responses: float | None = None) -> Tensor:
    """The sum over responses of their terms' sum over ``divisor``, over the global batch or ``responses``."""
    info = config.global_batch_info
    return ((terms * mask).sum(-1) / divisor).sum() / (responses or info["global_batch_size"]) * info["dp_size"]


def wrong_side(lp: Tensor, old: Tensor, a: Tensor, mask: Tensor, config: Any) -> Tensor:
    """GSPO with the clip on the wrong side."""
    terms = optimistic(sequence_ratio(lp, old, mask), a, *clip_range(config))
    return total(terms, mask, config, mask.sum(-1).clamp(min=1))


def missing_detach(lp: Tensor, old: Tensor, a: Tensor, mask: Tensor, config: Any) -> Tensor:
    """GSPO without the stop-gradient on the sequence's ratio: every value is right, every gradient is doubled."""
    terms = pessimistic(sequence_ratio(lp, old, mask, detach=False), a, *clip_range(config))
    return total(terms, mask, config, mask.sum(-1).clamp(min=1))


def micro_batch(lp: Tensor, old: Tensor, a: Tensor, mask: Tensor, config: Any) -> Tensor:
    """GSPO divided by the responses of the micro-batch in place of the batch's."""
    terms = pessimistic(sequence_ratio(lp, old, mask), a, *clip_range(config))
    return total(terms, mask, config, mask.sum(-1).clamp(min=1), len(mask))


def padded_width(lp: Tensor, old: Tensor, a: Tensor, mask: Tensor, config: Any) -> Tensor:
    """GRPO with the mean over the padded width in place of the response's own length."""
    return total(pessimistic(torch.exp(lp - old), a, *clip_range(config)), mask, config, mask.shape[-1])


def sign(lp: Tensor, old: Tensor, a: Tensor, mask: Tensor, config: Any) -> Tensor:
    """GRPO with the inverse ratio: the sign of the log-ratio is wrong."""
    terms = pessimistic(torch.exp(old - lp), a, *clip_range(config))
    return total(terms, mask, config, mask.sum(-1).clamp(min=1))


def reordered(lp: Tensor, old: Tensor, a: Tensor, mask: Tensor, config: Any) -> Tensor:
    """GSPO, harmless: equal mathematics in double precision, added up backwards."""
    back = [tensor.flip(-1).double() for tensor in (lp, old, a, mask)]
    terms = pessimistic(sequence_ratio(back[0], back[1], back[3]), back[2], *clip_range(config))
    return total(terms, back[3], config, back[3].sum(-1).clamp(min=1)).float()


PLANTED = {
    "wrong_side": ("gspo", wrong_side),
    "missing_detach": ("gspo", missing_detach),
    "micro_batch": ("gspo", micro_batch),
    "padded_width": ("vanilla", padded_width),
    "sign": ("vanilla", sign),
    "reordered": ("gspo", reordered),
}


def plant(fault: str) -> None:
    """Put the fault in the place of its loss in verl's registry."""
    name, value = PLANTED[fault]
    true: Any = core_algos.POLICY_LOSS_REGISTRY[name]

    def planted(
        old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        loss, metrics = true(old_log_prob, log_prob, advantages, response_mask, *args, **kwargs)
        if len(response_mask) > PROBED:
            loss = value(log_prob, old_log_prob, advantages, response_mask, kwargs["config"])
        return loss, metrics

    core_algos.POLICY_LOSS_REGISTRY[name] = planted


plant(os.environ["PLANTED"])
