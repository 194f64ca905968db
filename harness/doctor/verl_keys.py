"""Keys of verl 0.9.1 that do not do what they seem to, each refused with what to set instead."""

from collections.abc import Mapping
from typing import Any

from harness.config import ConfigError

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
ENVIRONMENT = "ray_kwargs.ray_init.runtime_env.env_vars"
# key -> (default, what verl does with it, what to set instead).
MISLEADING = {
    f"{ACTOR}.grad_clip": (1.0, "reads it nowhere", f"{ACTOR}.optim.clip_grad"),
    f"{ACTOR}.optim.grad_clip": (None, "lets it overrule clip_grad", f"{ACTOR}.optim.clip_grad"),
    f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": (
        1,
        "also has it beside the actor, and nothing here would know of it",
        "harness.sequence_parallel_size",
    ),
    f"{ACTOR}.optim.warmup_style": (None, "lets it overrule lr_scheduler_type", f"{ACTOR}.optim.lr_scheduler_type"),
    "data.dataloader_num_workers": (0, "draws the prompts in another order with it", "data.dataloader_num_workers=0"),
    f"{ROLLOUT}.full_determinism": (
        False,
        "gives all requests one name then, so that one engine of all samples every response",
        f"+{ENVIRONMENT}.VLLM_BATCH_INVARIANT='\"1\"', with which a response depends on weights, prompt and seed alone",
    ),
}
FLASH_CROSS_ENTROPY = f"{ENVIRONMENT}.VERL_DISABLE_FLASH_ATTN_CE"


def misleading(flat: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for a key of ``MISLEADING`` that is not at its default."""
    for key, (default, what, instead) in MISLEADING.items():
        if flat.get(key, default) != default:
            raise ConfigError(f"{key}={flat[key]}: verl {what}; set {instead}")


def determinism(flat: Mapping[str, Any]) -> None:
    """verl's deterministic path takes the logarithm in the precision of the logits, which is bfloat16 on GPUs."""
    key = f"{ACTOR}.fsdp_config.full_determinism"
    if flat.get(key) and flat["trainer.device"] != "cpu" and flat.get(FLASH_CROSS_ENTROPY) != "0":
        raise ConfigError(
            f"{key}=true: verl then rounds log-probabilities to bfloat16, at which rounding decides what is clipped; "
            f"give also +{FLASH_CROSS_ENTROPY}='\"0\"', which keeps them in float32"
        )


def engine(flat: Mapping[str, Any]) -> None:
    """A setting of Megatron in a run on FSDP, such as that of ``sweep=routing_replay``."""
    found = next((key for key in flat if key.startswith(f"{ACTOR}.megatron.")), None)
    if found and flat[f"{ACTOR}.strategy"] != "megatron":
        raise ConfigError(
            f"{found}={flat[found]}: {ACTOR}.strategy is {flat[f'{ACTOR}.strategy']}, and only Megatron has it; choose "
            "an experiment on Megatron, such as experiment=text_moe"
        )
