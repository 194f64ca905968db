"""The start-up probe: does the installed loss weight a response's tokens as its configuration says?

``loss_mode=gspo`` ignores ``loss_agg_mode`` in verl 0.6.1 to 0.9.0 and obeys it in 0.9.1, where the default turns GSPO
into LUSPO up to a scalar: a comparison can be void without any error. So the losses are asked, not trusted.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.workers.config import ActorConfig

from harness.losses.registry import spec_of

LENGTHS = (3, 12)


class ProbeError(Exception):
    """The installed loss does not weight responses as configured."""


def policy_loss(config: ActorConfig, log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """The installed loss of a whole batch on-policy, in one process. All tensors: (responses, tokens)."""
    config = copy.deepcopy(config)
    config.global_batch_info.update(
        dp_size=1,
        batch_num_tokens=int(mask.sum()),
        global_batch_size=len(mask),
        loss_scale_factor=config.loss_scale_factor,
    )
    function: Any = get_policy_loss_fn(config.policy_loss.loss_mode)
    loss, _ = function(
        old_log_prob=log_prob.detach().clone(),
        log_prob=log_prob,
        advantages=advantages,
        response_mask=mask,
        loss_agg_mode=config.loss_agg_mode,
        config=config,
    )
    return loss


def gradient_weights(config: ActorConfig) -> list[float]:
    """Sum over tokens of |dL/dlogp| for two on-policy responses of ``LENGTHS`` tokens, advantage 1, one batch."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    log_prob = torch.full(mask.shape, -1.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(policy_loss(config, log_prob, mask.float(), mask), log_prob)
    return gradient.abs().sum(-1).tolist()


def check(config: ActorConfig) -> None:
    """Raise ``ProbeError`` unless the installed loss is weighted by length exactly as its configuration says."""
    name, aggregation = config.policy_loss.loss_mode, config.loss_agg_mode
    power = spec_of(name).exponent(aggregation)
    if power is None:
        return
    short, long = gradient_weights(config)
    expected = (LENGTHS[1] / LENGTHS[0]) ** power
    if short == 0 or abs(long / short / expected - 1) > 1e-3:
        raise ProbeError(
            f"the installed loss {name} with loss_agg_mode={aggregation} gives a response of {LENGTHS[1]} tokens "
            f"{long / short if short else float('nan'):.3g} times the gradient weight of one of {LENGTHS[0]} tokens; "
            f"{name} means {expected:.3g} times. Use the loss_agg_mode of its file in conf/algo and the pinned verl"
        )
