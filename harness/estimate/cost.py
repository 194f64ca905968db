"""What a configuration needs before it is started: memory of a GPU, a checkpoint's bytes, tokens and time of a step.

    python -m harness.estimate
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

- seconds on GPUs: ``harness.estimate.seconds``, calibrated on published steps, as a range.

Left out: the allocator's waste, buffers of communication, the vision tower's arithmetic, and validation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import ConfigError, compose, flatten, say_error
from harness.estimate.architecture import Shape, shape_of
from harness.estimate.seconds import ERROR, LONGEST, Gpu, Work, step_seconds

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"
GB = 1e9
CALIBRATED = (
    "11 published steps of NeMo RL on H100 (8 to 235 B parameters), each given within "
    f"{ERROR[0]:g} to {ERROR[1]:g} of what was measured; a range: the longest response is {LONGEST:g} times the mean, "
    "or at the limit"
)


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
    return flat[f"{ACTOR}.ppo_micro_batch_size_per_gpu"] * longest / sequence_parallel_size(flat)


def sequence_parallel_size(flat: Mapping[str, Any]) -> int:
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
    """One training step at a mean response length: tokens, operations by phase, and GPU-hours from least to most (None
    without a GPU)."""

    tokens: float
    flops: dict[str, float]
    gpu_hours: tuple[float, float] | None


def step(flat: Mapping[str, Any], shape: Shape, response: float) -> Step:
    """Tokens (prompts included) and arithmetic of a step whose responses are ``response`` tokens on average.

    Hours are a range, by ``harness.estimate.seconds``: from a longest response of a few times the mean, to one at the
    limit, either way as far off as the published steps are.
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
    limit, ranks = flat["data.max_response_length"], flat["trainer.nnodes"] * flat["trainer.n_gpus_per_node"]
    passes = (flops["log_prob"] + flops["update"]) / forward
    hours = []
    for longest, error in ((min(limit, LONGEST * response), ERROR[1]), (limit, ERROR[0])):
        work = Work(
            gpus=ranks,
            engine_gpus=flat[f"{ROLLOUT}.tensor_model_parallel_size"],
            responses=flat["data.train_batch_size"] * flat[f"{ROLLOUT}.n"],
            mean=prompt + response,
            longest=longest,
            passes=passes,
            room=sampling(flat, shape).room,
        )
        hours.append(ranks * step_seconds(shape, work, gpu_of(flat)) / error / 3600)
    return Step(tokens, flops, (hours[0], hours[1]))


def gpu_of(flat: Mapping[str, Any]) -> Gpu:
    """The GPU of the configuration, ``harness.gpu``."""
    utilisation = "harness.gpu.utilisation"
    return Gpu(
        flops=flat["harness.gpu.peak_tflops"] * 1e12,
        bandwidth=flat["harness.gpu.bandwidth_gb"] * GB,
        dense_mfu=flat[f"{utilisation}.dense"],
        expert_mfu=flat[f"{utilisation}.experts"],
        bandwidth_utilisation=flat[f"{utilisation}.bandwidth"],
        layer_seconds=flat["harness.gpu.layer_seconds"],
    )


def cpu_minutes(flat: Mapping[str, Any]) -> float | None:
    """Minutes of one core that a whole run takes, as its experiment measured (``harness.cpu``); None if it has not.

    Measured with two runs at once on two cores: a sweep takes their sum divided by the cores; a run that has several
    cores for itself uses more than one and ends sooner.
    """
    if "harness.cpu.response_seconds" not in flat:
        return None
    responses = flat["trainer.total_training_steps"] * flat["data.train_batch_size"] * flat[f"{ROLLOUT}.n"]
    return (flat["harness.cpu.start_seconds"] + responses * flat["harness.cpu.response_seconds"]) / 60


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
            minutes, whole = (between(*(factor * at for at in one.gpu_hours)) for factor in (60 / ranks, steps))
            table.append((f"  {steps} of them", f"{minutes} minutes each, {whole} GPU-hours"))
    if "harness.gpu.peak_tflops" in flat:
        table.append(("calibrated on", CALIBRATED))
    if flat["trainer.device"] == "cpu" and (whole := cpu_minutes(flat)):
        table.append(("a whole run", f"about {whole:.2g} minutes of one core, as measured for this experiment"))
    return table


def between(low: float, high: float) -> str:
    """``3.2 to 5``, two digits that count."""
    if low == high:
        return f"{low:.3g}"
    least, most = (f"{float(f'{value:.2g}'):g}" for value in (low, high))
    return f"{least} to {most}"


def _gb(number: float) -> str:
    return f"{number / GB:.3g} GB"


def main(overrides: list[str]) -> int:
    """Print the estimate of ``overrides``; what cannot be composed ends in one line."""
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return 0
    try:
        flat = flatten(compose(overrides))
        lines = rows(flat)
    except ConfigError as error:
        say_error(error)
        return 2
    table = Table("estimated", "", box=None)
    for what, amount in lines:
        table.add_row(what, amount)
    Console().print(table)
    return 0
