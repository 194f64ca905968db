"""A rollout server on plain transformers, for laptops and for small models on machines without vLLM.

A Ray actor that holds the model and speaks the part of verl's server interface that the synchronous trainer uses
(``verl/workers/rollout/llm_server.py``). Imports no verl before it must: every importing process costs seconds of
start-up on two cores.
"""

import asyncio
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer

from harness.plugin.routing import Routers
from harness.plugin.sampling import Sampled, SamplingParams, eos_token_ids, sample
from harness.plugin.vision import Pictures, auto_model

# One tensor on its way: name, dtype, shape and raw bytes (numpy knows no bfloat16; Ray shares numpy without copying).
WireTensor = tuple[str, str, tuple[int, ...], np.ndarray]


def to_wire(name: str, tensor: torch.Tensor) -> WireTensor:
    """A tensor of any device and dtype as bytes in shared memory's format."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), flat.view(torch.uint8).numpy()


def from_wire(wire: WireTensor) -> tuple[str, torch.Tensor]:
    """The inverse of ``to_wire``; the tensor owns its memory."""
    name, dtype, shape, data = wire
    return name, torch.from_numpy(data.copy()).view(getattr(torch, dtype)).reshape(shape)


def unpacked(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Views of a model's tensors under the names that the trainer sends them by.

    transformers 5 has the experts of a layer in one tensor; verl sends them one by one, as checkpoints have them
    (``verl.workers.engine.fsdp.utils.unfuse_moe_params``).
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        layer, packed, kind = name.partition(".mlp.experts.")
        if not packed or tensor.dim() != 3:
            found[name] = tensor
            continue
        kinds = ("gate_proj", "up_proj") if kind == "gate_up_proj" else (kind,)
        for number, expert in enumerate(tensor):
            for part, view in zip(kinds, expert.chunk(len(kinds)), strict=True):
                found[f"{layer}{packed}{number}.{part}.weight"] = view
    return found


class TransformersServer:
    """Holds one copy of the policy and samples from it; concurrent single requests are gathered into batches.

    The model is built from the folder's config alone: weights arrive from the trainer before the first request.
    """

    def __init__(self, model_path: str, dtype: str, device: str, max_tokens: int, threads: int, batch_size: int):
        if threads:
            torch.set_num_threads(threads)
        config = AutoConfig.from_pretrained(model_path, attn_implementation="sdpa")
        self.model = auto_model(config).from_config(config, dtype=getattr(torch, dtype)).to(device).eval()
        self.routers = Routers(self.model)
        self.eos = eos_token_ids(model_path, AutoTokenizer.from_pretrained(model_path))
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.global_steps: int | None = None
        self.targets = unpacked(self.model.state_dict().items())
        self.parameters = set(unpacked(self.model.named_parameters()))
        self.received: set[str] = set()  # of the synchronisation under way
        self.ready = False
        self._waiting: list[tuple[list[int], int, SamplingParams, asyncio.Future[Sampled]]] = []
        self._gathering: asyncio.Task[None] | None = None

    def load_weights(self, wires: list[WireTensor], global_steps: int | None, last: bool) -> None:
        """Copy one bucket of weights into the model; with ``last`` every parameter must have arrived since the last."""
        state = dict(map(from_wire, wires))
        if unknown := sorted(state.keys() - self.targets.keys()):
            raise ValueError(f"the trainer sent weights that the rollout's model does not have: {unknown[:5]}")
        for name, tensor in state.items():
            if tensor.shape != self.targets[name].shape:
                raise ValueError(f"{name} is {[*tensor.shape]} at the trainer, {[*self.targets[name].shape]} here")
            self.targets[name].copy_(tensor)
        self.received |= state.keys()
        if last:
            missing, self.received = self.parameters - self.received, set()
            if missing:
                raise ValueError(f"the trainer never sent these weights: {sorted(missing)[:5]}")
            self.ready, self.global_steps = True, global_steps

    def sample_batch(
        self,
        prompts: list[list[int]],
        seeds: list[int],
        params: dict[str, Any],
        pictures: list[Pictures | None] | None = None,
    ) -> list[Sampled]:
        """Sample one response a prompt, in sub-batches of ``batch_size``; see ``harness.plugin.sampling.sample``."""
        settings = self._settings(params)
        responses: list[Sampled] = []
        for start in range(0, len(prompts), self.batch_size):
            part = slice(start, start + self.batch_size)
            shown = pictures[part] if pictures else None
            responses += sample(self.model, prompts[part], seeds[part], settings, self.eos, self.routers, shown)
        return responses

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **unsupported: Any
    ) -> Any:
        """verl's single-request interface (``LLMServerClient.generate``); returns its ``TokenOutput``."""
        from verl.workers.rollout.replica import TokenOutput

        if any(value is not None and value != [] for value in unsupported.values()):
            names = sorted(name for name, value in unsupported.items() if value is not None)
            raise NotImplementedError(
                f"a single request to the transformers rollout takes text only, not {names}; use rollout.name=vllm, or "
                "for pictures agent.agent_loop_manager_class=harness.plugin.agent_loop.BatchAgentLoopManager"
            )
        seed = sampling_params.get("seed")
        seed = crc32(request_id.encode()) if seed is None else int(seed)
        future: asyncio.Future[Sampled] = asyncio.get_running_loop().create_future()
        self._waiting.append((list(prompt_ids), seed, self._settings(sampling_params), future))
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._gather())
        tokens, log_probs, *_ = await future
        return TokenOutput(
            token_ids=tokens,
            log_probs=log_probs,
            stop_reason="completed",
            extra_fields={"global_steps": self.global_steps},
        )

    async def _gather(self) -> None:
        """Answer waiting requests in batches, until none waits; requests of one step arrive within milliseconds."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            await asyncio.sleep(0.02)
            settings = self._waiting[0][2]
            batch = [item for item in self._waiting if item[2] == settings][: self.batch_size]
            self._waiting = [item for item in self._waiting if all(item is not taken for taken in batch)]
            prompts, seeds = [item[0] for item in batch], [item[1] for item in batch]
            try:
                answers = await loop.run_in_executor(None, sample, self.model, prompts, seeds, settings, self.eos)
            except Exception as error:  # noqa: BLE001  (belongs to the callers who wait)
                for *_, future in batch:
                    if not future.done():  # its caller may have given up
                        future.set_exception(error)
                continue
            for (*_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        self._gathering = None

    def _settings(self, params: dict[str, Any]) -> SamplingParams:
        if not self.ready:
            raise RuntimeError("asked to sample before any weights arrived")
        if params.get("repetition_penalty", 1.0) != 1.0:
            raise NotImplementedError("the transformers rollout has no repetition_penalty")
        limit = params.get("max_tokens") or params.get("max_new_tokens") or self.max_tokens
        return SamplingParams(
            temperature=float(params.get("temperature", 1.0)),
            top_p=float(params.get("top_p", 1.0)),
            top_k=int(params.get("top_k", -1)),
            max_tokens=min(int(limit), self.max_tokens),
        )

    async def sleep(self) -> None:
        """Nothing to give back: the cache lives only while sampling. The same holds for the calls below."""

    async def wake_up(self) -> None:
        pass

    async def clear_kv_cache(self) -> None:
        pass

    async def release_kv_cache(self) -> None:
        pass

    async def resume_kv_cache(self) -> None:
        pass

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        pass

    async def resume_generation(self) -> None:
        pass

    async def start_profile(self, **_: Any) -> None:
        pass

    async def stop_profile(self) -> None:
        pass
