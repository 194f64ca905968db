"""Checks of this machine: GPUs, cores and memory, disk."""

import ctypes
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from harness.config import ConfigError
from harness.doctor.finding import Finding, Flat, amount, failure, local, ok, warning
from harness.doctor.model import model_folder, parameters
from harness.doctor.software import GPU_SETUP
from harness.paths import ROOT, python

GB = 1e9
FREE_SHARE = 0.9  # of a GPU; less means that somebody else computes there
ROW_BYTES = 100  # of one response's row on disk, about twice what the reference runs take
STEP_BYTES = 20_000  # of one step's metrics and log, likewise
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
DRIVER = Path("/dev/nvidiactl")
NUMA = "libnuma.so"


def gpus(flat: Flat) -> Iterator[Finding]:
    """As many GPUs as a node of the run needs, seen by torch, with free memory; only where training is on CUDA."""
    wanted = flat["trainer.n_gpus_per_node"]
    if flat["trainer.device"] == "cpu":
        yield ok("trainer.device=cpu needs none")
        return
    if not local(flat):
        yield ok("counted on the nodes of the Ray cluster")
        return
    if flat["trainer.nnodes"] > 1:
        yield failure(
            f"trainer.nnodes={flat['trainer.nnodes']} with ray_init.address=local: all nodes would share the same GPUs",
            "`ray start` on every node and ray_kwargs.ray_init.address=auto",
        )
        return
    import torch

    if not torch.cuda.is_available():
        if not (DRIVER.exists() or shutil.which("nvidia-smi")):
            found, remedy = "this machine has no NVIDIA driver", "a machine with GPUs; tiny and smollm2 need none"
        elif torch.version.cuda is None:
            found, remedy = f"torch {torch.__version__} is a build for CPU", GPU_SETUP
        else:
            found, remedy = f"torch {torch.__version__} sees no GPU", "see `nvidia-smi` and CUDA_VISIBLE_DEVICES"
        yield failure(found, remedy)
        return
    seen = torch.cuda.device_count()
    if seen < wanted:
        yield failure(
            f"torch sees {seen} GPUs, trainer.n_gpus_per_node={wanted}",
            f"trainer.n_gpus_per_node={seen}, or widen CUDA_VISIBLE_DEVICES",
        )
    memory = [torch.cuda.mem_get_info(number) for number in range(min(seen, wanted))]
    yield from _gpu_memory(flat, memory)


def _gpu_memory(flat: Flat, memory: list[tuple[int, int]]) -> Iterator[Finding]:
    """``memory``: (free, total) bytes of each GPU. vLLM refuses to start where its share is not free."""
    share = flat["actor_rollout_ref.rollout.gpu_memory_utilization"]
    share = share if flat["actor_rollout_ref.rollout.name"] == "vllm" else 0.0
    needed, quiet = update_bytes(flat), True
    for number, (free, total) in enumerate(memory):
        found = f"GPU {number}: {amount(free)} of {amount(total)} free"
        if free < share * total:
            yield failure(
                f"{found}, vLLM wants {amount(share * total)} (rollout.gpu_memory_utilization={share:g})",
                "end what else computes there (`nvidia-smi` lists it)",
            )
        elif free < FREE_SHARE * total:
            yield warning(found, "see in `nvidia-smi` what else computes there")
        elif needed and needed > total:
            yield warning(
                f"{found}, an update takes an estimated {amount(needed)}",
                f"`{python()} -m harness.estimate` with the same settings lists what takes it",
            )
        else:
            continue
        quiet = False
    if quiet and memory:
        yield ok(f"{len(memory)} GPUs, at least {amount(min(free for free, _ in memory))} free on each")


def update_bytes(flat: Flat) -> float | None:
    """Bytes on a GPU during an update as ``harness.estimate`` has them, None where it knows no such model."""
    from harness.estimate import cost
    from harness.estimate.architecture import shape_of

    try:
        return cost.training(flat, shape_of(flat)).total
    except ConfigError:
        return None


