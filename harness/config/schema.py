"""What a setting may be: types and ranges of the settings that users change, and for all others the default's type."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.config.errors import ConfigError

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


@dataclass(frozen=True)
class Number:
    """A finite number: whole or not, from ``least`` (or above it) to ``most``; ``null``: may be null as well."""

    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    above: bool = False  # least itself is out
    null: bool = False

    def problem(self, value: Any) -> str:
        """What the value must be, or nothing if it is."""
        if value is None and self.null:
            return ""
        if not isinstance(value, int if self.whole else int | float) or isinstance(value, bool):
            return f"must be {self}"
        inside = self.least <= value <= self.most and not (self.above and value == self.least)
        return "" if inside and math.isfinite(value) else f"must be {self}"

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
        between = f"from {self.least:g} to {self.most:g}" if not self.above else f"{low}, at most {self.most:g}"
        bounds = "" if self.least == -math.inf else f" {between if self.most < math.inf else low}"
        return kind + bounds + (" or null" if self.null else "")


COUNT, COUNT_OR_NULL = Number(whole=True, least=1), Number(whole=True, least=1, null=True)
SEED = Number(whole=True, least=0)
WHOLE = Number(whole=True)
POSITIVE, NOT_NEGATIVE = Number(least=0, above=True), Number(least=0)
SHARE = Number(least=0, most=1)

SCHEMA: dict[str, Number] = {
    "seed": SEED,
    "harness.asset_seed": SEED,
    "harness.text_prompts": Number(whole=True, least=0),
    "harness.memory_gb": POSITIVE,
    "harness.mean_length": POSITIVE,
    "harness.cpu.start_seconds": NOT_NEGATIVE,
    "harness.cpu.response_seconds": POSITIVE,
    "harness.sequence_parallel_size": COUNT,
    "harness.watch.start_seconds": POSITIVE,
    "harness.watch.stall_seconds": POSITIVE,
    "harness.watch.stall_factor": POSITIVE,
    "harness.watch.grace_seconds": NOT_NEGATIVE,
    "harness.watch.collapse_share": SHARE,
    "harness.watch.cap_share": SHARE,
    "trainer.total_training_steps": COUNT,
    "trainer.save_freq": WHOLE,
    "trainer.test_freq": WHOLE,
    "trainer.nnodes": COUNT,
    "trainer.n_gpus_per_node": COUNT,
    "trainer.max_actor_ckpt_to_keep": COUNT_OR_NULL,
    "data.train_batch_size": COUNT,
    "data.max_prompt_length": COUNT,
    "data.max_response_length": COUNT,
    f"{ACTOR}.ppo_mini_batch_size": COUNT,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": COUNT_OR_NULL,
    f"{ACTOR}.ppo_max_token_len_per_gpu": COUNT,
    f"{ACTOR}.ppo_epochs": COUNT,
    f"{ACTOR}.clip_ratio": NOT_NEGATIVE,
    f"{ACTOR}.clip_ratio_low": Number(least=0, null=True),
    f"{ACTOR}.clip_ratio_high": Number(least=0, null=True),
    f"{ACTOR}.clip_ratio_c": Number(least=1, above=True),
    f"{ACTOR}.optim.lr": NOT_NEGATIVE,
    f"{ACTOR}.optim.clip_grad": POSITIVE,
    f"{ACTOR}.optim.weight_decay": NOT_NEGATIVE,
    f"{ACTOR}.optim.lr_warmup_steps_ratio": SHARE,
    f"{ACTOR}.entropy_coeff": Number(),
    f"{ACTOR}.kl_loss_coef": Number(),
    f"{ROLLOUT}.n": COUNT,
    f"{ROLLOUT}.temperature": POSITIVE,
    f"{ROLLOUT}.top_p": Number(least=0, most=1, above=True),
    f"{ROLLOUT}.top_k": WHOLE,
    f"{ROLLOUT}.response_length": COUNT,
    f"{ROLLOUT}.max_model_len": COUNT_OR_NULL,
    f"{ROLLOUT}.tensor_model_parallel_size": COUNT,
    f"{ROLLOUT}.gpu_memory_utilization": Number(least=0, most=1, above=True),
    f"{ROLLOUT}.val_kwargs.n": COUNT,
    f"{ROLLOUT}.val_kwargs.temperature": NOT_NEGATIVE,
    f"{ROLLOUT}.val_kwargs.top_p": Number(least=0, most=1, above=True),
}


def check(flat: dict[str, Any], given: Iterable[str] = (), defaults: dict[str, Any] | None = None) -> None:
    """Raise ``ConfigError`` for the first setting that cannot be what it is.

    flat: resolved configuration. given: the keys of the command line, which are held against the type of their
    ``defaults`` where ``SCHEMA`` has no row for them.
    """
    for key, number in SCHEMA.items():
        if key in flat and (problem := number.problem(flat[key])):
            raise ConfigError(f"{key}={_shown(flat[key])}: {problem}")
    for key in given:
        if key in SCHEMA or not defaults:
            continue
        inside = [name for name in defaults if name.startswith(f"{key}.")]
        if inside and key in flat and flat[key] != {}:
            raise ConfigError(f"{key}={_shown(flat[key])}: a group of settings; set one of them, such as {inside[0]}")
        if key in defaults and key in flat and (kind := _other_type(defaults[key], flat[key])):
            raise ConfigError(f"{key}={_shown(flat[key])}: must be {kind} (default: {_shown(defaults[key])})")


def _other_type(default: Any, value: Any) -> str:
    """The type that a setting must have, as ``default`` has it, or nothing where ``value`` has it. null fits all."""
    if default is None or value is None:
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if isinstance(default, str):
        return "" if not isinstance(value, dict | bool) else "a text"
    if isinstance(default, list):
        return "" if isinstance(value, list | str) else "a list, [a,b]"
    return ""


def _shown(value: Any) -> str:
    """As it is written on a command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
