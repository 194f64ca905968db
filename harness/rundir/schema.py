"""What a run directory contains, as data: file names, columns and metrics with a sentence each, and older names."""

from collections.abc import Mapping
from typing import Any

from harness.rundir.known_losses import loss_of

SCHEMA_VERSION = 2  # of manifest.json; 1: the names on the left of RENAMED
CODE = "code."  # begins the keys of a manifest that are hashes of source code
STATES = ("planned", "running", "done", "failed", "incomplete")
# Causes of a failure (``harness.run.failures.CAUSES``) that say nothing of the loss; "alert" and "error" may.
MACHINE_CAUSES = frozenset(
    ("memory", "lost", "timeout", "preempted", "checkpoint", "disk", "settings", "engine", "interrupted")
)
HEARTBEAT_SECONDS = 10
STALE_SECONDS = 12 * HEARTBEAT_SECONDS

# Files that a launcher leaves before there is a run: who was told to train it, and what that process said.
SUBMISSION = "submission.json"
LAUNCH_LOG = "launch.log"
BEING_TRAINED = "is being trained"  # in what it said: refused now, and not for ever
# In an attempt's folder: why its training process ended, and a file whose presence asks it to end.
ERROR_FILE = "error.json"
STOP_FILE = "stop"
STAGE_FILE = "stage"  # of an attempt: what it is doing before its first step
LAUNCHER_FOLDER = "launcher"  # whatever else it needs
BEFORE_A_RUN = frozenset({".lock", SUBMISSION, LAUNCH_LOG, LAUNCHER_FOLDER})

# Columns that every sequences file has; besides them one ``reward_<part>`` per part of the reward.
SEQUENCE_COLUMNS = {
    "step": "rollout step, from 1",
    "prompt_id": "the data set's unique integer index",
    "sample": "0..n-1 within the prompt's group",
    "update": "1..K, the update of this step that used the response; the first is on-policy",
    "prompt_tokens": "tokens of the prompt",
    "tokens": "|y|, tokens of the response",
    "truncated": "as long as the limit and not ended by EOS",
    "reward": "sum of the reward's parts",
    "accuracy": "1 correct, 0 incorrect",
    "advantage": "A_i, the same for all tokens of the response",
    "log_ratio": "mean over tokens of log pi_theta - log pi_old, at the response's update",
    "out_of_range_low": "tokens whose ratio is below 1 - clip_ratio_low (sequence-level losses: all or none)",
    "out_of_range_high": "tokens whose ratio is above 1 + clip_ratio_high; both NaN for a loss without a range",
    "clipped": "tokens with advantage not 0 whose surrogate has gradient 0",
    "effective_ratio": "mean over tokens of (ratio if not clipped else 0); else derivative over its on-policy value",
    "gradient_weight": "sum over tokens of |dL/dlogp|, free of the number of ranks",
    "entropy": "mean over tokens of the policy's entropy at the rollout, nats",
    "response_hash": "CRC-32 of the response's token ids",
    "rollout_logprob_diff": "mean over tokens of log pi_old - log pi_rollout; 0 but for rounding if engines agree, "
    "exactly 0 where pi_rollout is taken for pi_old (bypass_mode)",
}

# Further ones of a mixture of experts whose rollout says which ones it chose (``harness.plugin.routing``).
ROUTING_COLUMNS = {
    "routing_changed": "tokens that the response's update sends to another set of experts than the rollout did, in any "
    "layer; a token counts where it is predicted, which is the position before it",
    "routing_changed_layers": "mean over its tokens of the share of layers whose set of experts is another one",
}

# Keys of a line of texts.jsonl. What is not known of a response is null.
TEXT_COLUMNS = {
    "of": "validation, or training: the first response to two of the step's prompts",
    "step": "of the rollout, from 1; of a validation the steps trained before it, from 0",
    "prompt_id": "of a validation prompt its place in the data, from 0; of a training prompt as in the responses",
    "sample": "0..n-1 within the prompt's group",
    "prompt": "text of the prompt, as the model reads it, without special tokens",
    "response": "text of the response, without special tokens",
    "tokens": "|y|, tokens of the response",
    "accuracy": "1 correct, 0 incorrect",
    "truncated": "as long as the limit and not ended by EOS",
    "clipped": "tokens with advantage not 0 whose surrogate has gradient 0; of a validation null: nothing is updated",
}

