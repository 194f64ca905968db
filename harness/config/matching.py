"""What makes two runs comparable: every configuration key is treatment, execution, seed or controlled.

The fingerprint is the hash of what is controlled. A contrast between arms requires equal fingerprints.
"""

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.config import digest
from harness.paths import ROOT
from harness.rundir import CODE

# The only keys that conf/algo and conf/clip may set.
TREATMENT = (
    "actor_rollout_ref.actor.policy_loss.*",
    "actor_rollout_ref.actor.loss_agg_mode",
    "actor_rollout_ref.actor.loss_scale_factor",
    "critic.loss_agg_mode",  # these two follow the actor's; there is no critic
    "critic.loss_scale_factor",
    "actor_rollout_ref.actor.clip_ratio",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
    "actor_rollout_ref.actor.clip_ratio_c",
    "actor_rollout_ref.actor.tau_pos",
    "actor_rollout_ref.actor.tau_neg",
    "algorithm.adv_estimator",
    "algorithm.norm_adv_by_std_in_grpo",
    "code.loss",  # of the hashes of code (``harness.config.code``) the one that belongs to the algorithm
)
# Keys that cannot change what is learnt: names, paths, logging, frequencies, resources, offloading.
EXECUTION = (
    "harness.*",
    "ray_kwargs.*",
    "global_profiler.*",
    "*.profiler.*",
    "skip.*",
    "transfer_queue.*",
    "trainer.project_name",
    "trainer.experiment_name",
    "trainer.logger",
    "trainer.log_val_generations",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
    "trainer.default_local_dir",
    "trainer.default_hdfs_dir",
    "trainer.save_freq",
    "trainer.test_freq",
    "trainer.val_before_train",
    "trainer.resume_mode",
    "trainer.resume_from_path",
    "trainer.del_local_ckpt_after_load",
    "trainer.max_actor_ckpt_to_keep",
    "trainer.max_critic_ckpt_to_keep",
    "trainer.total_epochs",
    "trainer.esi_redundant_time",
    "trainer.checkpoint_callback_class",
    "trainer.ray_wait_register_center_timeout",
    "data.dataloader_num_workers",
    "data.filter_overlong_prompts_workers",
    "actor_rollout_ref.nccl_timeout",
    "actor_rollout_ref.model.external_lib",
    "actor_rollout_ref.actor.checkpoint.*",
    "*.param_offload",
    "*.optimizer_offload",
    "*.grad_offload",
    "*.offload_policy",
    "actor_rollout_ref.rollout.agent.num_workers",
    "actor_rollout_ref.rollout.engine_kwargs.transformers.*",
    "actor_rollout_ref.rollout.gpu_memory_utilization",
    "actor_rollout_ref.rollout.trace.*",
    "actor_rollout_ref.rollout.prometheus.*",
    "reward.num_workers",
    "reward.reward_kwargs.pool.workers",
)
# Keys that are the run's one seed; a value that differs from it is controlled instead.
SEED = (
    "seed",
    "data.seed",
    "actor_rollout_ref.rollout.seed",
    "actor_rollout_ref.actor.data_loader_seed",
    "actor_rollout_ref.actor.fsdp_config.seed",
    "actor_rollout_ref.actor.megatron.seed",
)
# Paths; their content's hash is controlled in their place.
CONTENT = {
    "data.train_files": "hash.train_data",
    "data.val_files": "hash.heldout_data",
    "actor_rollout_ref.model.path": "hash.model",
    "harness.fork_from": "hash.fork",
}
STEPS = "trainer.total_training_steps"
STRATEGY = "actor_rollout_ref.actor.strategy"
OPTIMIZER = "actor_rollout_ref.actor.optim"
# Groups of the command line that are named elsewhere in a run's path, or cannot change what is learnt.
NOT_IN_ARM = ("algo", "clip", "experiment", "seed", "sweep", "tracking")
# Of our own keys, which are no part of the fingerprint themselves, the ones that change others that are.
HARNESS_IN_ARM = (
    "harness.asset_seed",
    "harness.mean_length",
    "harness.importance_sampling_level",
    "harness.published_clip*",
    "harness.sequence_clip*",
    "harness.clip_range*",
)


@dataclass(frozen=True)
class Kinds:
    """A flat configuration, sorted by kind."""

    treatment: dict[str, Any]
    execution: dict[str, Any]
    seed: dict[str, Any]
    controlled: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return digest(self.controlled)


def is_execution(key: str, flat: dict[str, Any]) -> bool:
    """Whether a key cannot change what is learnt; the planned steps only where the schedule ignores them."""
    if key == STEPS:
        warm_up_is_a_share = (flat.get(f"{OPTIMIZER}.lr_warmup_steps") or -1) < 0 and (
            (flat.get(f"{OPTIMIZER}.lr_warmup_steps_ratio") or 0) > 0
        )
        schedule = "lr_decay_style" if flat.get(STRATEGY) == "megatron" else "lr_scheduler_type"
        return flat.get(f"{OPTIMIZER}.{schedule}") == "constant" and not warm_up_is_a_share
    return _matches(key, EXECUTION)


