"""Policy losses of our own, in verl's registry. Importing this module registers them."""

from typing import Any

import torch
from verl.trainer.ppo.core_algos import compute_policy_loss_gspo, register_policy_loss
from verl.workers.config import ActorConfig

SUM_MODES = ("seq-mean-token-sum", "seq-mean-token-sum-norm")


@register_policy_loss("luspo")
def compute_policy_loss_luspo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "seq-mean-token-sum",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """LUSPO, arXiv 2602.05261, equation 8: the mean over sequences of |y| times GSPO's term of that sequence.

    GSPO's terms are equal for all tokens of a sequence, so |y| times their mean is their **sum**: verl's own
    ``compute_policy_loss_gspo`` with a sum over the sequence's tokens is the whole loss. With
    ``seq-mean-token-sum-norm`` the sum is divided by the constant ``loss_scale_factor`` (``algo=luspo_norm``), which
    rescales the gradient and changes nothing else.

    Shapes: all tensors (batch, response_length); returns a scalar and verl's ``actor/*`` metrics.
    Raises ValueError for an aggregation that would divide by the length again.
    """
    if loss_agg_mode not in SUM_MODES:
        raise ValueError(f"luspo needs actor.loss_agg_mode to be one of {', '.join(SUM_MODES)}, not {loss_agg_mode}")
    gspo: Any = compute_policy_loss_gspo  # verl's decorator declares another signature than it keeps
    return gspo(
        old_log_prob=old_log_prob,
        log_prob=log_prob,
        advantages=advantages,
        response_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        config=config,
        rollout_is_weights=rollout_is_weights,
    )
