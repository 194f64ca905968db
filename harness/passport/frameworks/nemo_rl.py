"""NeMo RL: ``ClippedPGLossFn`` with the ``loss_fn`` section of one of its own YAML files."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from .settings import merged, numbers
from .standin import load as load_module
from .standin import root, version

LOSS = "nemo_rl/algorithms/loss/loss_functions.py"
BASE = "grpo_math_1B"


def load(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """``name``: ``grpo``, or a YAML file below ``examples`` without its ending, as ``grpo-gspo-deepscaler-1.5b-8K``;
    ``settings``: keys of its ``loss_fn``."""
    try:
        folder = root("nemo_rl", "nemo_rl", [LOSS])
    except ValueError as error:
        raise ValueError(f"{error}; NeMo RL before 0.6 takes logits, not log-probabilities") from None
    defaults = recipe(folder / "examples", BASE if name == "grpo" else name)
    if "ratio_clip_min" not in defaults:
        raise ValueError(f"{name}.yaml of this nemo_rl is no recipe with a clipped policy gradient: no ratio_clip_min")
    module = load_module(
        "nemo_rl", "nemo_rl.algorithms.loss.loss_functions", ["ClippedPGLossFn", "ClippedPGLossConfig"]
    )
    values = merged("nemo_rl", settings, defaults)
    validate = getattr(module.ClippedPGLossConfig, "model_validate", dict)  # a plain dictionary until 0.6
    loss_fn = module.ClippedPGLossFn(validate(values))
    if "next_token_logprobs" not in inspect.signature(loss_fn.__call__).parameters:
        raise ValueError("this nemo_rl is of an unknown version: ClippedPGLossFn takes no next_token_logprobs")

    def function(call: Any) -> Any:
        def shifted(values: torch.Tensor) -> torch.Tensor:  # theirs have a first token, which nothing predicts
            return torch.cat([torch.zeros_like(values[:, :1]), values], dim=1)

        data = {
            "token_mask": shifted(call.response_mask.double()),
            "sample_mask": torch.ones(len(call.log_prob), dtype=torch.float64),
            "advantages": shifted(call.advantages),
            "prev_logprobs": shifted(call.old_log_prob),
            "generation_logprobs": shifted(call.old_log_prob),
            "reference_policy_logprobs": shifted(call.ref_log_prob),
        }
        sizes = {"global_valid_seqs": torch.tensor(call.responses), "global_valid_toks": torch.tensor(call.tokens)}
        loss, _ = loss_fn(next_token_logprobs=call.log_prob, data=data, **sizes)
        return loss * call.ranks  # as the policy workers do before the backward pass

    level = "sequence" if values.get("sequence_level_importance_ratios") else "token"
    return SimpleNamespace(
        function=function,
        version=version("nemo_rl", folder),
        takes_weights=False,
        equal_rows=False,
        note=f"{level}-level ratios, token_level_loss={str(values['token_level_loss']).lower()}",
    )


def recipe(folder: Path, name: str) -> dict[str, Any]:
    """``loss_fn`` of a YAML file below ``folder``, over that of its ``defaults``. Raises ValueError, one line."""
    found = sorted(folder.rglob(f"{name}.yaml"))
    if not found:
        raise ValueError(f"this nemo_rl has no examples/**/{name}.yaml; nemo_rl:grpo is {BASE}.yaml")
    return _loss_fn(found[0])


def _loss_fn(path: Path) -> dict[str, Any]:
    import yaml

    given = yaml.safe_load(path.read_text())
    above = given.get("defaults", [])
    below: dict[str, Any] = {}
    for other in [above] if isinstance(above, str) else above:
        below |= _loss_fn(path.parent / other)
    return below | numbers(given.get("loss_fn", {}))
