"""One row per response, built where everything about it is known: inside verl's loss function.

The micro-batch that reaches the loss still carries verl's TransferQueue fields (prompt index, session, advantages,
log-probabilities, entropy, reward parts), so no join is needed. The rows travel home as a plain list in the loss's
metrics, which verl extends over micro-batches, ranks and updates. Training is bit-identical without recording.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import torch
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.utils.padding import no_padding_2_padding

from harness.losses.registry import spec_of
from harness.losses.spec import LARGEST_LOG_RATIO, LossSpec
from harness.plugin import probe, routing

ROWS = "recorded_rows"
FIELDS = ("response_mask", "old_log_probs", "advantages", "entropy", "rm_scores", "rollout_log_probs")
WEIGHTS = "rollout_is_weights"  # verl's rollout correction, where it is on

Row = dict[str, Any]
LossFn = Callable[..., tuple[torch.Tensor, dict[str, Any]]]


@dataclass
class RecordingLoss:
    """verl's loss function ``(model_output, data, dp_group) -> (loss, metrics)`` with rows added to its metrics.

    ``loss`` is verl's own (``partial(ppo_loss, config=config)``) and its value and graph pass through untouched; the
    policy loss is evaluated a second time on detached log-probabilities to read its derivative.
    """

    loss: LossFn
    config: ActorConfig
    checked: bool = field(default=False, repr=False)
    routers: routing.Routers | None = field(default=None, repr=False)  # of a worker's model (``routing.watch``)

    def __call__(
        self, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        if not self.checked:  # once in every worker: the loss that is installed here is the one that trains
            probe.check(self.config)
            self.checked = True
        value, metrics = self.loss(model_output=model_output, data=data, dp_group=dp_group)
        log_prob = no_padding_2_padding(model_output["log_probs"], data).detach()
        rows = response_rows(self.config, log_prob, data)
        if self.routers:
            for row, more in zip(rows, routing.changed(self.routers.chosen(), data), strict=True):
                row.update(more)
        metrics[ROWS] = rows
        return value, metrics


def response_rows(config: ActorConfig, log_prob: torch.Tensor, data: TensorDict) -> list[Row]:
    """The rows of one micro-batch; columns as in ``harness.rundir.SEQUENCE_COLUMNS`` without step and update.

    Args:
        config: the actor's configuration, its ``global_batch_info`` set for this micro-batch (verl's ``ppo_loss``).
        log_prob: (batch, response_length) of the policy being updated, padded on the right, detached.
        data: the micro-batch as verl hands it to the loss.

    What a column means for other losses than PPO's: ``out_of_range_*``: geo_mean's range is of log-ratios, fspo's of
    exp(S) at the response's length, cispo's has no lower end; sapo, vespo, dro, gpg and kl_cov have none, and dppo's
    is of probabilities (NaN). ``clipped``: derivative 0, so always 0 for cispo, dro, gpg and kl_cov and, but for
    underflow, for sapo and vespo. ``effective_ratio``: the derivative over its on-policy value, which makes it
    geo_mean's mean ratio, cispo's bounded ratio, the slope of sapo's gate times the ratio, vespo's kernel and gpg's
    1. The weight that vl_norm and balanced give a response is in ``gradient_weight`` alone.

    A padding row (verl fills up a batch that is not divisible) has an empty response mask, hence ``tokens`` 0.
    """
    present = [name for name in (*FIELDS, WEIGHTS) if name in data]
    padded = data.select(*present).to_padded_tensor()
    mask = padded["response_mask"].to(bool)
    old_log_prob, advantages = padded["old_log_probs"], padded["advantages"]
    fixed = (old_log_prob, advantages, mask, padded.get(WEIGHTS, None))
    gradient = policy_loss_gradient(config, log_prob, *fixed)

    tokens = mask.sum(-1)
    per_token = mask / tokens.clamp(min=1).unsqueeze(-1)
    log_ratio = ((log_prob - old_log_prob) * per_token).sum(-1)
    spec = spec_of(config.policy_loss.loss_mode)
    ratio = token_ratio(spec, log_prob, old_log_prob, log_ratio, mask)
    out_of_range_low, out_of_range_high = out_of_range(spec, config, ratio, mask)
    clipped = mask & (advantages != 0) & (gradient == 0)
    if spec.derivative_is_ratio:
        effective_ratio = ratio * ~clipped
    else:
        on_policy = policy_loss_gradient(config, old_log_prob, *fixed)
        effective_ratio = torch.where(on_policy == 0, ratio, gradient / on_policy)

    columns: dict[str, list[Any]] = {
        "prompt_id": _column(data, "index", len(tokens)),
        "sample": _column(data, "session_id", len(tokens)),
        "prompt_tokens": data["prompts"].offsets().diff().tolist(),
        "tokens": tokens.tolist(),
        "reward": (padded["rm_scores"] * mask).sum(-1).tolist(),
        "advantage": (advantages * per_token).sum(-1).tolist(),
        "log_ratio": log_ratio.tolist(),
        "out_of_range_low": out_of_range_low,
        "out_of_range_high": out_of_range_high,
        "clipped": clipped.sum(-1).tolist(),
        "effective_ratio": (effective_ratio * per_token).sum(-1).tolist(),
        "gradient_weight": (gradient.abs().sum(-1) / float(data["dp_size"])).tolist(),
        "response_hash": [crc32(ids.cpu().numpy().tobytes()) for ids in data["responses"].unbind()],
    }
    if "entropy" in padded:  # not from another rollout than ours where verl bypasses the old log-probabilities
        columns["entropy"] = (padded["entropy"] * per_token).sum(-1).tolist()
    if "rollout_log_probs" in padded:
        columns["rollout_logprob_diff"] = ((old_log_prob - padded["rollout_log_probs"]) * per_token).sum(-1).tolist()
    info = [extra.get("reward_extra_info", {}) for extra in _column(data, "extra_fields", len(tokens))]
    columns["accuracy"] = [one.get("acc", float("nan")) for one in info]
    columns["truncated"] = [bool(one.get("truncated", False)) for one in info]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row, one in zip(rows, info, strict=True):
        row.update((name, value) for name, value in one.items() if name.startswith("reward_"))
    return rows


def policy_loss_gradient(
    config: ActorConfig,
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    rollout_is_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """dL/dlogp of the registered policy loss, (batch, response_length); generator states are left as found.

    Reading the derivative tells for any loss, without a formula of its own, which tokens it clips (derivative 0 where
    the advantage is not) and how hard it pulls on a response.
    """
    policy_loss: Any = get_policy_loss_fn(config.policy_loss.loss_mode)
    leaf = log_prob.detach().clone().requires_grad_(True)
    devices = [log_prob.device] if log_prob.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        value, _ = policy_loss(
            old_log_prob=old_log_prob,
            log_prob=leaf,
            advantages=advantages,
            response_mask=mask,
            loss_agg_mode=config.loss_agg_mode,
            config=config,
            rollout_is_weights=rollout_is_weights,
        )
        (gradient,) = torch.autograd.grad(value, leaf)
    return gradient


def token_ratio(
    spec: LossSpec,
    log_prob: torch.Tensor,
    old_log_prob: torch.Tensor,
    log_ratio: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """The importance ratio that the loss clips, for every token: the token's own, or its sequence's.

    ``log_ratio``: (batch,), the mean over a response's tokens.
    """
    if spec.level == "token":
        return (log_prob - old_log_prob).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    if spec.level == "sequence_sum":
        log_ratio = (log_ratio * mask.sum(-1)).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return log_ratio.exp().unsqueeze(-1).expand_as(log_prob)


def out_of_range(
    spec: LossSpec, config: ActorConfig, ratio: torch.Tensor, mask: torch.Tensor
) -> tuple[list[float], list[float]]:
    """Tokens of each response whose ratio is below and above the range; NaN for a loss that has none."""
    if spec.bounds is None:
        return [float("nan")] * len(mask), [float("nan")] * len(mask)
    below, above = spec.bounds(config, mask.sum(-1, keepdim=True))
    return (mask & (ratio < below)).sum(-1).tolist(), (mask & (ratio > above)).sum(-1).tolist()


def _column(data: TensorDict, name: str, rows: int) -> list[Any]:
    """A field of the micro-batch as a list with one entry a row, whatever container verl chose for it."""
    value = data.get(name, None)
    if value is None:
        return [{}] * rows if name == "extra_fields" else [-1] * rows
    if isinstance(value, torch.Tensor):
        return value.flatten().tolist()
    return value.tolist() if hasattr(value, "tolist") else list(tu.unwrap_non_tensor_data(value))
