"""Does the training engine weight responses as the loss says, however it splits them over ranks and micro-batches?

    python -m harness.doctor --engine experiment=text_dense algo=luspo

Four short responses go through verl's own training worker with the preset's engine, arithmetic and loss, on a small
random model of the preset's family: on one rank and two, in micro-batches of one and two responses and packed by
tokens, and with the preset's sequence, tensor and expert parallelism where GPUs for it are here. The gradient is
compared with one that is computed by hand (``harness.plugin.engine_rank``). Faults of this kind were seen in engines:
a gradient divided twice by the number of ranks, or by the tokens of one rank alone.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config import ConfigError, flatten
from harness.config.matching import SEED
from harness.doctor.finding import Finding, Flat, failure, ok, warning
from harness.doctor.rules import ACTOR
from harness.estimate.architecture import shape_of
from harness.losses.registry import spec_of
from harness.paths import ROOT
from harness.tasks.cache import ensure

SHORT, LONG = 3, 12  # tokens of the first two responses of ``engine_rank``
CASES = {
    "micro-batches of one response": {"responses": 1},
    "micro-batches of two": {"responses": 2},
    "packed by tokens": {"tokens": 20},
}
# Relative error of the gradient: rounding alone gives 1e-6 in float32 and 0.02 in bfloat16.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
SECONDS = 600
OTHER_LOSS = "do not train with this layout or this verl: what it minimises is another loss"
WITHOUT = "harness.engine_check=false starts without this check"
FAMILIES = {"qwen2_5_vl": "qwen2"}  # of images the language model alone
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 256,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
}  # fmt: skip
MEGATRON = ("tensor_model_parallel_size", "context_parallel_size", "expert_model_parallel_size")
# What is set for the check: plain descent at rate 1 from the first update, and no clipping by noise or by norm.
SET = {
    "actor.clip_ratio": 0.5, "actor.clip_ratio_low": 0.5, "actor.clip_ratio_high": 0.5,
    "actor.optim.lr": 1.0, "actor.optim.lr_warmup_steps": 0, "actor.optim.lr_warmup_steps_ratio": 0.0,
    "actor.optim.weight_decay": 0.0, "actor.optim.clip_grad": 1e9, "actor.optim.override_optimizer_config": None,
    "model.load_tokenizer": False,
    "actor.policy_loss.ppo_kl_coef": 0.0,  # kl_cov's: on-policy its sign is that of a rounding error
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Ranks of one measurement, in words, and the keys of ``actor_rollout_ref`` that make it."""

    words: str
    ranks: int = 1
    keys: dict[str, Any] = field(default_factory=dict)


def layouts(flat: Flat, here: int, cpu: bool) -> tuple[list[Layout], list[str]]:
    """(layouts that can be measured on so many devices, in words what of the run's cannot)."""
    several = flat["trainer.nnodes"] * flat["trainer.n_gpus_per_node"] > 1
    if flat[f"{ACTOR}.strategy"] == "megatron":
        whole = {f"actor.megatron.{key}": 1 for key in (*MEGATRON, "pipeline_model_parallel_size")}
        split = {key: flat[f"{ACTOR}.megatron.{key}"] for key in MEGATRON}
        special = [Layout(f"{key}=2", 2, whole | {f"actor.megatron.{key}": 2}) for key in MEGATRON if split[key] > 1]
    else:
        key, shared = "actor.ulysses_sequence_parallel_size", flat[f"{ACTOR}.ulysses_sequence_parallel_size"]
        whole = {key: 1}
        special = [Layout(f"a response shared by {shared} ranks", shared, {key: shared})] if shared > 1 else []
    wanted = [Layout("1 rank", 1, whole), *([Layout("2 ranks", 2, whole)] if several else []), *special]
    # On the CPU there is neither flash attention nor Megatron, which sharing a response needs.
    possible = [one for one in wanted if one.ranks <= here and not (cpu and one in special)]
    return possible, [one.words for one in wanted if one not in possible]


def checked_config(config: DictConfig, layout: Layout, folder: Path, cpu: bool) -> DictConfig:
    """``actor_rollout_ref`` of the run for one layout: the same engine, loss and arithmetic, and ``SET``."""
    plain: Any = OmegaConf.to_container(config.actor_rollout_ref, resolve=True)
    part: Any = OmegaConf.create(plain)
    megatron = part.actor.strategy == "megatron"
    descent = {"actor.optim.optimizer": "sgd" if megatron else "SGD"}
    machine = {"model.override_config.attn_implementation": "sdpa"} if cpu else {}
    model = {"model.path": str(folder / "model"), "model.use_fused_kernels": fused(config)}
    for key, value in {**SET, **descent, **machine, **layout.keys, **model}.items():
        OmegaConf.update(part, key, value, force_add=True)
    for key in SEED:  # it has none of the run's: one measurement for all seeds
        if OmegaConf.select(part, inside := key.removeprefix("actor_rollout_ref.")) is not None:
            OmegaConf.update(part, inside, 0)
    return part


def fused(config: DictConfig) -> bool:
    return bool(config.actor_rollout_ref.model.use_fused_kernels)


