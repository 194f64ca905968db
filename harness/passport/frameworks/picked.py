"""OpenRLHF, SkyRL and AReaL: their loss functions, from their own source text, without the packages around them.

Importing these frameworks needs DeepSpeed, an inference engine and more. A loss needs torch alone, so only the
functions and classes that it consists of are executed, each exactly as its file has it.
"""

import ast
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .settings import merged

PPO = "skyrl/backends/skyrl_train/utils/ppo_utils.py"
SKYRL_LOSSES = {
    "regular": "ppo_policy_loss",
    "dual_clip": "ppo_policy_loss",
    "gspo": "gspo_policy_loss",
    "sapo": "sapo_policy_loss",
    "cispo": "compute_policy_loss_cispo",
}
# Defaults of skyrl.train.config.config.AlgorithmConfig and of the configurations in it, as far as the losses read them.
SKYRL_DEFAULTS = {
    "eps_clip_low": 0.2, "eps_clip_high": 0.2, "clip_ratio_c": 3.0, "loss_reduction": "token_mean", "max_seq_len": None,
    "tau_pos": 1.0, "tau_neg": 1.05, "cispo_eps_clip_low": 0.0, "cispo_eps_clip_high": 5.0, "use_kl_loss": True,
    "kl_loss_coef": 0.001, "kl_estimator_type": "k3",
}  # fmt: skip
OPENRLHF_DEFAULTS = {"clip_eps_low": 0.2, "clip_eps_high": 0.2, "dual_clip": None, "token_level_loss": True}
AREAL_DEFAULTS = {
    "eps_clip": 0.2, "eps_clip_higher": None, "c_clip": None, "importance_sampling_level": "token",
    "tau_pos": 1.0, "tau_neg": 1.05,
}  # fmt: skip


def load(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """``name``: FRAMEWORK:LOSS; ``settings``: arguments of the loss, by default those of the framework's command."""
    framework, _, loss = name.partition(":")
    return {"openrlhf": openrlhf, "skyrl": skyrl, "areal": areal}[framework](loss, settings)


def pick(framework: str, file: str, names: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    """Execute the top-level definitions ``names`` of a framework's file, without decorators; ``given``: what they read
    from elsewhere. Raises ValueError, one line, where the framework or a definition is missing."""
    spec = importlib.util.find_spec(framework)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{framework} is not in this Python")
    path = Path(next(iter(spec.submodule_search_locations))).parent / file
    if not path.is_file():
        raise ValueError(f"this {framework} has no {file}")
    tree = ast.parse(path.read_text())
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"this {framework} has no {missing[0]} in {file}")
    future = ast.parse("from __future__ import annotations").body  # annotations name types from elsewhere
    chosen = [found[name] for name in names]
    for node in chosen:
        node.decorator_list = []
    scope: dict[str, Any] = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, **given}
    exec(compile(ast.Module([*future, *chosen], []), str(path), "exec"), scope)
    return scope


def openrlhf(loss: str, settings: dict[str, str]) -> SimpleNamespace:
    """``ppo`` or ``gspo`` of ``models.loss.PolicyLoss``; the sizes it is given are those of ``utils.loss_utils``."""
    values = merged("openrlhf", settings, OPENRLHF_DEFAULTS)
    masked_mean = pick("openrlhf", "openrlhf/models/utils.py", ["masked_mean"], {})["masked_mean"]
    file = "openrlhf/models/loss.py"
    scope = pick("openrlhf", file, ["aggregate_loss", "PolicyLoss"], {"masked_mean": masked_mean})
    policy_loss = scope["PolicyLoss"](policy_loss_type=loss, **values)
    policy_loss(
        *[torch.zeros(1, 1)] * 3, torch.ones(1, 1)
    )  # an unknown type is refused here and not in the first probe

    def function(call: Any) -> Any:
        micro = call.micro_batches  # the trainer divides the sizes by it, because DeepSpeed divides the loss by it
        sizes = {"batch_num_tokens": call.tokens / micro, "global_batch_size": call.responses / micro}
        arguments = (call.log_prob, call.old_log_prob, call.advantages, call.response_mask.double())
        return policy_loss(*arguments, dp_size=call.ranks, **sizes)[0] / micro

    return _loaded("openrlhf", function, f"token_level_loss={policy_loss.token_level_loss}")


