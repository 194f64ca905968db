"""The module that verl imports in every worker before it builds an engine (``model.external_lib``).

It is the one module of this project that acts when imported, because being imported is all that verl offers it:
it registers the losses and the transformers rollout, admits numpy arrays in checkpoints and, on the CPU platform only,
registers the FSDP2 engine and makes its process group. What fails here raises in the worker, unlike in the
``verl.plugins`` entry point, whose errors verl swallows.
"""

import os

from verl.plugin.platform import get_platform

from harness.losses.registry import register_losses
from harness.plugin import rollout
from harness.tasks.vision import register_processor


def register_cpu_engine() -> None:
    """Let verl's own FSDP engine run on the CPU; verl registers it for cuda and npu only."""
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu")(FSDPEngineWithLMHead)


def create_gloo_group() -> None:
    """Create the default process group before verl does: on CPU verl asks torch for the backend
    ``cpu:gloo,cpu:gloo``, which torch refuses. Only worker-group actors have WG_PREFIX and RANK."""
    import torch

    if torch.distributed.is_initialized() or "WG_PREFIX" not in os.environ or "RANK" not in os.environ:
        return
    torch.distributed.init_process_group(
        backend="gloo",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        init_method=os.environ.get("DIST_INIT_METHOD"),
    )


def admit_numpy_arrays() -> None:
    """verl's checkpoints hold numpy's random state; with ``TORCH_FORCE_WEIGHTS_ONLY_LOAD`` torch must be told that
    arrays are data."""
    import numpy as np
    import torch

    torch.serialization.add_safe_globals(
        [np.ndarray, np.dtype, np._core.multiarray._reconstruct, type(np.dtype("uint32")), type(np.dtype("int64"))]  # type: ignore[attr-defined]
    )


admit_numpy_arrays()
register_losses()
rollout.register()
register_processor()
if get_platform().device_name == "cpu":
    register_cpu_engine()
    create_gloo_group()
