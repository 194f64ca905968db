"""slime: ``loss_function`` of its Megatron backend, with a model that answers with the call's log-probabilities."""

import ast
import inspect
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .settings import merged
from .standin import load as load_module
from .standin import root, version

LOSS = "slime/backends/megatron_utils/loss.py"
ARGUMENTS = "slime/utils/arguments.py"
NAMES = ("loss_function", "policy_loss_function", "get_log_probs_and_entropy", "mpu")
# Megatron's own arguments, which the loss reads beside slime's.
MEGATRON = {"calculate_per_token_loss": False, "context_parallel_size": 1, "qkv_format": "thd"}


def load(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """``name``: an ``--advantage-estimator``; ``settings``: slime's options, as ``eps_clip=3.5e-4``."""
    folder = root("slime", "slime", [LOSS, ARGUMENTS])
    defaults, choices = options(folder / ARGUMENTS)
    known = choices.get("advantage_estimator", ())
    if name not in known:
        raise ValueError(f"this slime has no advantage estimator {name}; it has {', '.join(known)}")
    values = merged("slime", settings, {**MEGATRON, **defaults})
    module = load_module("slime", "slime.backends.megatron_utils.loss", NAMES)
    reducers = load_module("slime", "slime.backends.megatron_utils.cp_utils", ["mpu"])
    args = Namespace(**{**values, "advantage_estimator": name, "loss_type": "policy_loss"})
    if args.eps_clip_high is None:  # as slime_validate_args does
        args.eps_clip_high = args.eps_clip
    pair = "_, log_probs_and_entropy" in inspect.getsource(module.policy_loss_function)
    takes = inspect.signature(module.loss_function).parameters

    def function(call: Any) -> Any:
        lengths = [int(n) for n in call.response_mask.sum(-1)]

        def rows(values: torch.Tensor) -> list[torch.Tensor]:  # slime packs: it has no padding
            return [row[:n] for row, n in zip(values, lengths, strict=True)]

        answer = {"log_probs": rows(call.log_prob), "entropy": rows(torch.zeros_like(call.old_log_prob))}
        module.get_log_probs_and_entropy = lambda *_, **__: (None, answer) if pair else answer
        module.mpu = reducers.mpu = SimpleNamespace(
            get_context_parallel_world_size=lambda: 1,
            get_context_parallel_group=lambda: None,
            get_data_parallel_world_size=lambda **_: call.ranks,
        )
        batch = {
            "advantages": rows(call.advantages),
            "log_probs": rows(call.old_log_prob),
            "rollout_log_probs": rows(call.old_log_prob),
            "ref_log_probs": rows(call.ref_log_prob),
            "loss_masks": [torch.ones(n) for n in lengths],
            "rollout_mask_sums": [torch.tensor(float(n)) for n in lengths],  # a rollout is one response
            "response_lengths": lengths,
            "total_lengths": [n + 1 for n in lengths],
            "unconcat_tokens": [torch.zeros(n + 1, dtype=torch.long) for n in lengths],
        }
        args.global_batch_size = call.responses
        more = {"step_global_batch_size": call.responses} if "step_global_batch_size" in takes else {}
        loss = module.loss_function(args, batch, call.micro_batches, logits=torch.zeros(1, 1, 1), **more)[0]
        # What Megatron does: with a loss per token it adds up gradients over micro-batches and ranks and divides them
        # by all tokens; otherwise it averages over both.
        return loss / call.tokens * call.ranks if args.calculate_per_token_loss else loss / call.micro_batches

    note = "calculate_per_token_loss" if args.calculate_per_token_loss else "mean over samples"
    return SimpleNamespace(
        function=function, version=version("slime", folder), takes_weights=False, equal_rows=False, note=note
    )


def options(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """(default, choices) of each option that a file gives to an argparse parser, by its destination."""
    defaults: dict[str, Any] = {}
    choices: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or "arg" not in ast.unparse(node.func).rpartition(".")[2]:
            continue
        words = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        given = {key.arg: key.value for key in node.keywords if key.arg}
        if not words or not words[0].startswith("--"):
            continue
        key = _literal(given.get("dest")) or words[0].removeprefix("--").replace("-", "_")
        action = _literal(given.get("action"))
        defaults[key] = (
            _literal(given["default"]) if "default" in given else {"store_false": True, "store_true": False}.get(action)
        )
        if listed := _literal(given.get("choices")):
            choices[key] = tuple(listed)
    return defaults, choices


def _literal(node: ast.expr | None) -> Any:
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:  # an expression: None, as if it had no default
        return None
