"""What a configuration needs before it is started: memory of a GPU, a checkpoint's bytes, tokens and time of a step.

    python -m harness.estimate experiment=text_dense actor_rollout_ref.rollout.n=16

Arithmetic on the resolved configuration and the numbers of the model's config.json; nothing is measured. Sources:

- weights and states: mixed-precision AdamW holds 16 bytes a parameter (Rajbhandari et al. 2020, arXiv 1910.02054,
  section 3.1). verl's FSDP: float32 weights, gradients and two moments. Megatron: bfloat16 weights, float32 gradients,
  float32 weights and moments, 18 bytes, of which its distributed optimizer shares 12 out;
- activations: with full recomputation the input of every layer, 2 h bytes a token, and one layer's own (Korthikanti
  et al. 2022, arXiv 2205.05198; theirs counted anew for gated MLPs, attention without its matrix);
- arithmetic: 2 N a token forward, 4 N backward (Kaplan et al. 2020, arXiv 2001.08361), N the parameters a token is
  multiplied with; attention adds 2 x layers x width x context forward (Chowdhery et al. 2022, arXiv 2204.02311,
  appendix B, halved for the causal mask); recomputation repeats the forward pass;
- KV cache: keys and values, 2 x layers x KV heads x head size numbers a token (Pope et al. 2022, arXiv 2211.05102).

Left out: the allocator's waste, buffers of communication, the vision tower's arithmetic, validation, and waiting for
the longest response.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from harness.asset_names import asset_path
from harness.config import ConfigError, compose, flatten

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"
FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe", "qwen2_5_vl")
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """The numbers of a config.json that count parameters; sizes as there, ``experts`` 0 for a dense model."""

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    experts: int = 0
    experts_per_token: int = 0
    vision: int = 0  # parameters of the vision tower

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Shape":
        """From a config.json or ``harness.shape``; raises ``ConfigError`` for a model of another family."""
        content = {**content, **(content.get("text_config") or {}), "model_type": content.get("model_type")}
        family = content["model_type"]
        if family not in FAMILIES:
            raise ConfigError(f"model_type={family}: no estimate; there are {', '.join(FAMILIES)}")
        try:
            heads = content["num_attention_heads"]
            moe = family.endswith("_moe")
            return cls(
                family=family,
                hidden=content["hidden_size"],
                intermediate=content["moe_intermediate_size" if moe else "intermediate_size"],
                layers=content["num_hidden_layers"],
                heads=heads,
                kv_heads=content["num_key_value_heads"],
                head_size=content.get("head_dim") or content["hidden_size"] // heads,
                vocabulary=content["vocab_size"],
                tied=bool(content.get("tie_word_embeddings", False)),
                experts=content["num_experts"] if moe else 0,
                experts_per_token=content["num_experts_per_tok"] if moe else 0,
                vision=_vision_parameters(content["vision_config"]) if family == "qwen2_5_vl" else 0,
            )
        except KeyError as error:
            raise ConfigError(f"the model's config.json (or harness.shape) lacks {error.args[0]}") from None

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, and of the output layer where it is another matrix."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def expert(self) -> int:
        """Parameters of one gated MLP: all of a dense layer's, or one expert's."""
        return 3 * self.hidden * self.intermediate

    @property
    def backbone(self) -> int:
        """Parameters of the language model's layers, less its experts or MLPs, and of the last norm."""
        query, key_value = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * self.hidden * (query + key_value)
        biases = query + 2 * key_value if self.family.startswith("qwen2") else 0
        head_norms = 2 * self.head_size if self.family.startswith("qwen3") else 0
        router = self.hidden * self.experts
        return self.layers * (attention + biases + head_norms + router + 2 * self.hidden) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding + self.backbone + self.vision + self.layers * max(1, self.experts) * self.expert

    @property
    def active(self) -> int:
        """Parameters that one token meets: of the experts its own, of the vision tower all."""
        return self.parameters - self.layers * (self.experts - self.experts_per_token) * self.expert

    @property
    def multiplied(self) -> int:
        """Active parameters of the language model that a token is multiplied with: the input embedding is looked up."""
        return self.active - self.vision - (0 if self.tied else self.vocabulary * self.hidden)

    def kv_bytes(self, width: int = 2) -> int:
        """Bytes of KV cache for a token, numbers of ``width`` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_size * width

    def forward_flops(self, context: float) -> float:
        """Floating-point operations of one token's forward pass in a sequence of ``context`` tokens."""
        return 2.0 * self.multiplied + 2.0 * self.layers * self.heads * self.head_size * context


