"""verl's two sides of a rollout engine for ``rollout.name=transformers``: the replica that launches a server, and the
adapter in each training worker that pushes the policy's weights to it."""

import os
from collections.abc import Generator
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch.distributed.tensor import DTensor
from verl.utils.device import get_device_name
from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

from harness.plugin.server import TransformersServer, WireTensor, to_wire

NAME = "transformers"
BUCKET_BYTES = 256 << 20


def server_name(replica_rank: int) -> str:
    """Name of the Ray actor that serves a replica. One Ray cluster a run, so the rank alone is unique."""
    return f"transformers_server_{replica_rank}"


def engine_options(rollout_config: Any) -> dict[str, Any]:
    """``rollout.engine_kwargs.transformers``: threads (0: leave torch's), batch_size (responses sampled at once)."""
    given = (rollout_config.engine_kwargs or {}).get(NAME) or {}
    unknown = set(given) - {"threads", "batch_size"}
    if unknown:
        raise ValueError(f"rollout.engine_kwargs.transformers knows threads and batch_size, not {sorted(unknown)}")
    return {"threads": int(given.get("threads", 0)), "batch_size": int(given.get("batch_size", 256))}


class TransformersReplica(RolloutReplica):
    """One server a training rank, on that rank's node and device (tensor parallel size 1)."""

    async def launch_servers(self) -> None:
        if self.world_size != 1:
            raise ValueError(
                "rollout.name=transformers has no parallelism within a replica: set "
                "rollout.tensor_model_parallel_size, data_parallel_size and pipeline_model_parallel_size to 1"
            )
        worker: Any = self.workers[0]
        node, visible = await worker.__ray_call__.remote(
            lambda _: (ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        )
        # The server shares its rank's GPU without asking Ray for one, as verl's own servers do.
        environment = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        name = server_name(self.replica_rank)
        server: Any = (
            ray.remote(TransformersServer)
            .options(
                name=name,
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
                runtime_env={"env_vars": environment},
            )
            .remote(
                model_path=self.model_config.path,
                dtype=self.config.dtype,
                device=get_device_name(),
                max_tokens=self.config.response_length,
                **engine_options(self.config),
            )
        )
        self.servers = [server]
        self._server_handle = server
        self._server_address = name


class TransformersRollout(base.BaseRollout):
    """verl's adapter inside a training worker: sends the weights that the engine hands out to this rank's server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any):
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = torch.distributed.get_rank()
        self._server: Any = None

    async def resume(self, tags: list[str]) -> None:
        return None

    async def release(self) -> None:
        return None

    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        wire_format: str = "named_tensors",
        **kwargs: Any,
    ) -> None:
        """Send all weights in buckets; every rank must exhaust ``weights``, whose tensors are gathered collectively."""
        if wire_format != "named_tensors":
            raise NotImplementedError(f"the transformers rollout takes named_tensors, not {wire_format}")
        if self._server is None:
            self._server = ray.get_actor(server_name(self.replica_rank))
        step = kwargs.get("global_steps")
        bucket: list[WireTensor] = []
        for name, tensor in weights:
            if sum(data.nbytes for *_, data in bucket) >= BUCKET_BYTES:
                await self._server.load_weights.remote(bucket, step, last=False)
                bucket = []
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            bucket.append(to_wire(name, full.to(getattr(torch, self.config.dtype))))
        await self._server.load_weights.remote(bucket, step, last=True)


def register() -> None:
    """Make ``rollout.name=transformers`` known to verl. The worker side is a dict without a register function."""
    RolloutReplicaRegistry.register(NAME, lambda: TransformersReplica)
    base._ROLLOUT_REGISTRY[(NAME, "async")] = f"{__name__}.{TransformersRollout.__name__}"
