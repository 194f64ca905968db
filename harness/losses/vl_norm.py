"""VL Norm (Delta L Normalization), arXiv 2509.07558: a sum over tokens, its response weighted by |y|^-alpha."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from harness.losses.spec import SUM_MODES
from harness.losses.weighting import WeightedSpec, alone, summed_surrogate

if TYPE_CHECKING:
    import torch


def vl_norm(**arguments: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Minus the mean over responses of w / M times the sum over tokens of min(r A, clip(r) A).

    w: ``vl_norm_weights``, given as ``rollout_is_weights``. M: ``loss_scale_factor``, the longest possible response.
    Source: ``compute_policy_loss`` with ``use_grpopp`` in github.com/zerolllin/Delta-L-Normalization, the authors',
    which multiplies the advantages by w; the surrogate is linear in them, so that is the same.
    Arguments and results as of verl's policy losses, tensors (batch, response_length). Raises ValueError for an
    aggregation that is not a sum over the response.
    """
    return summed_surrogate("vl_norm", arguments)


def vl_norm_weights(config: Any, tokens: torch.Tensor, advantages: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """|y|^-alpha over its mean in the step, (responses,); neither advantages nor groups play a part.

    Source: ``compute_grpo_outcome_advantage`` of the same repository, whose mean is over all responses of a step.
    """
    powers = tokens.double() ** -config.policy_loss.alpha
    return powers / powers.mean()


SPEC = WeightedSpec(
    "vl_norm",
    aggregations=SUM_MODES,
    derivative_is_ratio=True,
    function=vl_norm,
    rule=partial(alone, "vl_norm"),
    weights=vl_norm_weights,
)
