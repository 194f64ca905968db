"""FSPO, arXiv 2509.09177: the whole sequence's ratio, clipped in a band that widens with the root of its length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.losses.spec import LARGEST_LOG_RATIO, SUM_MODES, LossSpec, clip_range, require_sum

if TYPE_CHECKING:
    import torch
    from verl.workers.config import ActorConfig

ACTOR = "actor_rollout_ref.actor"


def fspo(
    old_log_prob: torch.Tensor,
    log_prob: torch.Tensor,
    advantages: torch.Tensor,
    response_mask: torch.Tensor,
    loss_agg_mode: str = "seq-mean-token-sum",
    config: ActorConfig | None = None,
    rollout_is_weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Minus the mean over sequences of min(exp(S) A, exp(clip(S, band of |y|)) A).

    S is the sum over tokens of log pi_theta - log pi_old, so exp(S) is the ratio of whole sequences, without GSPO's
    root of order |y|; hence, on-policy, a response's gradient weight is |y| times GSPO's, as it is under LUSPO.

    Certain, from the paper's abstracts: S itself is clipped, in log space, and the band's half-width grows with the
    root of |y|; version 1 centres it on a KL-corrected drift. Our reading: the centre is ``mu`` |y| with mu a constant,
    by default 0 as later versions are reported to have it; the clip is PPO's pessimistic minimum; no dual clip; the
    mean is over sequences. c is ours: see ``FSPOConfig.reference_length``.

    A sequence's term is spread evenly over its tokens, so that the sum over them is the term.
    Shapes: all tensors (batch, response_length); returns a scalar and verl's ``actor/*`` metrics.
    Raises ValueError for an aggregation that is not a sum over the sequence.
    """
    import torch
    from verl.trainer.ppo.core_algos import agg_loss
    from verl.utils.torch_functional import masked_mean

    require_sum("fspo", loss_agg_mode)
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


def _rule(flat: dict[str, Any]) -> str:
    if flat["harness.clip"] == "own":
        return (
            "fspo has no clip=own: the c of its paper is not known here; use clip=preset, or for a c of your own "
            f"{ACTOR}.policy_loss.reference_length=1 with {ACTOR}.clip_ratio_low and {ACTOR}.clip_ratio_high"
        )
    return ""


SPEC = LossSpec(
    "fspo",
    level="sequence_sum",
    length_exponent=1,  # the ratio is of the whole sequence, so its gradient weight is that of a sum
    aggregations=SUM_MODES,
    bounds=fspo_range,
    function=fspo,
    rule=_rule,
)
