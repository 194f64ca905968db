"""Everything about a run that can be found wrong before it starts, each as one line with its remedy."""

import math
import os
from collections.abc import Iterator
from typing import Any

from harness.config import ConfigError, schema
from harness.config.secrets import refuse_secrets
from harness.doctor import files, verl_keys
from harness.grading import components
from harness.losses.registry import spec_of
from harness.paths import LONGEST_RAY_FOLDER
from harness.run.arithmetic import comparable, token_noise
from harness.rundir.rounding import BF16_TOKEN_NOISE, clipped_by_rounding, length_needed

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
ATTENTION, FLASH = "actor_rollout_ref.model.override_config.attn_implementation", "flash_attention_2"  # verl's default
OURS = ("harness.", "data.", "trainer.", "reward.reward_kwargs.")  # verl leaves values open that it never reads
# What the transformers rollout does not do: key -> the only value, and why.
TRANSFORMERS = (
    ("tensor_model_parallel_size", 1, "has no parallelism within a replica"),
    ("max_model_len", None, "does not read it; data.max_response_length is the limit"),
)
SEQUENCE_RANGE_LIMIT = 0.05  # the usual ranges of a sequence's mean ratio are a hundred times smaller than a token's


def check(flat: dict[str, Any]) -> list[str]:
    """Warnings about a flat resolved configuration with assets built; raises ``ConfigError`` at the first thing that
    cannot work."""
    settings(flat)
    files.check(flat)
    return list(warnings(flat))


def settings(flat: dict[str, Any]) -> None:
    """Raise ``ConfigError`` for the first of ``SETTINGS`` that is broken; nothing needs to be built for that."""
    for rule in SETTINGS:
        rule(flat)


def _open_values(flat: dict[str, Any]) -> None:
    for key, value in flat.items():
        if value == "???" and key.startswith(OURS):
            raise ConfigError(f"{key} has no value; give {key}=..., or an experiment or task that sets it")


def _unsupported(flat: dict[str, Any]) -> None:
    if (flat["trainer.max_actor_ckpt_to_keep"] or 2) < 2:
        raise ConfigError(
            "trainer.max_actor_ckpt_to_keep must be 2 or more: a kill between checkpoint and metrics goes back one"
        )
    if flat.get(f"{ACTOR}.checkpoint.async_save"):
        raise ConfigError(
            f"{ACTOR}.checkpoint.async_save=true: such a checkpoint cannot be checked for completeness; set it to false"
        )
    if flat["trainer.device"] == "cpu" and flat[f"{ACTOR}.use_kl_loss"]:
        raise ConfigError(f"{ACTOR}.use_kl_loss=true does not run on CPU: verl's reference model pins memory")
    if flat["trainer.v1.trainer_mode"] != "sync":
        raise ConfigError(
            "trainer.v1.trainer_mode must be sync: recording and matched rollouts are defined for it only"
        )
    if flat[f"{ROLLOUT}.name"] == "transformers":
        for key, default, why in TRANSFORMERS:
            if flat[f"{ROLLOUT}.{key}"] != default:
                given = f"{ROLLOUT}.{key}={flat[f'{ROLLOUT}.{key}']}"
                raise ConfigError(f"{given}: must be {default or 'null'} with {ROLLOUT}.name=transformers, which {why}")


def _sequence_parallel(flat: dict[str, Any]) -> None:
    ranks, attention = flat.get(f"{ACTOR}.ulysses_sequence_parallel_size", 1), flat.get(ATTENTION, FLASH)
    if flat[f"{ACTOR}.strategy"] != "megatron" and ranks > 1 and attention != FLASH:
        raise ConfigError(
            f"{ACTOR}.ulysses_sequence_parallel_size={ranks} needs {ATTENTION}={FLASH}, got {attention}: verl shares a "
            "response between GPUs in flash attention only, and with another each would attend to its own part alone"
        )


def _rollout_correction(flat: dict[str, Any]) -> None:
    """verl's rollout log-probabilities are of what top_p and top_k leave, the trainer's of the whole distribution."""
    used = [key for key in ("rollout_is", "rollout_rs") if flat.get(f"algorithm.rollout_correction.{key}")]
    if used and not comparable(flat):
        raise ConfigError(
            f"algorithm.rollout_correction.{used[0]} with {ROLLOUT}.top_p={flat[f'{ROLLOUT}.top_p']:g}, "
            f"top_k={flat[f'{ROLLOUT}.top_k']}: the rollout's probabilities are of the cut distribution, so every "
            f"weight would be wrong by the same factor; set {ROLLOUT}.top_p=1 and top_k=-1, or no correction"
        )


