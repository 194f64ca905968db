"""Other frameworks' names of metrics, and what they are here. A name is taken only where it means the same.

``DEFAULT`` holds, for each of ours, the names that are tried, in this order; a mapping of the user's own goes before.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from analysis.runs.imports import NOTES, SAME, VALIDATION
from analysis.runs.load import AnalysisError
from harness.rundir import STANDARD_METRICS

TRAIN = "train/"  # what transformers writes before a training metric to W&B, TensorBoard and Trackio
STEPS = (
    "train/global_step", "trainer/global_step", "global_step", "step", "Step", "_step", "update", "iteration",
)  # fmt: skip
EXTRA = {  # of our own metrics beyond the standard ones
    "truncated": "share of responses that were cut off at the limit",
    "frac_reward_zero_std": "share of prompts whose responses all have one reward",
    "prompt_length": "mean tokens of a prompt",
}
# verl 0.9.1's and TRL 1.16's names, and those of NeMo RL and prime-rl that are plain; names of older versions stay.
DEFAULT: dict[str, tuple[str, ...]] = {name: (name,) for name in (*STANDARD_METRICS, *EXTRA)} | {
    "response_length": (
        "response_length", SAME["response_length"], "completions/mean_length", "completion_length",
        "mean_gen_tokens_per_sample", "decode_len/all/mean", "mean_response_length", "response_length_mean",
    ),
    "reward": ("reward", SAME["reward"], "reward/all/mean", "reward/mean", "mean_reward", "reward_mean"),
    "accuracy": ("accuracy", "rewards/accuracy_reward/mean", "accuracy/mean", "mean_accuracy"),
    "val_accuracy": (
        "val_accuracy", "eval_rewards/accuracy_reward/mean", "eval/rewards/accuracy_reward/mean", "eval_accuracy",
        "eval/accuracy", "val/accuracy", "validation/accuracy",
    ),
    "val_response_length": (
        "val_response_length", "eval_completions/mean_length", "eval/completions/mean_length", "eval/response_length",
        "val/response_length",
    ),
    "grad_norm": ("grad_norm", SAME["grad_norm"], "optim/grad_norm"),
    "ppo_kl": ("ppo_kl", SAME["ppo_kl"]),
    "step_seconds": ("step_seconds", SAME["step_seconds"], "step_time", "timing/train/total_step_time"),
    "truncated": ("truncated", "completions/clipped_ratio", "is_truncated/all/mean"),
    "prompt_length": ("prompt_length", "prompt_length/mean"),
}  # fmt: skip
TOTAL_TOKENS = "perf/total_num_tokens"  # verl's, prompts included
SUMS = frozenset({"tokens", "step_seconds"})  # over the steps that are put together; all others are averaged
LASTS = frozenset({"cumulative_tokens", "val_accuracy", "val_response_length"})
SHARES = frozenset(
    name for name in DEFAULT if "accuracy" in name or name.startswith(("clip_frac", "truncated", "frac_"))
)
NOT_TAKEN = {  # their name -> why it is not ours, where one could think so
    "actor/entropy": NOTES["actor/entropy"],
    "actor/pg_clipfrac": NOTES["actor/pg_clipfrac"],
    "clip_ratio/region_mean": "clip_ratio/region_mean is a mean over micro-batches of their means, the on-policy "
    "update among them: not taken for clip_frac_token",
    "num_tokens": "num_tokens counts prompts too: not taken for tokens",
    "kl": "kl is to the reference model: not taken for ppo_kl, which is to the policy that sampled",
}
APPROXIMATE = {
    "actor/ppo_kl": NOTES["actor/ppo_kl"],
    "entropy": "entropy is as it was logged; TRL's is a mean over micro-batches and updates: approximate",
}


@dataclass(frozen=True)
class Column:
    """Where one of our metrics comes from: their name, and what its values are multiplied by."""

    theirs: str
    scale: float = 1.0


@dataclass(frozen=True)
class Mapped:
    """A user's mapping (``read_mapping``). columns: ours -> theirs. where: column -> value of the rows to take."""

    step: str | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)


def candidates(mapped: Mapped) -> dict[str, tuple[Column, ...]]:
    """Ours -> where it may come from, the first that has a value: the user's choice alone, or the usual names."""
    found = {name: tuple(Column(theirs) for theirs in _prefixed(names)) for name, names in DEFAULT.items()}
    return found | {name: (column,) for name, column in mapped.columns.items()}


def validation_of(name: str) -> str:
    """Which of ours verl's name of a validation is a part of, one a data source; "" for any other name."""
    return next((ours for ours, pattern in VALIDATION.items() if re.fullmatch(pattern, name)), "")


def bare(name: str) -> str:
    """A name without what transformers writes before it."""
    return name.removeprefix(TRAIN)


def read_mapping(file: Path | None) -> Mapped:
    """A user's YAML: step, columns (ours: theirs, or ours: {from: theirs, scale: 0.01}), settings, where.

    Raises ``AnalysisError`` for a file that cannot be read, a key that none is, or a metric that is not ours.
    """
    if file is None:
        return Mapped()
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AnalysisError(f"{file}: not readable as YAML ({' '.join(str(error).split())})") from None
    parts = ("columns", "where", "settings")
    if not isinstance(content, dict) or not all(isinstance(content.get(key) or {}, dict) for key in parts):
        raise AnalysisError(f"{file}: expected step, columns, settings and where, such as columns: {{reward: score}}")
    if unknown := content.keys() - {"step", *parts}:
        raise AnalysisError(f"{file}: unknown key {sorted(unknown)[0]}; there are step, columns, settings, where")
    columns = {str(ours): _column(str(ours), given, file) for ours, given in (content.get("columns") or {}).items()}
    where = {str(key): str(value) for key, value in (content.get("where") or {}).items()}
    return Mapped(content.get("step"), columns, content.get("settings") or {}, where)


def _column(ours: str, given: Any, file: Path) -> Column:
    if ours not in DEFAULT and "/" not in ours:
        near = difflib.get_close_matches(ours, DEFAULT, n=1, cutoff=0.5)
        hint = f"; the nearest is {near[0]}" if near else ""
        raise AnalysisError(
            f"{file}: no metric here is called {ours}{hint}; others of your own need a slash in the name"
        )
    if isinstance(given, str):
        return Column(given)
    try:
        return Column(str(given["from"]), float(given.get("scale", 1)))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise AnalysisError(f"{file}: {ours}: expected a column, or {{from: COLUMN, scale: NUMBER}}") from None


def _prefixed(names: tuple[str, ...]) -> list[str]:
    own = [name for name in names if not name.startswith(("eval", "val"))]
    return [*names, *(TRAIN + name for name in own)]
