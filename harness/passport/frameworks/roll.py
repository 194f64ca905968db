"""ROLL: ``loss_func`` of its RLVR actor, with a strategy that answers with the log-probabilities of the call."""

import dataclasses
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .settings import merged, numbers
from .standin import load as load_module
from .standin import root, version

FILES = ("roll/pipeline/rlvr/actor_worker.py", "roll/pipeline/rlvr/rlvr_config.py")


def load(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """``name``: ``rlvr``, the defaults of ``RLVRConfig``, or a YAML file below ``examples`` without its ending, as
    ``example_gspo``; ``settings``: fields of ``RLVRConfig``."""
    folder = root("roll", "roll", FILES)
    config_class = load_module("roll", "roll.pipeline.rlvr.rlvr_config", ["RLVRConfig"]).RLVRConfig
    worker_class = load_module("roll", "roll.pipeline.rlvr.actor_worker", ["ActorWorker"]).ActorWorker
    defaults = {field.name: _default(field) for field in dataclasses.fields(config_class)}
    if name != "rlvr":
        defaults |= _example(folder, name, defaults)
    values = merged("roll", settings, defaults)
    worker = object.__new__(worker_class)
    worker.pipeline_config = SimpleNamespace(**values)
    worker.worker_config = SimpleNamespace(use_dynamic_batching_in_train=False)
    worker.strategy = SimpleNamespace(  # both strategies of ROLL multiply by the mask
        op_compute_log_probs=lambda logits, input_ids, attention_mask: logits * attention_mask[:, 1:],
        op_compute_entropy=lambda logits, attention_mask: torch.zeros_like(logits),
    )
    scaled = "global_valid_samples" in inspect.getsource(worker_class.loss_func)  # older ones average micro-batches

    def function(call: Any) -> Any:
        mask = call.response_mask.long()
        full = torch.cat([torch.zeros_like(mask[:, :1]), mask], dim=1)  # one token of a prompt
        batch = {
            "input_ids": torch.zeros_like(full), "response_mask": full, "advantages": call.advantages,
            "old_log_probs": call.old_log_prob * mask, "ref_log_probs": call.ref_log_prob * mask,
            "train_infer_is_weight": torch.ones_like(call.old_log_prob),
        }  # fmt: skip
        sizes = {
            "batch_num_tokens": {"response_mask": call.tokens},
            "global_valid_samples": {"response_mask": call.responses},
        }
        loss, _ = worker.loss_func(SimpleNamespace(batch=batch, meta_info=sizes, non_tensor_batch={}), call.log_prob)
        # The strategies multiply by micro-batches and ranks (apply_loss_scale); the engines average over both.
        return loss * call.ranks if scaled else loss / call.micro_batches

    return SimpleNamespace(
        function=function,
        version=version("roll", folder),
        takes_weights=False,
        equal_rows=not scaled,
        note=f"importance_sampling={values['importance_sampling']}, loss_agg_mode={values['loss_agg_mode']}",
    )


def _default(field: Any) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _example(folder: Path, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What an example sets of ``fields`` as plain values."""
    import yaml

    found = sorted((folder / "examples").rglob(f"{name}.yaml"))
    if not found:
        raise ValueError(f"this roll has no examples/**/{name}.yaml; roll:rlvr has RLVRConfig's defaults")
    given = numbers(yaml.safe_load(found[0].read_text()))
    plain = (bool, int, float, str)
    return {k: v for k, v in given.items() if k in fields and isinstance(v, plain) and "${" not in str(v)}