def _bypass(flat: dict[str, Any]) -> None:
    """Where the rollout's log-probabilities are taken as the old ones, they must be of the whole distribution."""
    bypass, correction = "algorithm.rollout_correction.bypass_mode", "algorithm.rollout_correction"
    if not flat.get(bypass):
        return
    if not comparable(flat):
        raise ConfigError(
            f"{bypass}=true with {ROLLOUT}.top_p={flat[f'{ROLLOUT}.top_p']:g}, top_k={flat[f'{ROLLOUT}.top_k']}: the "
            f"rollout's probabilities are of the cut distribution, so no ratio would be 1 on-policy; set {bypass}=false"
        )
    if used := [key for key in ("rollout_is", "rollout_rs") if flat.get(f"{correction}.{key}")]:
        raise ConfigError(
            f"{bypass}=true with {correction}.{used[0]}: verl would compare the rollout's probabilities with "
            f"themselves; set {bypass}=false"
        )


def _equal_pairs(flat: dict[str, Any]) -> None:
    for one, other in (("response_length", "max_response_length"), ("prompt_length", "max_prompt_length")):
        if flat[f"{ROLLOUT}.{one}"] != flat[f"data.{other}"]:
            raise ConfigError(
                f"{ROLLOUT}.{one}={flat[f'{ROLLOUT}.{one}']} is not data.{other}={flat[f'data.{other}']}: the engine "
                f"would cut at the one, and the record and the reward would judge by the other; set data.{other} alone"
            )


def _loss(flat: dict[str, Any]) -> None:
    """Settings that a loss would ignore, or at which it would be another loss."""
    mode, aggregation = flat[f"{ACTOR}.policy_loss.loss_mode"], flat[f"{ACTOR}.loss_agg_mode"]
    if aggregation == "seq-mean-token-sum-norm" and not (flat[f"{ACTOR}.loss_scale_factor"] or 0) > 0:
        raise ConfigError(
            f"{ACTOR}.loss_scale_factor must be a number of tokens with seq-mean-token-sum-norm: at null verl divides "
            "by the width of whatever micro-batch a response is in"
        )
    spec = spec_of(mode)
    if spec.aggregations and aggregation not in spec.aggregations:
        raise ConfigError(
            f"{mode} with {ACTOR}.loss_agg_mode={aggregation} is another loss, or verl ignores the key; set it to "
            f"{' or '.join(spec.aggregations)}"
        )
    if spec.rule and (reason := spec.rule(flat)):
        raise ConfigError(reason)


def _batch_sizes(flat: dict[str, Any]) -> None:
    prompts, mini = flat["data.train_batch_size"], flat[f"{ACTOR}.ppo_mini_batch_size"]
    n, ranks = flat[f"{ROLLOUT}.n"], flat["trainer.nnodes"] * flat["trainer.n_gpus_per_node"]
    if prompts % mini:
        raise ConfigError(
            f"{ACTOR}.ppo_mini_batch_size={mini} does not divide data.train_batch_size={prompts} prompts; "
            f"nearest that do: {_nearest(prompts, mini)}"
        )
    if (mini * n) % ranks:
        step = ranks // math.gcd(mini, ranks)  # valid group sizes are its multiples
        raise ConfigError(
            f"an update's {mini} prompts x {n} responses cannot be split evenly over {ranks} ranks; "
            f"{ROLLOUT}.n could be {max(step, round(n / step) * step)}"
        )
    micro = flat[f"{ACTOR}.ppo_micro_batch_size_per_gpu"]
    if flat[f"{ACTOR}.use_dynamic_bsz"]:
        return
    if micro is None:
        raise ConfigError(f"set {ACTOR}.ppo_micro_batch_size_per_gpu (responses) or {ACTOR}.use_dynamic_bsz=true")
    per_rank = mini * n // ranks
    if per_rank % micro:
        raise ConfigError(
            f"{ACTOR}.ppo_micro_batch_size_per_gpu={micro} does not divide the {per_rank} responses of an update on a "
            f"rank; nearest that do: {_nearest(per_rank, micro)}"
        )