def _vision_parameters(content: Mapping[str, Any]) -> int:
    """Qwen2.5-VL's vision tower: patches, blocks with biased gated MLPs, and the merger into the language model."""
    hidden, inner, out = content["hidden_size"], content["intermediate_size"], content["out_hidden_size"]
    channels = content.get("in_channels") or content.get("in_chans", 3)
    patches = channels * content["temporal_patch_size"] * content["patch_size"] ** 2 * hidden
    attention = 4 * hidden**2 + 4 * hidden
    mlp = 3 * hidden * inner + 2 * inner + hidden
    merged = hidden * content["spatial_merge_size"] ** 2
    merger = hidden + merged**2 + merged + merged * out + out
    return patches + content["depth"] * (attention + mlp + 2 * hidden) + merger


@dataclass(frozen=True)
class Training:
    """Bytes on one GPU during an update, and of one checkpoint. ``resident``: what stays there while vLLM samples."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float
    resident: float
    checkpoint: float

    @property
    def total(self) -> float:
        """All of it: the states are on the GPU during an update, offloaded or not."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.logits


def training(flat: Mapping[str, Any], shape: Shape) -> Training:
    """Memory of one GPU in an update with as many tokens as the configuration lets a micro-batch have."""
    megatron = flat[f"{ACTOR}.strategy"] == "megatron"
    ranks = flat["trainer.nnodes"] * flat["trainer.n_gpus_per_node"]
    engine = f"{ACTOR}.megatron" if megatron else f"{ACTOR}.fsdp_config"
    tensor = flat[f"{engine}.tensor_model_parallel_size"] if megatron else 1
    width = 4 if flat.get(f"{engine}.mixed_precision.param_dtype") == "fp32" else 2  # bytes of a number in the forward
    tokens = tokens_per_gpu(flat)
    layer = shape.backbone / shape.layers + max(1, shape.experts) * shape.expert
    if megatron:
        pipeline = flat[f"{engine}.pipeline_model_parallel_size"]
        expert_ranks = flat[f"{engine}.expert_model_parallel_size"] * (
            flat[f"{engine}.expert_tensor_parallel_size"] or tensor
        )
        experts = shape.layers * shape.experts * shape.expert
        dense, experts = (shape.parameters - experts) / (tensor * pipeline), experts / (expert_ranks * pipeline)
        local = dense + experts
        shared = dense / (ranks / (tensor * pipeline)) + experts / (ranks / (expert_ranks * pipeline))
        weights, gradients, optimizer, gathered = 2 * local, 4 * local, 12 * shared, 0.0
        checkpoint = 14.0 * shape.parameters  # bfloat16 weights, the optimizer's float32 ones and two moments
        recompute = flat[f"{engine}.override_transformer_config.recompute_granularity"] == "full"
    else:
        share = shape.parameters / ranks
        weights, gradients, optimizer = 4 * share, 4 * share, 8 * share
        # the root's embeddings and two layers (one in use, one on its way) are whole for a while
        gathered = width * (shape.embedding + 2 * layer) if ranks > 1 or width == 2 else 0.0
        checkpoint = 12.0 * shape.parameters  # float32 weights and two moments
        recompute = bool(flat[f"{MODEL}.enable_gradient_checkpointing"])
    inside = width * tokens * _layer_numbers(shape) / tensor
    inputs = width * tokens * shape.hidden * shape.layers / tensor
    parked = (0 if flat[f"{engine}.param_offload"] else weights + (gradients if megatron else 0)) + (
        0 if flat[f"{engine}.optimizer_offload"] else optimizer
    )
    return Training(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        gathered=gathered,
        activations=inputs + inside if recompute else shape.layers * inside,
        # logits, their float32 softmax and their gradient
        logits=(2 * width + 4) * tokens * shape.vocabulary / tensor,
        resident=parked,
        checkpoint=checkpoint,
    )


