"""Policy losses of our own, in verl's registry. Importing this module registers them."""

from dataclasses import dataclass
from typing import Any

import torch
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_gspo, register_policy_loss
from verl.utils.torch_functional import masked_mean
from verl.workers.config import ActorConfig, PolicyLossConfig

SUM_MODES = ("seq-mean-token-sum", "seq-mean-token-sum-norm")
LARGEST_LOG_RATIO = 20.0  # beyond it exp overflows sooner or later; verl's bound for tokens


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
    _require_sum("luspo", loss_agg_mode)
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


@dataclass
class FSPOConfig(PolicyLossConfig):
    """verl's ``actor.policy_loss`` with FSPO's own hyper-parameters; a YAML chooses it by ``_target_``.

    Args:
        mu: drift of a token's log-ratio, the centre of the band per token (nats; the expectation is minus a KL).
        reference_length: tokens of the response whose mean log-ratio is clipped at ``clip_ratio_low`` and ``_high``;
            at 1 these two are the paper's c.
    """

    mu: float = 0.0
    reference_length: float = 1.0

    def __post_init__(self) -> None:
        if not self.reference_length > 0:
            raise ValueError(f"policy_loss.reference_length must be above 0 tokens, not {self.reference_length}")


@register_policy_loss("fspo")
def compute_policy_loss_fspo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "seq-mean-token-sum",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """FSPO, arXiv 2509.09177: minus the mean over sequences of min(exp(S) A, exp(clip(S, band of |y|)) A).

    S is the sum over tokens of log pi_theta - log pi_old, so exp(S) is the ratio of whole sequences, without GSPO's
    root of order |y|; hence, on-policy, a response pulls |y| times as hard as under GSPO, as it does under LUSPO.

    Certain, from the paper's abstracts: S itself is clipped, in log space, and the band's half-width grows with the
    root of |y|; version 1 centres it on a KL-corrected drift. Our reading: the centre is ``mu`` |y| with mu a constant,
    by default 0 as later versions are reported to have it; the clip is PPO's pessimistic minimum; no dual clip; the
    mean is over sequences. c is ours: see ``FSPOConfig.reference_length``.

    A sequence's term is spread evenly over its tokens, so that the sum over them is the term.
    Shapes: all tensors (batch, response_length); returns a scalar and verl's ``actor/*`` metrics.
    Raises ValueError for an aggregation that is not a sum over the sequence.
    """
    _require_sum("fspo", loss_agg_mode)
    assert config is not None
    tokens = response_mask.sum(-1, keepdim=True, dtype=log_prob.dtype)
    token_log_ratio = log_prob - old_log_prob
    log_ratio = (token_log_ratio * response_mask).sum(-1, keepdim=True)
    bounded = log_ratio.detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    ratio = torch.exp(log_ratio - log_ratio.detach() + bounded)  # the bound must not stop the gradient as a clip does
    unclipped = -advantages * ratio
    clipped = -advantages * torch.clamp(ratio, *fspo_range(config, tokens))
    losses = torch.maximum(unclipped, clipped) / tokens.clamp(min=1)
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    loss = agg_loss(loss_mat=losses, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
    return loss, {
        "actor/pg_clipfrac": masked_mean((clipped > unclipped).float(), response_mask).item(),
        "actor/ppo_kl": masked_mean(-token_log_ratio.detach(), response_mask).item(),
        "actor/pg_clipfrac_lower": 0.0,
    }


def fspo_range(config: ActorConfig, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of exp(S) for responses of so many ``tokens``: exp(mu |y| - c_low sqrt|y|), exp(mu |y| + c_high sqrt|y|).

    c = clip_ratio * sqrt(reference_length): at that length S / |y| leaves [mu - low, mu + high], GSPO's range up to its
    square. Any shape of ``tokens``, which the bounds keep.
    """
    low, high = clip_range(config)
    form: Any = config.policy_loss
    centre, root = form.mu * tokens, (form.reference_length * tokens).sqrt()
    return (centre - low * root).exp(), (centre + high * root).exp()


def clip_range(config: ActorConfig) -> tuple[float, float]:
    """(clip_ratio_low, clip_ratio_high) with verl's fallback to ``clip_ratio``."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return float(low), float(high)


def _require_sum(loss: str, loss_agg_mode: str) -> None:
    if loss_agg_mode not in SUM_MODES:
        raise ValueError(f"{loss} needs actor.loss_agg_mode to be one of {', '.join(SUM_MODES)}, not {loss_agg_mode}")