# Columns of every evaluation file.
EVAL_COLUMNS = {
    "question": "the question's unique integer in its benchmark",
    "sample": "0..k-1 within the question",
    "correct": "1 correct, 0 incorrect",
    "tokens": "tokens of the response",
    "truncated": "as long as the limit and not ended by EOS",
    "outcome": "what the grader said: right, wrong, timeout, error",
    "answer": "the answer as the grader reads it, one text for equal ones; empty without one, or if not recorded",
    "step": "of the checkpoint that was evaluated, 0 for the initial model",
    "settings": "hash of how it was sampled and graded (``settings_hash``); results of others never share a table",
}

# Metrics of our own in metrics.jsonl; verl's names all contain a slash. Further ones are recorded where they exist.
STANDARD_METRICS = {
    "response_length": "mean tokens of a response of this step's rollout",
    "val_response_length": "the same, of the validation",
    "clip_frac_token": "clipped tokens / all tokens",
    "clip_frac_seq": "mean over responses of the clipped share of their tokens",
    "clip_frac_rounding": "clipped responses that rounding alone would make, of losses with a sequence's ratio",
    "clip_frac_pos": "clipped tokens / all tokens, of responses with positive advantage",
    "clip_frac_neg": "the same, of responses with negative advantage",
    "reward": "mean reward of a response",
    "accuracy": "correct responses / all responses",
    "entropy": "the policy's entropy at the rollout, nats a token",
    "grad_norm": "norm of the gradient before it is clipped, mean over the step's updates",
    "ppo_kl": "mean over tokens of log pi_old - log pi_theta, at each response's update",
    "tokens": "tokens of all responses of this step",
    "cumulative_tokens": "the same, summed over all steps so far",
    "step_seconds": "wall-clock seconds of the step, without the time of saving a checkpoint",
}

# Further ones where the rows have ``ROUTING_COLUMNS``.
ROUTING_METRICS = {
    "routing_changed_frac": "tokens that go to other experts than at the rollout, in any layer / all tokens, of the "
    "updates after the first",
    "routing_changed_frac_update<i>": "the same, of the update i = 2..K alone: what i - 1 updates have changed",
    "routing_changed_layers_frac": "as `routing_changed_frac`, but each layer of a token counts by itself",
    "onpolicy_routing_changed_frac": "the same as the first, of the first update, whose weights are the rollout's: "
    "rounding alone",
}

# Names of schema 1, which stay readable: columns of responses, and metrics.
RENAMED = {
    "kept_ratio": "effective_ratio",
    "outside_low": "out_of_range_low",
    "outside_high": "out_of_range_high",
    "pull": "gradient_weight",
    "rollout_gap": "rollout_logprob_diff",
    "ratio_noise": "onpolicy_log_ratio_rms",
    "groups_without_variance": "frac_reward_zero_std",
    "response_length_right": "response_length_correct",
    "response_length_wrong": "response_length_incorrect",
}
SETTINGS_RENAMED = {
    "harness.ratio": "harness.importance_sampling_level",
    "harness.own_clip": "harness.published_clip",
    "harness.sequence_ranks": "harness.sequence_parallel_size",
}
VALUES_RENAMED = {"harness.plugin.losses.FSPOConfig": "harness.losses.fspo_config.FSPOConfig"}
KINDS = ("controlled", "treatment", "execution")  # what a manifest sorts every configuration key into


def renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the names of schema 1 replaced; a row that has none is returned as it is."""
    if RENAMED.keys().isdisjoint(row):
        return dict(row)
    return {RENAMED.get(name, name): value for name, value in row.items()}


def setting(key: str) -> str:
    """A configuration key's name of today."""
    for old, new in SETTINGS_RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def upgraded(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest of schema 1 as schema 2 would have written it; one without its loss (imported) is told it.

    What is renamed is no part of the fingerprint.
    """
    if manifest.get("schema", 0) >= SCHEMA_VERSION and "loss" in manifest:
        return manifest
    content: dict[str, Any] = {"schema": SCHEMA_VERSION}
    for kind in KINDS:
        if isinstance(manifest.get(kind), dict):
            content[kind] = {setting(key): _value(value) for key, value in manifest[kind].items()}
    if "loss" not in manifest and (loss := loss_of(manifest)):
        content["loss"] = loss
    return manifest | content


def _value(value: Any) -> Any:
    return VALUES_RENAMED.get(value, value) if isinstance(value, str) else value
