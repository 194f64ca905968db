"""TRL: ``GRPOTrainer._compute_loss`` of an instance that has what this method reads and no model."""

import importlib
import importlib.metadata
import inspect
import tempfile
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch

from .settings import parsed


def load(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """``name`` is ``grpo``, the only trainer; ``settings``: arguments of ``GRPOConfig``, as ``loss_type=luspo``."""
    if name != "grpo":
        raise ValueError(f"trl: there is no trainer {name}; use trl:grpo, with a loss as trl:grpo,loss_type={name}")
    module = importlib.import_module("trl.trainer.grpo_trainer")
    config_class = importlib.import_module("trl.trainer.grpo_config").GRPOConfig
    unknown = set(settings) - set(inspect.signature(config_class).parameters)
    if unknown:
        raise ValueError(f"trl: GRPOConfig has no {', '.join(sorted(unknown))}")
    values = {key: parsed(value) for key, value in settings.items()}
    with tempfile.TemporaryDirectory() as folder:
        args = config_class(output_dir=folder, bf16=False, report_to="none", use_cpu=True, **values)
    body = module.GRPOTrainer
    if not hasattr(body, "_compute_loss"):
        raise ValueError("trl: this version has no GRPOTrainer._compute_loss; 0.19 and later have")
    source = inspect.getsource(body._compute_loss)
    scales_itself = "current_gradient_accumulation_steps" in source  # else transformers' trainer divides
    weighted = "importance_sampling_ratio" in source

    def function(call: Any) -> Any:
        trainer = _trainer(body, args, call, source)
        trainer.use_vllm = weighted and call.weights is not None
        rows = len(call.log_prob)
        inputs = {
            "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
            "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
            "completion_ids": torch.zeros(call.log_prob.shape, dtype=torch.long),
            "completion_mask": call.response_mask.long(),
            "advantages": call.advantages[:, 0],
            "old_per_token_logps": call.old_log_prob,
            "ref_per_token_logps": call.ref_log_prob,
            "num_items_in_batch": torch.tensor(call.tokens),
            "importance_sampling_ratio": call.weights,
        }
        if not trainer.use_vllm:
            del inputs["importance_sampling_ratio"]
        loss = trainer._compute_loss(trainer.model, inputs)
        return loss if scales_itself else loss / call.micro_batches

    return SimpleNamespace(
        function=function,
        version=f"trl {importlib.metadata.version('trl')}",
        takes_weights=weighted,
        equal_rows=True,
        note=f"loss_type={args.loss_type}, {getattr(args, 'importance_sampling_level', 'token')} level",
    )


def _trainer(body: Any, args: Any, call: Any, source: str) -> Any:
    """A ``GRPOTrainer`` made without ``__init__``, with the attributes that it copies from ``args``."""
    trainer = object.__new__(body)
    copied = {key: value for key, value in vars(args).items() if not key.startswith("_")}
    trainer.__dict__.update(copied)

    def same(value: Any, *_: Any, **__: Any) -> Any:
        return value

    args.steps_per_generation = call.micro_batches
    trainer.__dict__.update(
        args=args,
        epsilon_low=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=call.ranks, gather=same, gather_for_metrics=same, reduce=same, sync_gradients=True
        ),
        current_gradient_accumulation_steps=call.micro_batches,
        vllm_importance_sampling_correction=True,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    entropies = torch.zeros_like(
        call.log_prob
    )  # of logits that are not there; a loss with an entropy bonus is not probed
    answer: Any = (call.log_prob, entropies, None) if "entropies, aux_loss" in source else (call.log_prob, entropies)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: answer
    trainer._get_per_token_logps = lambda *_, **__: call.log_prob
    return trainer
