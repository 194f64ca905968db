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
    """What a GPU can do, and what share of it is had. layer_seconds: of one layer in one decoding step, whatever its
    size: kernels started, tensors exchanged."""

    flops: float
    bandwidth: float
    dense: float
    experts: float
    read: float
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
    return (weights + cache) / (gpu.bandwidth * gpu.read) + waves * work.longest * shape.layers * gpu.layer_seconds


def training_seconds(shape: Shape, work: Work, gpu: Gpu) -> float:
    """Of log-probabilities and update."""
    share = gpu.experts if shape.experts else gpu.dense
    operations = work.passes * shape.forward_flops(work.mean) * work.responses * work.mean
    return operations / (work.gpus * gpu.flops * share)


def step_seconds(shape: Shape, work: Work, gpu: Gpu) -> float:
    """Of a whole step, validation and checkpoints apart."""
    return sampling_seconds(shape, work, gpu) + training_seconds(shape, work, gpu)