def tokens_per_gpu(flat: Mapping[str, Any]) -> float:
    """Tokens of one micro-batch that one GPU holds at most."""
    if flat[f"{ACTOR}.use_dynamic_bsz"]:
        return flat[f"{ACTOR}.ppo_max_token_len_per_gpu"]
    longest = flat["data.max_prompt_length"] + flat["data.max_response_length"]
    return flat[f"{ACTOR}.ppo_micro_batch_size_per_gpu"] * longest / sequence_ranks(flat)


def sequence_ranks(flat: Mapping[str, Any]) -> int:
    """Ranks that share a sequence's tokens: Ulysses' on FSDP, context-parallel ones on Megatron."""
    if flat[f"{ACTOR}.strategy"] == "megatron":
        return flat[f"{ACTOR}.megatron.context_parallel_size"]
    return flat[f"{ACTOR}.ulysses_sequence_parallel_size"]


def _layer_numbers(shape: Shape) -> int:
    """Numbers of a token that one layer keeps for its backward pass: norms, attention, gated MLP."""
    query, key_value = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    inner = shape.intermediate * max(1, shape.experts_per_token)
    return 4 * shape.hidden + 2 * query + 2 * key_value + 4 * inner


@dataclass(frozen=True)
class Sampling:
    """One GPU while vLLM samples. ``room``: tokens that the cache of one engine holds; ``share``: responses to it."""

    weights: float
    cache: float
    kv_token: float
    room: float
    share: float


def sampling(flat: Mapping[str, Any], shape: Shape) -> Sampling:
    """Weights and KV cache of one GPU of an engine, from ``rollout.gpu_memory_utilization``; bytes, bfloat16."""
    tensor = flat[f"{ROLLOUT}.tensor_model_parallel_size"]
    ranks = flat["trainer.nnodes"] * flat["trainer.n_gpus_per_node"]
    weights = 2.0 * shape.parameters / tensor
    cache = flat[f"{ROLLOUT}.gpu_memory_utilization"] * flat["harness.gpu.memory_gb"] * GB - weights
    kv_token = shape.kv_bytes() / min(tensor, shape.kv_heads)  # fewer heads than GPUs are held twice
    share = flat["data.train_batch_size"] * flat[f"{ROLLOUT}.n"] / (ranks / tensor)
    return Sampling(weights, cache, kv_token, cache / kv_token, share)


@dataclass(frozen=True)
class Step:
    """One training step at a mean response length: tokens, operations by phase, and GPU-hours (None without a GPU)."""

    tokens: float
    flops: dict[str, float]
    gpu_hours: float | None


def step(flat: Mapping[str, Any], shape: Shape, response: float) -> Step:
    """Tokens (prompts included) and arithmetic of a step whose responses are ``response`` tokens on average.

    Hours are operations over the GPU's peak times ``harness.gpu.utilisation``, an assumption of the configuration.
    """
    prompt = flat.get("harness.mean_prompt") or flat["data.max_prompt_length"]
    tokens = flat["data.train_batch_size"] * flat[f"{ROLLOUT}.n"] * (prompt + response)
    forward = shape.forward_flops(prompt + response) * tokens
    recomputed = flat.get(f"{ACTOR}.megatron.override_transformer_config.recompute_granularity") == "full" or (
        flat[f"{ACTOR}.strategy"] != "megatron" and flat[f"{MODEL}.enable_gradient_checkpointing"]
    )
    epochs = flat[f"{ACTOR}.ppo_epochs"]
    flops = {"generate": forward, "log_prob": forward, "update": epochs * forward * (4 if recomputed else 3)}
    if "harness.gpu.peak_tflops" not in flat:
        return Step(tokens, flops, None)
    peak = flat["harness.gpu.peak_tflops"] * 1e12
    seconds = sum(part / (peak * flat[f"harness.gpu.utilisation.{phase}"]) for phase, part in flops.items())
    return Step(tokens, flops, seconds / 3600)


