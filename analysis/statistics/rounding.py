"""Whether the clipping that a run recorded is the policy's or the arithmetic's."""

import math
from collections.abc import Iterable

from analysis.statistics.windows import Run
from harness.rundir.rounding import MOSTLY, clipped_by_rounding, length_needed

CLIP_LOW, CLIP_HIGH = (f"actor_rollout_ref.actor.clip_ratio_{side}" for side in ("low", "high"))
NOISE = "onpolicy_log_ratio_rms"
ABOUT_CLIPPING = ("clipped_tokens", "clipped_negatives", "positive_share")  # of ``QUANTITIES``


def mostly_rounding(run: Run) -> str:
    """One phrase if at least half of what the run clipped would be clipped by rounding alone; else "".

    Only for losses whose ratio is a sequence's: where it is a token's, rounding is far inside of any range in use.
    """
    treatment, loss = run.manifest.get("treatment") or {}, run.manifest.get("loss") or {}
    recorded = {NOISE, "clip_seqs", "clip_seqs_of", "response_length"} <= set(run.metrics)
    if loss.get("level") != "sequence_mean" or not recorded or not {CLIP_LOW, CLIP_HIGH} <= treatment.keys():
        return ""
    low, high = float(treatment[CLIP_LOW]), float(treatment[CLIP_HIGH])
    trained = run.metrics[run.metrics["response_length"].notna()]
    noise, length = math.sqrt((trained[NOISE] ** 2).mean()), trained["response_length"].mean()
    clipped = trained["clip_seqs"].sum() / max(trained["clip_seqs_of"].sum(), 1)
    rounding = clipped_by_rounding(noise, low, high)
    if not (rounding > 0 and rounding >= MOSTLY * clipped):
        return ""
    needed = length_needed(noise, length, low, high)
    return (
        f"clip fraction here is mostly arithmetic noise: rounding alone would clip {100 * rounding:.0f} % of the "
        f"responses of {run.arm}, {100 * clipped:.0f} % were; it stops mattering at about {needed:,.0f} tokens"
    )


def remarks(members: Iterable[Run]) -> str:
    """``mostly_rounding`` of the first run of each arm that has something to say, joined."""
    found: dict[str, str] = {}
    for run in members:
        if run.arm not in found and (said := mostly_rounding(run)):
            found[run.arm] = said
    return "; ".join(found.values())
