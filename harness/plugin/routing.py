"""Which experts a mixture of experts sends a token to: read at the rollout and again at the update, and compared.

A router is read by a hook that lets what it sees pass unchanged. A model without routers gets no hook, so that nothing
is read, sent or recorded of it.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from tensordict import TensorDict

FIELD = "routed_experts"  # verl's name of what the rollout chose: (tokens, layers, k) of prompt and response


class Routers:
    """The experts that the routers of ``model`` chose in its last forward pass; false for a model that has none."""

    def __init__(self, model: nn.Module):
        kind = _kind(model)
        routers = [module for module in model.modules() if kind and isinstance(module, kind)]
        self._chosen: list[torch.Tensor | None] = [None] * len(routers)
        for layer, router in enumerate(routers):
            router.register_forward_hook(partial(self._take, layer))

    def __bool__(self) -> bool:
        return bool(self._chosen)

    def chosen(self) -> torch.Tensor:
        """(tokens, layers, k), int16, ids in ascending order; tokens in the order of the flattened batch.

        ValueError if a router did not say which experts it chose.
        """
        layers = [chosen for chosen in self._chosen if chosen is not None]
        if len(layers) < len(self._chosen):
            raise ValueError("a router returned no ids of experts")
        return torch.stack(layers, dim=1)

    def _take(self, layer: int, router: nn.Module, inputs: Any, output: Any) -> None:
        ids = [part for part in output if torch.is_tensor(part) and not part.is_floating_point()]
        self._chosen[layer] = ids[0].detach().sort(-1).values.to(torch.int16) if ids else None


def _kind(model: nn.Module) -> type[nn.Module] | None:
    """The class of the model's routers, from what transformers lets its models record (``output_router_logits``)."""
    recorder = (getattr(model, "_can_record_outputs", None) or {}).get("router_logits")
    kind = getattr(recorder, "target_class", recorder)
    return kind if isinstance(kind, type) else None


def watch(group: Any) -> None:
    """Let the ``RecordingLoss`` of every worker of the actor's ``group`` see the routers of that worker's model."""
    import ray

    ray.get([worker.__ray_call__.remote(_watch) for worker in group.workers])


def _watch(worker: Any) -> None:
    """Runs in the worker's process: what is colocated there, or the one role that it has."""
    for role in getattr(worker, "worker_dict", {"": worker}).values():
        actor = getattr(role, "actor", None)
        model = getattr(getattr(actor, "engine", None), "module", None)
        if actor and isinstance(model, nn.Module):  # Megatron's are a list, and have other routers
            actor.loss_fn.routers = Routers(model)


def changed(chosen: torch.Tensor, data: "TensorDict") -> list[dict[str, float]]:
    """``rundir.ROUTING_COLUMNS`` of each response of a micro-batch; empty where the rollout did not say what it chose.

    chosen: of the pass that the loss is of (``Routers.chosen``), over the micro-batch without padding or padded on the
    right. A response's token counts by the position before it, where it was predicted; so its last one, which is never
    fed to the model again, counts too.
    """
    nothing: list[dict[str, float]] = [{} for _ in range(len(data))]
    rollout = data.get(FIELD, None)
    if rollout is None:
        return nothing
    offsets = rollout.offsets()
    lengths = offsets.diff()
    longest = int(lengths.max())
    if len(chosen) == len(lengths) * longest:
        real = torch.arange(longest, device=lengths.device) < lengths.unsqueeze(-1)
        chosen = chosen[real.flatten()]
    if chosen.shape != rollout.values().shape:  # a share of the tokens alone (sequence parallel)
        return nothing
    differs = chosen != rollout.values().sort(-1).values.to(chosen)
    differs = differs.any(-1)  # (tokens, layers): another set of experts
    prompts = data["prompts"].offsets().diff()
    found: list[dict[str, float]] = []
    for start, end, prompt, mask in zip(
        offsets[:-1].tolist(), offsets[1:].tolist(), prompts.tolist(), data["response_mask"].unbind(), strict=True
    ):
        of_response = differs[start + prompt - 1 : end - 1][mask.bool()]
        layers = float(of_response.float().mean()) if len(of_response) else 0.0
        found.append({"routing_changed": int(of_response.any(-1).sum()), "routing_changed_layers": layers})
    return found