def _nearest(total: int, wanted: int) -> str:
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    below, above = [d for d in divisors if d < wanted], [d for d in divisors if d > wanted]
    return " or ".join(str(d) for d in ([*below[-1:], *above[:1]] if above else below[-2:]))


def warnings(flat: dict[str, Any]) -> Iterator[str]:
    high = flat[f"{ACTOR}.clip_ratio_high"]
    high = flat[f"{ACTOR}.clip_ratio"] if high is None else high
    if clips_sequences(flat) and high >= SEQUENCE_RANGE_LIMIT:
        yield (
            f"{flat['harness.algo']} clips the ratio of sequences, whose usual range is 2e-3/2.5e-3 (LUSPO) or "
            f"3e-4/4e-4 (GSPO); at {high:g} nothing will ever be clipped"
        )
    if flat["harness.clip"] == "shared" and flat["harness.importance_sampling_level"] == "token":
        yield f"clip=shared gives a token-level loss the range {high:g}, at which it clips more than the others do"
    for key in ("actor_rollout_ref.model.trust_remote_code", "data.trust_remote_code"):
        if flat.get(key):
            yield f"{key}=true runs Python code that comes with the model's files"
    yield from _rounding(flat, high)
    if flat["trainer.save_freq"] <= 0:
        yield "trainer.save_freq is off: an interrupted run starts again from step 1"


def clips_sequences(flat: dict[str, Any]) -> bool:
    """Whether the loss clips, and by the ratio of a whole response."""
    clips = spec_of(flat[f"{ACTOR}.policy_loss.loss_mode"]).clips
    return clips and flat["harness.importance_sampling_level"] == "sequence"


def _rounding(flat: dict[str, Any], high: float) -> Iterator[str]:
    """Whether rounding alone would clip sequences, at the experiment's mean length."""
    low, length = flat[f"{ACTOR}.clip_ratio_low"], flat.get("harness.mean_length")
    low = flat[f"{ACTOR}.clip_ratio"] if low is None else low
    updates = flat["data.train_batch_size"] // flat[f"{ACTOR}.ppo_mini_batch_size"] * flat[f"{ACTOR}.ppo_epochs"]
    if token_noise(flat) < BF16_TOKEN_NOISE or updates < 2 or not length or not clips_sequences(flat):
        return
    noise, needed = BF16_TOKEN_NOISE / math.sqrt(length), length_needed(BF16_TOKEN_NOISE, 1, low, high)
    if length < needed:
        share = 100 * clipped_by_rounding(noise, low, high)
        yield (
            f"bf16 rounding alone moves the ratio of a response of {length:g} tokens by about {noise:.1g}, and "
            f"{flat['harness.algo']} clips at {min(low, high):g}: about {share:.0f} % "
            f"of the responses would be clipped by it; it stops mattering at about {needed:,.0f} tokens"
        )


def _reward_parts(flat: dict[str, Any]) -> None:
    """The reward workers would find it out after minutes."""
    key = "reward.reward_kwargs"
    if (names := flat.get(f"{key}.parts")) is not None:
        components.build(names, {name: flat.get(f"{key}.overlong.{name}") for name in ("limit", "buffer")})


def _ray_folder(flat: dict[str, Any]) -> None:
    folder = os.environ.get("RAY_TMPDIR", "")
    if flat.get("ray_kwargs.ray_init.address") == "local" and len(folder) > LONGEST_RAY_FOLDER:
        raise ConfigError(
            f"RAY_TMPDIR={folder}: {len(folder)} characters are too long for the paths of Ray's sockets; give a folder "
            f"of at most {LONGEST_RAY_FOLDER}: export RAY_TMPDIR=/tmp"
        )


SETTINGS = (
    refuse_secrets,
    _open_values,
    schema.check,
    verl_keys.engine,
    verl_keys.misleading,
    verl_keys.determinism,
    _unsupported,
    _sequence_parallel,
    _rollout_correction,
    _bypass,
    _equal_pairs,
    _batch_sizes,
    _loss,
    _reward_parts,
    _ray_folder,
)
