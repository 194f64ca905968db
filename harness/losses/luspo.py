"""LUSPO, arXiv 2602.05261: GSPO's term of each response times its length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.losses.spec import SUM_MODES, LossSpec, require_sum

if TYPE_CHECKING:
    import torch
    from verl.workers.config import ActorConfig


def luspo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "seq-mean-token-sum",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Equation 8 of the paper: the mean over sequences of |y| times GSPO's term of that sequence.

    GSPO's terms are equal for all tokens of a sequence, so |y| times their mean is their **sum**: verl's own
    ``compute_policy_loss_gspo`` with a sum over the sequence's tokens is the whole loss. With
    ``seq-mean-token-sum-norm`` the sum is divided by the constant ``loss_scale_factor`` (``algo=luspo_norm``), which
    rescales the gradient and changes nothing else.

    Shapes: all tensors (batch, response_length); returns a scalar and verl's ``actor/*`` metrics.
    Raises ValueError for an aggregation that would divide by the length again.
    """
    from verl.trainer.ppo.core_algos import compute_policy_loss_gspo

    require_sum("luspo", loss_agg_mode)
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


SPEC = LossSpec(
    "luspo",
    level="sequence_mean",
    length_exponent=1,
    aggregations=SUM_MODES,
    derivative_is_ratio=True,
    function=luspo,
)
