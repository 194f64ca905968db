"""Balanced Aggregation, arXiv 2605.04077: means over tokens within each sign of the advantage of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.losses.spec import SUM_MODES
from harness.losses.weighting import WeightedSpec, alone, summed_surrogate

if TYPE_CHECKING:
    import torch


def balanced(**arguments: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Minus the mean over groups of k/G M(+) + (G-k)/G M(-).

    G, k: responses of the group, those with positive advantage. M(+), M(-): mean of min(r A, clip(r) A) over all tokens
    of the responses with positive, negative advantage. As a sum over tokens with a weight of each response:
    ``balanced_weights``, given as ``rollout_is_weights``.

    Source: the paper's abstract (means over tokens within the positive and the negative subset, combined with weights
    by the count of sequences). Our reading: a response with advantage 0 belongs to neither subset and counts in G,
    which for rewards of two values says nothing; every group weighs the same.
    Arguments and results as of verl's policy losses, tensors (batch, response_length). Raises ValueError for an
    aggregation that is not a sum over the response.
    """
    return summed_surrogate("balanced", arguments)


def balanced_weights(config: Any, tokens: torch.Tensor, advantages: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """1 over the mean length of the responses of its group whose advantage has its sign, (responses,).

    The mean over all responses then gives a group's subset of k responses and T tokens the factor k / T, so with the
    sum over its tokens k/G times their mean.
    """
    together = (groups[:, None] == groups) & (advantages.sign()[:, None] == advantages.sign())
    together = together.double()
    return together.sum(-1) / (together @ tokens.double())


def _rule(flat: dict[str, Any]) -> str:
    if flat["harness.clip"] == "own":
        return "balanced has no clip=own: the clip range of its paper is not known here; use clip=preset"
    return alone("balanced", flat)


SPEC = WeightedSpec(
    "balanced",
    aggregations=SUM_MODES,
    derivative_is_ratio=True,
    function=balanced,
    rule=_rule,
    weights=balanced_weights,
)
