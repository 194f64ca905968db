"""Metrics of one step, from its recorded rows: sums over sums, never means of means.

verl averages its own over micro-batches (``actor/pg_clipfrac``) or aggregates them with the loss's own weights
(``actor/entropy``), so they mean different things for different losses; these do not.
"""

from typing import Any

import numpy as np
import pandas as pd

from harness.losses.spec import LossSpec
from harness.rundir.rounding import clipped_by_rounding


def frame(rows: list[dict[str, Any]], step: int, rows_per_update: int, responses: int | None = None) -> pd.DataFrame:
    """Rows as they arrived -> one row per response with its update, padding dropped.

    verl returns the rows update by update, then rank by rank, then micro-batch by micro-batch, so a row's place tells
    its update. responses: of the step, over all epochs. Raises ValueError if the number of rows is no whole number of
    updates, or if there are more responses than that.
    """
    if not rows or len(rows) % rows_per_update:
        raise ValueError(
            f"step {step}: {len(rows)} recorded rows are no whole number of updates of {rows_per_update} responses"
        )
    sequences = pd.DataFrame(rows)
    sequences.insert(0, "step", step)
    sequences.insert(3, "update", np.arange(len(rows)) // rows_per_update + 1)
    sequences = sequences[sequences["tokens"] > 0].reset_index(drop=True)
    if responses is not None and len(sequences) > responses:  # fewer there may be: a correction can mask some out
        raise ValueError(f"step {step}: {len(sequences)} responses are recorded, the settings give {responses}")
    floats = sequences.select_dtypes("float64").columns  # they were float32 in the loss
    return sequences.astype(dict.fromkeys(floats, "float32"))


def step_metrics(sequences: pd.DataFrame, spec: LossSpec, clip: tuple[float, float] | None = None) -> dict[str, float]:
    """Standard columns of one step (``harness.rundir.STANDARD_METRICS``) and more, from its rows.

    A value that does not exist (the clip fraction where nothing was off-policy, the length of right answers where
    none was right) is left out, so it is missing in the record and not 0. clip: ``clip_range`` of the loss.
    """
    updates, sequences = sequences, sequences.drop_duplicates(["prompt_id", "sample"])  # ppo_epochs repeats responses
    tokens = sequences["tokens"]
    right, wrong, truncated = sequences["accuracy"] == 1, sequences["accuracy"] == 0, sequences["truncated"]
    groups = sequences.groupby("prompt_id")["reward"]
    metrics = {
        "response_length": tokens.mean(),
        "response_length_median": tokens.median(),
        "response_length_p90": tokens.quantile(0.9),
        "response_length_correct": tokens[right].mean(),
        "response_length_incorrect": tokens[wrong].mean(),
        "response_length_finished": tokens[~truncated].mean(),
        "response_length_truncated": tokens[truncated].mean(),
        "truncated": truncated.mean(),
        "reward": sequences["reward"].mean(),
        "accuracy": sequences["accuracy"].mean(),
        "frac_reward_zero_std": (groups.max() == groups.min()).mean(),
        "ppo_kl": -np.average(updates["log_ratio"], weights=updates["tokens"]),
        "tokens": float(tokens.sum()),
        "responses": float(len(sequences)),
    }
    for part in (name for name in sequences if str(name).startswith("reward_")):
        metrics[str(part)] = sequences[part].mean()
    if "entropy" in sequences:
        metrics["entropy"] = np.average(sequences["entropy"], weights=tokens)
    # All 0: the rollout's were taken as the old ones (verl's bypass), so there is nothing to compare.
    if "rollout_logprob_diff" in sequences and sequences["rollout_logprob_diff"].any():
        metrics["rollout_logprob_diff"] = np.average(sequences["rollout_logprob_diff"].abs(), weights=tokens)
    metrics.update(clip_metrics(updates, spec))
    if "routing_changed" in updates:
        metrics.update(routing_metrics(updates))
    if clip and spec.level == "sequence_mean" and "clip_frac_seq" in metrics:
        metrics["clip_frac_rounding"] = clipped_by_rounding(metrics["onpolicy_log_ratio_rms"], *clip)
    return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}


def clip_metrics(sequences: pd.DataFrame, spec: LossSpec) -> dict[str, float]:
    """Clip fractions pooled over updates 2..K (the first is on-policy) and over responses with advantage not 0;
    ``out_of_range_*_frac`` = tokens whose ratio is out of the range, whatever the advantage.

    ``clip_frac_token`` = clipped tokens / tokens; ``clip_frac_seq`` = mean over responses of their clipped share, which
    for sequence-level losses is the share of clipped responses. Numerators and denominators are there too, so any
    longer window pools exactly. ``onpolicy_log_ratio_rms`` = root mean square of log_ratio at the first update,
    which is rounding alone.
    """
    on_policy = sequences[sequences["update"] == 1]
    metrics = {"onpolicy_log_ratio_rms": float(np.sqrt((on_policy["log_ratio"] ** 2).mean()))}
    later = sequences[sequences["update"] > 1]
    if len(later) and spec.bounds is not None:
        for side in ("out_of_range_low", "out_of_range_high"):
            metrics[f"{side}_frac"] = later[side].sum() / later["tokens"].sum()
    later = later[later["advantage"] != 0]
    if later.empty or not spec.clips:
        return metrics
    length = later["tokens"].sum()
    share = later["clipped"] / later["tokens"]
    metrics |= {
        "clip_frac_token": later["clipped"].sum() / length,
        "clip_frac_seq": share.mean(),
        "clip_tokens": float(later["clipped"].sum()),
        "clip_tokens_of": float(length),
        "clip_seqs": float(share.sum()),
        "clip_seqs_of": float(len(later)),
    }
    for name, part in (("pos", later[later["advantage"] > 0]), ("neg", later[later["advantage"] < 0])):
        if len(part):
            metrics[f"clip_frac_{name}"] = part["clipped"].sum() / part["tokens"].sum()
    for update, part in later.groupby("update"):
        metrics[f"clip_frac_token_update{update}"] = part["clipped"].sum() / part["tokens"].sum()
    return metrics


def routing_metrics(sequences: pd.DataFrame) -> dict[str, float]:
    """``rundir.ROUTING_METRICS``: tokens that updates 2..K sent to other experts than the rollout / their tokens.

    At the first update the weights are the rollout's, so there it is rounding alone.
    """
    metrics = {}
    for update, part in sequences.groupby("update"):
        name = "onpolicy_routing_changed_frac" if update == 1 else f"routing_changed_frac_update{update}"
        metrics[name] = part["routing_changed"].sum() / part["tokens"].sum()
    later = sequences[sequences["update"] > 1]
    if len(later):
        metrics["routing_changed_frac"] = later["routing_changed"].sum() / later["tokens"].sum()
        layers = np.average(later["routing_changed_layers"], weights=later["tokens"])
        metrics["routing_changed_layers_frac"] = float(layers)
    return metrics


def validation_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """``val_response_length`` and ``val_accuracy``: the mean over data sources of verl's ``val-*/<source>/...``."""
    found: dict[str, list[float]] = {"val_response_length": [], "val_accuracy": []}
    for name, value in metrics.items():
        parts = name.split("/")  # a data source's name may have slashes of its own
        if len(parts) >= 4 and parts[0].startswith("val-") and parts[-1].startswith("mean@"):
            target = {"response_length": "val_response_length", "acc": "val_accuracy"}.get(parts[-2])
            if target:
                found[target].append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items() if values}
