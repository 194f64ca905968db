"""Seconds of a training step on GPUs: sampling, which waits for its longest response, and the passes over all tokens.

Sampling takes as many decoding steps as the longest response has tokens. Each reads the weights and the keys and values
of all responses that still grow, at a share of the GPU's bandwidth, and starts the kernels of every layer (Pope et al.
2022, arXiv 2211.05102, count the same). Log-probabilities and update are operations over a share of the GPU's peak: a
third of a dense model's, a twelfth with many small experts. The constants are of ``harness.gpu``, fitted to published
steps (``published``), which they give within the factors of ``ERROR``.
"""

from dataclasses import dataclass

from harness.estimate.architecture import Shape

ERROR = (0.8, 1.2)  # estimate over measured, least and most of ``published.csv``
LONGEST = 4.0  # a batch's longest response is at least so many times the mean, if the limit lets it


@dataclass(frozen=True)
class Gpu:
    """A GPU's peak (operations and bytes a second), and what of it is reached: model FLOPs utilisation (MFU) of a dense
    model and of one with experts, utilisation of the bandwidth. layer_seconds: of one layer in one decoding step,
    whatever its size: kernels started, tensors exchanged."""

    flops: float
    bandwidth: float
    dense_mfu: float
    expert_mfu: float
    bandwidth_utilisation: float
    layer_seconds: float


@dataclass(frozen=True)
class Work:
    """A step's work. gpus: all; engine_gpus: of one vLLM engine; responses: of the step; mean: tokens of prompt and
    response; longest: tokens of the longest response; room: tokens that one engine's cache holds; passes: forward
    passes' worth of arithmetic after sampling (4 of log-probabilities and update, 5 with recomputation)."""

    gpus: int
    engine_gpus: int
    responses: int
    mean: float
    longest: float
    passes: float
    room: float = float("inf")


def sampling_seconds(shape: Shape, work: Work, gpu: Gpu) -> float:
    """Of the rollout; responses that do not fit into the cache at once wait for others to end."""
    share = work.responses / (work.gpus / work.engine_gpus)
    waves = max(1.0, share * work.mean / work.room)
    weights = waves * work.longest * 2.0 * shape.parameters / work.engine_gpus
    # every token of a response is read once for each that follows
    cache = share * work.mean**2 / 2 * shape.kv_bytes() / min(work.engine_gpus, shape.kv_heads)
    kernels = waves * work.longest * shape.layers * gpu.layer_seconds
    return (weights + cache) / (gpu.bandwidth * gpu.bandwidth_utilisation) + kernels


def training_seconds(shape: Shape, work: Work, gpu: Gpu) -> float:
    """Of log-probabilities and update."""
    mfu = gpu.expert_mfu if shape.experts else gpu.dense_mfu
    operations = work.passes * shape.forward_flops(work.mean) * work.responses * work.mean
    return operations / (work.gpus * gpu.flops * mfu)


def step_seconds(shape: Shape, work: Work, gpu: Gpu) -> float:
    """Of a whole step, validation and checkpoints apart."""
    return sampling_seconds(shape, work, gpu) + training_seconds(shape, work, gpu)
