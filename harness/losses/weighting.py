"""Losses that weigh a response by the others of its group or step, which no call of a loss on a micro-batch can see.

The trainer computes the weights once a step, over all of its responses (``harness.plugin.response_weights``), and
hands them to verl's loss as ``rollout_is_weights``, by which verl multiplies every token's term.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.losses.spec import LossSpec, require_sum

if TYPE_CHECKING:
    import torch

Weights = Callable[[Any, "torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
CORRECTION = "algorithm.rollout_correction.rollout_is"


@dataclass(frozen=True)
class WeightedSpec(LossSpec):
    """A loss times a weight of each response.

    Args:
        weights: (actor's configuration, tokens, advantages, groups) -> weights. Tensors: (responses,); all responses of
            a step that have tokens, their advantage, and the number of the group, a prompt's, that each belongs to.
    """

    weights: Weights | None = None

    def described(self, aggregation: str) -> dict[str, Any]:
        """What the manifest keeps; no power of |y| alone is the weight of a response."""
        return super().described(aggregation) | {"length_exponent": None}


def of_step(
    spec: WeightedSpec, config: Any, mask: torch.Tensor, advantages: torch.Tensor, groups: Sequence[Hashable]
) -> torch.Tensor:
    """Weights of all responses of a step, (responses,), float32; 1 for a response without tokens.

    config: verl's actor configuration. mask, advantages: (responses, tokens), the advantage the same for all tokens of
    a response. groups: each response's group.
    """
    import torch

    assert spec.weights is not None
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    tokens = mask.sum(-1)
    there = tokens > 0
    each = (advantages * mask).sum(-1) / tokens.clamp(min=1)
    group = torch.tensor([numbers[name] for name in groups], device=mask.device)
    weights = torch.ones(len(mask), device=mask.device)
    weights[there] = spec.weights(config, tokens[there], each[there], group[there]).float()
    return weights


def summed_surrogate(loss: str, arguments: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """PPO's clipped terms, times ``rollout_is_weights``, summed over a response's tokens: verl's loss ``vanilla``.

    arguments: of a call in verl's signature. Raises ValueError for an aggregation that is no sum over the response.
    """
    from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla

    require_sum(loss, arguments["loss_agg_mode"])
    vanilla: Any = compute_policy_loss_vanilla  # verl's decorator declares another signature than it keeps
    return vanilla(**arguments)


def alone(loss: str, flat: dict[str, Any]) -> str:
    """A rule of such a loss: verl has one field for weights, which a rollout correction would fill too."""
    if flat.get(CORRECTION):
        return f"{loss} weighs responses through the field of verl that {CORRECTION} uses; set {CORRECTION}=null"
    return ""
