"""EasyR1: its actor's ``update_policy``, with a model that answers with the log-probabilities of the call."""

import inspect
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any, get_args

import torch

from .settings import merged
from .standin import load as load_module
from .standin import root, version

ACTOR = "verl/workers/actor/dp_actor.py"
CONFIG = "examples/config.yaml"  # every script of EasyR1 starts from it
KL = ("disable_kl", "use_kl_loss", "kl_penalty", "kl_coef")  # of AlgorithmConfig, copied to the actor's
SPLIT = "micro_batch_size_per_device_for_update"


def load(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """``name``: a ``loss_type`` of ``ActorConfig``; ``settings``: its fields, and the KL's of ``AlgorithmConfig``.

    The call's micro-batch is one micro-batch of theirs, unless ``micro_batch_size_per_device_for_update`` is set:
    then they split it further, with ``dynamic_batching=true`` as they balance tokens.
    """
    import yaml

    folder = root("easyr1", "verl", [ACTOR, "verl/workers/actor/config.py", CONFIG])
    config_class = load_module("easyr1", "verl.workers.actor.config", ["ActorConfig"]).ActorConfig
    algorithm = load_module("easyr1", "verl.trainer.config", ["AlgorithmConfig"]).AlgorithmConfig
    module = load_module("easyr1", "verl.workers.actor.dp_actor", ["DataParallelPPOActor", "DataProto"])
    shipped = yaml.safe_load((folder / CONFIG).read_text())
    kl = {**_plain(algorithm), **shipped["algorithm"]}
    defaults = {**_plain(config_class), **shipped["worker"]["actor"], **{key: kl[key] for key in KL}}
    defaults |= {SPLIT: None, "dynamic_batching": False}
    core = load_module("easyr1", "verl.trainer.core_algos", ["compute_policy_loss"])
    loss_type = inspect.signature(core.compute_policy_loss).parameters.get("loss_type")
    known = get_args(loss_type.annotation) if loss_type else ("default",)
    if name not in known:  # EasyR1 itself takes any other word for the default
        raise ValueError(f"this easyr1 has no loss_type {name}; it has {', '.join(known)}")
    values = merged("easyr1", settings, defaults)
    config = config_class()
    vars(config).update(values, loss_type=name, ppo_epochs=1, use_torch_compile=False)
    actor_class = module.DataParallelPPOActor
    divides = "gradient_accumulation" in inspect.getsource(actor_class.update_policy)  # older versions
    actor = actor_class(config, torch.nn.Module())
    actor.rank = 1  # rank 0 draws progress bars
    actor._optimizer_step = lambda: torch.zeros(())

    def function(call: Any) -> Any:
        rows = len(call.log_prob)
        config.global_batch_size_per_device = rows
        setattr(config, SPLIT, values[SPLIT] or rows)
        actor.world_size = call.ranks
        # What a rank sums up over its micro-batches, summed over the ranks.
        module.dist = SimpleNamespace(
            all_reduce=lambda t, **_: t.fill_(call.tokens), ReduceOp=torch.distributed.ReduceOp
        )
        actor._forward_micro_batch = lambda batch, **_: call.log_prob[batch["input_ids"][:, 0]]
        actor.update_policy(_data(module.DataProto, call, values["use_kl_loss"] and not values["disable_kl"]))
        if call.log_prob.grad is None:
            raise ValueError("easyr1: update_policy left no gradient")
        left = call.log_prob.grad.clone()
        return (call.log_prob * left).sum() / (call.micro_batches if divides else 1)

    return SimpleNamespace(
        function=function,
        version=version("easyr1", folder),
        takes_weights=False,
        equal_rows=divides,
        note=f"loss_avg_mode={values.get('loss_avg_mode', 'token')}",
    )


def _data(proto: Any, call: Any, reference: bool) -> Any:
    """The call as EasyR1's ``DataProto``; ``input_ids`` hold a response's number."""
    mask = call.response_mask.long()
    number = torch.arange(len(mask))[:, None].expand(mask.shape).contiguous()
    tensors = {
        "input_ids": number, "attention_mask": mask, "position_ids": number, "responses": number,
        "response_mask": mask, "old_log_probs": call.old_log_prob, "advantages": call.advantages,
    }  # fmt: skip
    if reference:
        tensors["ref_log_probs"] = call.ref_log_prob
    data = proto.from_dict(tensors=tensors)
    data.meta_info["temperature"] = 1.0
    return data


def _plain(config_class: Any) -> dict[str, Any]:
    """The defaults of a dataclass's fields that are plain values."""
    return {field.name: field.default for field in fields(config_class) if field.default is not MISSING}
