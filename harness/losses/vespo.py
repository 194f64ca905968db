"""VESPO, arXiv 2602.10693: a soft kernel of the whole sequence's ratio in place of a clip."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from harness.losses.of_verl import no_range
from harness.losses.spec import LARGEST_LOG_RATIO, SUM_MODES, LossSpec

if TYPE_CHECKING:
    import torch
    from verl.workers.config import ActorConfig


def vespo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "token-mean",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Minus the mean over tokens of phi(W) A log pi_theta, with phi(W) held fixed.

    W = exp(sum over the response's tokens of log pi_theta - log pi_old); phi(W) = W^k exp(lambda (1 - W)), which is 1
    at W = 1; k and lambda by the sign of the advantage (0 counts as positive). Weights of a rollout correction are
    factors of W and not of the loss. Token log-ratios and their sum are bounded by 20 nats each.

    Source: ``recipe/vespo/code/core_algos.py`` in github.com/FloyedShen/VESPO, the authors'; TRL 1.16's ``loss_type``
    ``vespo`` is the same. Theirs bounds log W at log 1e-8 from below, where phi is below 1e-14 anyway.

    Shapes: all tensors (batch, response_length); returns a scalar and verl's ``actor/*`` metrics.
    """
    import torch
    from verl.trainer.ppo.core_algos import agg_loss
    from verl.utils.torch_functional import masked_mean

    assert config is not None
    form: Any = config.policy_loss
    token_log_ratio = (log_prob - old_log_prob).detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    factors = token_log_ratio
    if rollout_is_weights is not None:
        log_weights = rollout_is_weights.clamp(min=1e-8).log().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
        factors = factors + log_weights
    log_ratio = torch.where(response_mask.bool(), factors, 0.0).sum(-1, keepdim=True)
    log_ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    k, rate = (
        torch.where(advantages >= 0, pos, neg)
        for pos, neg in ((form.k_pos, form.k_neg), (form.lambda_pos, form.lambda_neg))
    )
    kernel = (k * log_ratio + rate * (1 - log_ratio.exp())).exp()
    loss = agg_loss(
        loss_mat=-kernel * advantages * log_prob,
        loss_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        **config.global_batch_info,
    )
    return loss, {"actor/ppo_kl": masked_mean(-token_log_ratio, response_mask).item()}


SPEC = LossSpec(
    "vespo",
    level="sequence_sum",
    aggregations=("token-mean", "token-sum", *SUM_MODES),  # a mean over the response's tokens would be a factor 1/|y|
    clips=False,
    bounds=None,
    function=vespo,
    rule=partial(no_range, "vespo"),
)