def classify(flat: dict[str, Any], hashes: dict[str, str]) -> Kinds:
    """Sort a flat configuration (``config.flatten``) by kind; hashes: of ``content_hashes`` and ``code.hashes``."""
    kinds = Kinds({}, {}, {}, {})
    for key, value in hashes.items():
        (kinds.treatment if _matches(key, TREATMENT) else kinds.controlled)[key] = value
    for key, value in flat.items():
        if key in CONTENT:
            kinds.execution[key] = value
        elif key in SEED and value == flat["seed"]:
            kinds.seed[key] = value
        elif _matches(key, TREATMENT):
            kinds.treatment[key] = value
        elif is_execution(key, flat):
            kinds.execution[key] = value
        else:
            kinds.controlled[key] = value
    return kinds


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """``{key: (value in a, value in b)}`` of the keys whose values differ, missing ones as None.

    A hash of code that one side lacks is no difference: runs from before it was recorded do not say.
    """
    keys = {k for k in a.keys() | b.keys() if not k.startswith(CODE) or (k in a and k in b)}
    return {k: (a.get(k), b.get(k)) for k in sorted(keys) if a.get(k) != b.get(k)}


def content_hashes(flat: dict[str, Any]) -> dict[str, str]:
    """SHA-256 (16 hex digits) of the data files and of the initial model's folder, under the names of ``CONTENT``.

    A model that is no local folder (a hub name) stands for itself.
    """
    hashes = {}
    for key, name in CONTENT.items():
        value = flat.get(key)
        if value is None:  # only forks start from a checkpoint
            continue
        paths = [Path(p).expanduser() for p in (value if isinstance(value, list) else [value])]
        hashes[name] = digest([content_hash(p) if p.exists() else str(p) for p in paths])
    return hashes


def arm_name(flat: dict[str, Any], overrides: list[str]) -> str:
    """``luspo``, ``gspo,clip=own``, ``luspo,lr=2e-06``: the algorithm and whatever else was asked for.

    overrides: of ``config.effective``, so that what holds anyway makes no arm. Those that cannot change what is learnt
    make none either. Raises nothing; the name is safe as a folder.
    """
    parts = [flat["harness.algo"]]
    if flat["harness.clip"] != flat["harness.default_clip"]:
        parts.append(f"clip={flat['harness.clip']}")
    words = [(_key(word), word.partition("=")[2]) for word in overrides if may_make_an_arm(word, flat)]
    extra = [f"{_short(key, flat)}={_canonical(value)}" for key, value in words]
    name = ",".join(parts + sorted(extra))
    safe = "".join(c if c.isalnum() or c in "=,.+-_" else "_" for c in name)
    return safe if len(safe) <= 120 else f"{safe[:100]}-{digest(name)}"


def may_make_an_arm(override: str, flat: dict[str, Any]) -> bool:
    """Whether an override can change what is learnt and is not named elsewhere in the run's path."""
    key = _key(override)
    return key not in NOT_IN_ARM and (_matches(key, HARNESS_IN_ARM) or not is_execution(key, flat))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def run_path(flat: dict[str, Any], overrides: list[str]) -> Path:
    """``<root>/<experiment>/<arm>/seed=<n>`` of a flat configuration and its command line's overrides."""
    experiment = flat["harness.experiment"] + flat["harness.suffix"]
    return ROOT / flat["harness.root"] / experiment / arm_name(flat, overrides) / f"seed={flat['seed']}"


def _short(key: str, flat: dict[str, Any]) -> str:
    """The shortest end of a key that no other key shares: within ``actor_rollout_ref`` for its own, else everywhere."""
    top = "actor_rollout_ref."
    others = [k for k in flat if k != key and (not key.startswith(top) or k.startswith(top))]
    parts = key.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not any(other.endswith(f".{end}") for other in others):
            return end
    return key


def _canonical(value: str) -> str:
    """One spelling of a number: 2e-6, 2.0e-06 and 0.000002 are the same arm."""
    try:
        return repr(float(value)) if not value.lstrip("-").isdigit() else value
    except ValueError:
        return str(yaml.safe_load(value)) if value in ("true", "false", "True", "False") else value


@cache
def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def content_hash(path: Path) -> str:
    """Hash of a file, or of all files of a folder with their names. Hidden files are no content: a download leaves its
    time stamps in ``.cache``."""
    total = hashlib.sha256()
    inside = (p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
    for file in [path] if path.is_file() else sorted(inside):
        total.update((file.name if path.is_file() else str(file.relative_to(path))).encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