def skyrl(loss: str, settings: dict[str, str]) -> SimpleNamespace:
    """A loss of ``PolicyLossRegistry``, its reduction, and the KL loss as the FSDP worker adds it."""
    if loss not in SKYRL_LOSSES:
        raise ValueError(f"skyrl: {loss} is none of {', '.join(SKYRL_LOSSES)}")
    values = merged("skyrl", settings, SKYRL_DEFAULTS)
    given = pick("skyrl", "skyrl/backends/skyrl_train/utils/torch_utils.py", ["masked_mean", "safe_exp_delta"], {})
    given |= {"apply_off_policy_correction": lambda value, *rest: (value, rest[2], {}), "wraps": wraps}
    names = [SKYRL_LOSSES[loss], "reduce_loss", "apply_loss_reduction_to_advantages_minibatch", "compute_approx_kl"]
    scope = pick("skyrl", PPO, names, given)
    config = SimpleNamespace(policy_loss_type=loss, **values)
    config.sapo = config.cispo = config
    config.off_policy_correction = None

    def function(call: Any) -> Any:
        rows, width = call.log_prob.shape
        # The reduction is one of the whole update: the rows of other micro-batches are rows with as many tokens.
        rest = call.tokens - int(call.response_mask.sum())
        mask = torch.zeros(call.responses, max(width, rest), dtype=torch.float64)
        mask[:rows, :width] = call.response_mask
        if call.responses > rows:
            mask[rows, :rest] = 1
        advantages = torch.zeros_like(mask)
        advantages[:rows, :width] = call.advantages
        reduced = scope["apply_loss_reduction_to_advantages_minibatch"](
            advantages, mask, values["loss_reduction"], rows, values["max_seq_len"]
        )[:rows, :width]
        value, _ = scope[SKYRL_LOSSES[loss]](
            call.log_prob, call.old_log_prob, reduced, config, call.response_mask.double()
        )
        value = value * call.ranks
        if values["use_kl_loss"]:
            own = call.response_mask.double()
            kl = scope["compute_approx_kl"](
                call.log_prob, call.ref_log_prob, loss_mask=own, kl_estimator_type=values["kl_estimator_type"]
            )
            value = value + values["kl_loss_coef"] * given["masked_mean"](kl, own, dim=-1).mean() / call.micro_batches
        return value

    return _loaded("skyrl", function, f"loss_reduction={values['loss_reduction']}")


def areal(loss: str, settings: dict[str, str]) -> SimpleNamespace:
    """``ppo`` or ``sapo``; the engine weighs micro-batches by their tokens."""
    if loss not in ("ppo", "sapo"):
        raise ValueError(f"areal: {loss} is none of ppo, sapo; GSPO is areal:ppo,importance_sampling_level=sequence")
    values = merged("areal", settings, AREAL_DEFAULTS)
    names = ["_compute_sequence_level_ratio_and_advantages", "ppo_actor_loss_fn", "sapo_loss_fn"]
    scope = pick("areal", "areal/utils/functional/functional.py", names, {})
    level = values["importance_sampling_level"]

    def function(call: Any) -> Any:
        mask = call.response_mask
        if loss == "sapo":
            value, _ = scope["sapo_loss_fn"](
                call.log_prob, call.old_log_prob, call.advantages, values["tau_pos"], values["tau_neg"], mask, level
            )
        else:
            value, _ = scope["ppo_actor_loss_fn"](
                call.log_prob, call.old_log_prob, call.old_log_prob, call.advantages, values["eps_clip"], mask,
                values["eps_clip_higher"], values["c_clip"], importance_sampling_level=level,
            )  # fmt: skip
        return value * int(mask.sum()) / call.tokens * call.ranks

    return _loaded("areal", function, f"importance_sampling_level={level}")


def _loaded(framework: str, function: Any, note: str) -> SimpleNamespace:
    try:
        version = f"{framework} {importlib.metadata.version(framework)}"
    except importlib.metadata.PackageNotFoundError:
        version = f"{framework}, a checkout"
    return SimpleNamespace(function=function, version=version, takes_weights=False, equal_rows=False, note=note)
