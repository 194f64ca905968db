"""Whether the engine's log-probabilities can be right, judged by rounding: at the first step each is known twice.

The policy that sampled is the policy that is trained, so the rollout's log-probabilities, those that the trainer
computes for them, and those of the first update are three readings of one number. They differ by rounding, which has a
size that follows from the arithmetic in use and from the length. Sequence parallelism without flash attention, a wrong
mask or other weights in the rollout differ by a hundred times that.
"""

import math
from collections.abc import Mapping
from typing import Any

from harness.rundir.rounding import BF16_TOKEN_NOISE, FP32_TOKEN_NOISE

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
TIMES = 10.0  # what rounding makes, allowed for what is not counted: other kernels, other micro-batches
# In units of a token's noise, however long the responses are: engines also differ in one direction, experts are chosen
# otherwise.
LEAST_NOISE, LEAST_GAP = 2.0, 5.0


def token_noise(flat: Mapping[str, Any]) -> float:
    """Root mean square of a token's log-ratio on-policy, by the arithmetic of the forward pass (verl: bf16)."""
    exact = flat.get(f"{ACTOR}.fsdp_config.mixed_precision.param_dtype") == "fp32"
    return FP32_TOKEN_NOISE if exact and flat[f"{ACTOR}.strategy"] != "megatron" else BF16_TOKEN_NOISE


def comparable(flat: Mapping[str, Any]) -> bool:
    """Whether the rollout's log-probabilities are of the same distribution as the trainer's: nothing is cut from it."""
    return flat[f"{ROLLOUT}.top_p"] == 1 and flat[f"{ROLLOUT}.top_k"] in (-1, 0)


def engine_fault(row: Mapping[str, float], noise: float, gap: bool) -> str | None:
    """Why the first step's metrics cannot be of a right engine; None if they can.

    noise: ``token_noise``; gap: ``comparable``.
    """
    length = row.get("response_length", math.nan)
    if not length > 0:
        return None
    by_length = TIMES * noise / math.sqrt(length)
    asked = [("the first update's log-ratio of the policy with itself", "onpolicy_log_ratio_rms", LEAST_NOISE)]
    if gap:
        asked.append(("the trainer's log-probabilities less the rollout's", "rollout_logprob_diff", LEAST_GAP))
    for what, metric, least in asked:
        found, bound = row.get(metric, math.nan), max(by_length, least * noise)
        if found > bound:
            return (
                f"the engine cannot be right: {what} is {found:.2g} on average over responses of {length:.0f} tokens, "
                f"where rounding makes at most about {bound:.2g} ({metric}); compare attention, sequence parallelism "
                "and the rollout's weights, or set harness.watch.check_engine=false"
            )
    return None