def shape_of(flat: Mapping[str, Any]) -> Shape:
    """The model's shape: its folder's config.json if that is there, else ``harness.shape``; raises ``ConfigError``."""
    path = Path(asset_path(f"{MODEL}.path", flat[f"{MODEL}.path"], flat["harness.asset_seed"])).expanduser()
    if (path / "config.json").is_file():
        return Shape.of(json.loads((path / "config.json").read_text()))
    prefix = "harness.shape."
    given: dict[str, Any] = {}
    for key, value in flat.items():
        if key.startswith(prefix):
            part, _, name = key.removeprefix(prefix).rpartition(".")
            (given.setdefault(part, {}) if part else given)[name] = value
    if not given:
        raise ConfigError(f"{MODEL}.path={path}: neither a folder with config.json nor a policy with harness.shape")
    return Shape.of(given)


def rows(flat: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The estimate as (what, how much)."""
    shape = shape_of(flat)
    train, ranks = training(flat, shape), flat["trainer.nnodes"] * flat["trainer.n_gpus_per_node"]
    counted = f"{shape.parameters / GB:.3g} B"
    counted += f", {shape.active / GB:.3g} B a token" if shape.experts else ""
    table = [
        ("parameters", counted),
        ("checkpoint", f"{_gb(train.checkpoint)}, {flat['trainer.max_actor_ckpt_to_keep']} kept"),
        (f"one rank of {ranks}, updating", _gb(train.total)),
        *((f"  {name}", _gb(getattr(train, name))) for name in ("weights", "gradients", "optimizer", "gathered")),
        *((f"  {name}", _gb(getattr(train, name))) for name in ("activations", "logits")),
    ]
    longest = flat["data.max_prompt_length"] + flat["data.max_response_length"]
    if "harness.gpu.memory_gb" in flat:
        memory = flat["harness.gpu.memory_gb"] * GB
        sample = sampling(flat, shape)
        generating = train.resident + sample.weights + sample.cache
        worst = max(train.total, generating)
        table += [
            ("one GPU, sampling", _gb(generating)),
            ("  of training, not offloaded", _gb(train.resident)),
            ("  weights", _gb(sample.weights)),
            ("  KV cache", f"{_gb(sample.cache)}, {sample.kv_token / 1e3:.3g} kB a token"),
            ("  responses of one engine", f"{sample.share:.0f}, of full length {sample.room / longest:.0f} at once"),
            ("fits", f"{'yes' if worst < memory else 'NO'}, {_gb(worst)} of {_gb(memory)}"),
        ]
    steps = flat["trainer.total_training_steps"]
    lengths = {"mean length": flat["harness.mean_length"], "full length": flat["data.max_response_length"]}
    for name, length in lengths.items():
        one = step(flat, shape, length)
        what = f"a step at {name}, {length} tokens"
        table.append((what, f"{one.tokens:.3g} tokens, {sum(one.flops.values()):.2g} floating-point operations"))
        if one.gpu_hours is not None:
            minutes = one.gpu_hours * 60 / ranks
            table.append((f"  {steps} of them", f"{minutes:.2g} minutes each, {steps * one.gpu_hours:.3g} GPU-hours"))
    return table


def _gb(number: float) -> str:
    return f"{number / GB:.3g} GB"


def main(overrides: list[str]) -> int:
    """Print the estimate of ``overrides``; what cannot be composed ends in one line."""
    try:
        flat = flatten(compose(overrides))
        lines = rows(flat)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
    table = Table("estimated", "", box=None)
    for what, amount in lines:
        table.add_row(what, amount)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
