"""verl's own losses that conf/algo uses, each with what verl 0.9.1 makes of it (``verl.trainer.ppo.core_algos``)."""

from functools import partial
from typing import Any

from harness.losses.spec import LossSpec, log_ratio_bounds

ACTOR = "actor_rollout_ref.actor"
MEAN = ("seq-mean-token-mean",)


def _geo_mean(flat: dict[str, Any]) -> str:
    """verl's geo_mean ends in a plain mean over the micro-batch, and the engine adds micro-batches up."""
    if flat[f"{ACTOR}.use_dynamic_bsz"]:
        return (
            f"geo_mean averages over the micro-batch, so {ACTOR}.use_dynamic_bsz=true would change it; set it to false"
        )
    ranks = flat["trainer.nnodes"] * flat["trainer.n_gpus_per_node"]
    per_rank = flat[f"{ACTOR}.ppo_mini_batch_size"] * flat["actor_rollout_ref.rollout.n"] // ranks
    micro = flat[f"{ACTOR}.ppo_micro_batch_size_per_gpu"]
    if micro != per_rank:
        return (
            f"geo_mean averages over the micro-batch and verl adds micro-batches up, so the gradient would be "
            f"{per_rank // micro} times the batch's; set {ACTOR}.ppo_micro_batch_size_per_gpu={per_rank}, a rank's "
            "whole update"
        )
    return ""


def no_range(loss: str, flat: dict[str, Any]) -> str:
    """The rule of a loss without a clip range: why a choice of one is refused, or nothing."""
    if flat["harness.clip"] in ("shared", "symmetric"):
        return f"{loss} has no clip range, so clip={flat['harness.clip']} would change nothing; use clip=preset"
    return ""


def _sapo(flat: dict[str, Any]) -> str:
    if reason := no_range("sapo", flat):
        return reason
    if any(f"{ACTOR}.policy_loss.{tau}" in flat for tau in ("tau_pos", "tau_neg")):
        return f"sapo reads {ACTOR}.tau_pos and {ACTOR}.tau_neg, not those of policy_loss; set these"
    return ""


def _cispo(flat: dict[str, Any]) -> str:
    low = flat[f"{ACTOR}.clip_ratio_low"]
    if low is None or low < 1:
        return (
            f"cispo bounds the ratio from above only, {ACTOR}.clip_ratio_low={low} (clip={flat['harness.clip']}) from "
            "below too; use clip=preset or a value of 1"
        )
    return ""


def _dro(flat: dict[str, Any]) -> str:
    beta = flat.get(f"{ACTOR}.policy_loss.dro_beta")
    if beta is None or beta <= 0:
        return f"dro needs {ACTOR}.policy_loss.dro_beta above 0, not {beta}"
    return no_range("dro", flat)


def _dppo(loss: str, flat: dict[str, Any]) -> str:
    if flat["harness.clip"] == "shared":
        return f"{loss} clips by how far a token's probability has moved, not by a range of ratios; use clip=preset"
    return ""


OF_VERL = (
    LossSpec("vanilla", derivative_is_ratio=True),
    # With another aggregation than the mean, verl 0.9.1 trains LUSPO up to a factor under this name.
    LossSpec("gspo", level="sequence_mean", length_exponent=0, aggregations=MEAN, derivative_is_ratio=True),
    # GMPO: the geometric mean of a response's ratios; its range is of log-ratios; the aggregation is not read.
    LossSpec(
        "geo_mean",
        length_exponent=0,
        aggregations=MEAN,
        bounds=log_ratio_bounds,
        rule=_geo_mean,
    ),
    # A gate in place of the clip: no gradient is ever 0; the aggregation is not read.
    LossSpec("sapo", length_exponent=0, aggregations=MEAN, clips=False, bounds=None, rule=_sapo),
    # DPPO: a token whose probability moved too far loses its gradient. The range is none of ratios: none is recorded.
    LossSpec("dppo_tv", bounds=None, derivative_is_ratio=True, rule=partial(_dppo, "dppo_tv")),
    LossSpec("dppo_kl", bounds=None, derivative_is_ratio=True, rule=partial(_dppo, "dppo_kl")),
    # A square of the log-ratio in place of the clip; it acts where the advantage is 0 too.
    LossSpec("dro", clips=False, bounds=None, rule=_dro),
    # The log-probability times the advantage: neither ratio nor clip.
    LossSpec("gpg", clips=False, bounds=None, rule=partial(no_range, "gpg")),
    # No clip, and a KL penalty on a few tokens, picked within the micro-batch.
    LossSpec("kl_cov", clips=False, bounds=None, rule=partial(no_range, "kl_cov")),
    # The ratio is a constant weight, bounded from above: no token loses its gradient.
    LossSpec("cispo", clips=False, rule=_cispo),
)