def host(flat: Flat) -> Iterator[Finding]:
    """Cores for the ranks, and memory for one run's peak."""
    yield from _binding(flat)
    cores = os.cpu_count() or 1
    ranks = flat["trainer.n_gpus_per_node"] * (flat["trainer.nnodes"] if local(flat) else 1)
    if cores < ranks:
        yield warning(f"{cores} cores for {ranks} ranks", "more cores, or a smaller trainer.n_gpus_per_node")
    needed, total = flat["harness.memory_gb"] * GB, memory_limit()
    available = min(psutil.virtual_memory().available, total)
    takes = f"a run takes {amount(needed)} (harness.memory_gb)"
    found = f"{cores} cores, {amount(available)} of {amount(total)} memory available, {takes}"
    if total < needed:
        # on a cluster this machine need not be one of its nodes
        yield (failure if local(flat) else warning)(
            found, "a machine with more memory, or a smaller policy= or data.train_batch_size"
        )
    elif available < needed:
        yield warning(found, "end what else uses memory here")
    else:
        yield ok(found)


def _binding(flat: Flat) -> Iterator[Finding]:
    """verl binds a worker to the cores beside its GPU with this library, and without it only prints a line."""
    if flat["trainer.device"] == "cpu" or not local(flat):
        return
    try:
        ctypes.CDLL(NUMA)
    except OSError:
        yield warning(
            f"no {NUMA}: workers are not bound to the cores beside their GPU", "`apt-get install libnuma-dev`"
        )


def memory_limit() -> int:
    """Bytes of memory of this machine, or of the container if it allows less."""
    total = psutil.virtual_memory().total
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return min(total, int(limit)) if limit.isdigit() else total


def disk(flat: Flat) -> Iterator[Finding]:
    """Room at ``harness.root`` for what one run keeps: its checkpoints and its records."""
    root = ROOT / flat["harness.root"]
    there = next(folder for folder in (root, *root.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        yield failure(f"{there} is not a folder to write in", "harness.root=FOLDER, another one")
        return
    one, number = checkpoint_bytes(flat), kept_checkpoints(flat)
    free = shutil.disk_usage(there).free
    if one is None:
        yield warning(
            f"{amount(free)} free at {root}; what a checkpoint takes is not known without the model's folder",
            "this check again once `weights` is ok",
        )
        return
    needed = one * number + record_bytes(flat)
    found = f"{amount(free)} free at {root}; a run takes {amount(needed)}, {number} checkpoints of {amount(one)}"
    if free < needed:
        fewer = "trainer.max_actor_ckpt_to_keep=2, " if number > 2 else ""
        yield failure(
            found,
            f"harness.root=FOLDER on a larger disk, {fewer}or trainer.save_freq=-1 (then nothing can be evaluated or "
            "continued)",
        )
    else:
        yield ok(found)


def checkpoint_bytes(flat: Flat) -> float | None:
    """Bytes of one checkpoint: float32 weights and Adam's two moments; None where the model is not known.

    From ``harness.estimate``, which knows the engines; for models that it does not know from the weights' files.
    """
    from harness.estimate import cost
    from harness.estimate.architecture import shape_of

    try:
        return cost.training(flat, shape_of(flat)).checkpoint
    except ConfigError:
        folder = model_folder(flat)
        count = parameters(folder) if folder else 0
        return 12.0 * count if count else None


def kept_checkpoints(flat: Flat) -> int:
    """Checkpoints on disk at once. verl deletes the oldest before it writes another, but never the only one."""
    every, keep = flat["trainer.save_freq"], flat["trainer.max_actor_ckpt_to_keep"]
    if every <= 0:
        return 0
    made = math.ceil(flat["trainer.total_training_steps"] / every)
    return min(made, max(2, keep)) if keep and keep > 0 else made


def record_bytes(flat: Flat) -> float:
    """Bytes that the records of all steps take."""
    responses = flat["data.train_batch_size"] * flat["actor_rollout_ref.rollout.n"]
    return flat["trainer.total_training_steps"] * (responses * ROW_BYTES + STEP_BYTES)