def measure(config: DictConfig) -> dict[str, Any]:
    """``layouts``: for each its cases (``engine_rank.measure``); ``missing``: what cannot be measured here.

    Takes about half a minute a layout. Raises ``ConfigError`` with the engine's own last line where it fails.
    """
    import torch

    flat = flatten(config)
    cpu = not torch.cuda.is_available()
    if cpu and flat[f"{ACTOR}.strategy"] == "megatron":
        raise ConfigError(f"{ACTOR}.strategy=megatron: its engine needs GPUs, and torch sees none here")
    possible, missing = layouts(flat, os.cpu_count() or 1 if cpu else torch.cuda.device_count(), cpu)
    return {
        "device": "the CPU" if cpu else torch.cuda.get_device_name(),
        "missing": missing,
        "layouts": {layout.words: _run(config, layout, cpu) for layout in possible},
    }


def _run(config: DictConfig, layout: Layout, cpu: bool) -> list[dict[str, Any]]:
    """The ranks of one layout, as processes of this machine."""
    shape = shape_of(flatten(config))
    family = FAMILIES.get(shape.family, shape.family)
    with tempfile.TemporaryDirectory(prefix="engine-") as name:
        folder = Path(name)
        OmegaConf.save(checked_config(config, layout, folder, cpu), folder / "config.yaml")
        small = {"model_type": family, **SMALL, "tie_word_embeddings": fused(config)}  # else FSDP 2 splits a fused head
        asked = {"shape": small, "cases": [{"words": w, **c} for w, c in CASES.items()]}
        (folder / "check.json").write_text(json.dumps(asked))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(layout.ranks), "-m", "harness.plugin.engine_rank", str(folder)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"VERL_PLATFORM": "cpu"} if cpu else {})
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"the engine on {layout.words} did not answer within {SECONDS} s") from None
        if done.returncode:
            raise ConfigError(f"the engine on {layout.words} fails: {_last_error(done.stderr)}")
        return json.loads((folder / "measured.json").read_text())


def _last_error(said: str) -> str:
    """The line of a rank's exception; torchrun's own report of it follows and says less."""
    lines = [line.split("]:", 1)[-1].strip() for line in said.splitlines()]
    errors = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception")) and ": " in line]
    errors = [line for line in errors if not line.startswith("torch.distributed.elastic")]
    return errors[0] if errors else (lines[-1] if lines else "without a word")


def findings(flat: Flat, measured: dict[str, Any]) -> Iterator[Finding]:
    """A line for each layout, or for each way of cutting the batch at which it is wrong; and what was not measured."""
    bound = TOLERANCE["fp32" if _fp32(flat) else "bf16"]
    power = spec_of(flat[f"{ACTOR}.policy_loss.loss_mode"]).exponent(flat[f"{ACTOR}.loss_agg_mode"])
    for words, cases in measured["layouts"].items():
        told, wrong = [], []
        for case in cases:
            engine, hand = case["weights"], case["by_hand"]
            weighs = engine[1] / engine[0]
            means = hand[1] / hand[0] if power is None else (LONG / SHORT) ** power
            found = (
                f"a response of {LONG} tokens weighs {weighs:.2f} times one of {SHORT}, {flat['harness.algo']} means "
                f"{means:.2f}; the gradient is off by {case['error']:.1g} of its length"
            )
            told.append((case["error"], found))
            if not (case["error"] <= bound and abs(weighs / means - 1) <= bound):
                scale = sum(engine) / sum(hand)
                wrong.append(f"{words}, {case['words']}: {found}, and is {scale:.3g} times as large as it should be")
        yield from (failure(one, OTHER_LOSS) for one in wrong)
        if not wrong:
            yield ok(f"{words}, {' or '.join(case['words'] for case in cases)}: {max(told)[1]}")
    if measured["missing"]:
        yield warning(
            f"not measured on {measured['device']}: {', '.join(measured['missing'])}",
            "the same command where the run's GPUs are",
        )


def _fp32(flat: Flat) -> bool:
    """Whether the engine multiplies in float32; verl's default is bfloat16."""
    return flat.get(f"{ACTOR}.fsdp_config.mixed_precision.param_dtype") in ("fp32", "float32")


def check(config: DictConfig) -> Iterator[Finding]:
    """What ``python -m harness.doctor --engine`` finds, measured anew; raises ``ConfigError``."""
    yield from findings(flatten(config), measure(config))


def before_run(config: DictConfig) -> list[str]:
    """The check before a run that costs GPU-hours, once for the same engine, loss and versions; returns warnings.

    Raises ``ConfigError`` with the first thing that is wrong. Where no GPU is here (the machine that starts jobs), or
    with ``harness.engine_check=false``, nothing is done; a family of models that is not known here is not checked.
    """
    import torch

    if not config.harness.engine_check or not torch.cuda.is_available():
        return []
    flat = flatten(config)
    try:
        shape_of(flat)
    except ConfigError as error:
        return [f"engine: not checked: {error}"]
    part = checked_config(config, Layout("any"), Path("-"), cpu=False)
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "verl")}
    recipe = {"config": OmegaConf.to_container(part), "device": torch.cuda.get_device_name(), "versions": versions}
    try:
        folder = ensure("engine", recipe, lambda folder: _keep(config, folder))
    except ConfigError as error:
        raise ConfigError(f"engine: {error}; remedy: mend that, or {WITHOUT}") from None
    found = list(findings(flat, json.loads((folder / "measured.json").read_text())))
    wrong = [finding for finding in found if finding.level == "failure"]
    if wrong:
        raise ConfigError(f"engine: {wrong[0].found}; remedy: {wrong[0].remedy}; {WITHOUT}")
    return [f"engine: {finding.found}" for finding in found if finding.level == "warning"]


def _keep(config: DictConfig, folder: Path) -> None:
    (folder / "measured.json").write_text(json.dumps(measure(config)))
