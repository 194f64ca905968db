"""What manifests of schema 1 did not say of their loss: the losses that existed then, frozen.

Today's manifests have an entry ``loss``, written from ``harness.losses``; nothing is to be added here.
"""

from collections.abc import Mapping
from typing import Any

MODE, AGGREGATION = (f"actor_rollout_ref.actor.{key}" for key in ("policy_loss.loss_mode", "loss_agg_mode"))
MEAN, SUM = "seq-mean-token-mean", "seq-mean-token-sum"
EXPONENTS = {MEAN: 0, SUM: 1, "seq-mean-token-sum-norm": 1, "token-mean": 1, "token-sum": 1}
# loss_mode -> (level, power of |y| where it is fixed, whether it clips, whether its derivative is the ratio)
LOSSES = {
    "vanilla": ("token", None, True, True),
    "gspo": ("sequence_mean", None, True, True),
    "luspo": ("sequence_mean", 1, True, True),
    "geo_mean": ("token", 0, True, False),
    "sapo": ("token", 0, False, False),
    "cispo": ("token", None, False, False),
    "fspo": ("sequence_sum", 1, True, False),
}
# Algorithms of manifests without a treatment (imported runs) -> loss_mode, loss_agg_mode
ALGOS = {
    "grpo": ("vanilla", MEAN),
    "grpo_sum": ("vanilla", SUM),
    "gspo": ("gspo", MEAN),
    "luspo": ("luspo", SUM),
    "luspo_norm": ("luspo", "seq-mean-token-sum-norm"),
}


def loss_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The entry ``loss`` of a manifest that has none (``harness.losses.spec.LossSpec.described``); {} if unknown."""
    treatment = manifest.get("treatment") or {}
    given = (treatment.get(MODE), treatment.get(AGGREGATION))
    mode, aggregation = given if all(given) else ALGOS.get(str(manifest.get("algo")), (None, None))
    if mode not in LOSSES:
        return {}
    level, power, clips, derivative_is_ratio = LOSSES[mode]
    return {
        "loss_mode": mode,
        "loss_agg_mode": aggregation,
        "level": level,
        "length_exponent": EXPONENTS.get(str(aggregation)) if power is None else power,
        "clips": clips,
        "derivative_is_ratio": derivative_is_ratio,
    }
