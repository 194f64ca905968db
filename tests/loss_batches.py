"""A batch of responses on every side of the clip range, and the registered loss called as verl calls it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

LENGTHS = (1, 7, 4, 9, 0, 3, 9, 2, 5, 6, 8, 3)  # 0: a fully masked row
WIDTH = 10
RANGES = {"token": (0.2, 0.28), "sequence": (3e-3, 4e-3)}  # of the experiment tiny
# Row's mean log-ratio in units of its range: below, inside, above, with advantages of both signs and 0.
POSITIONS = (-2.0, 2.0, 0.5, -0.5, 3.0, 0.0, -3.0, 1.5, -1.5, 2.5, 0.3, -2.0)
ADVANTAGES = (1.3, 0.7, -0.4, -2.1, 1.0, 0.9, -0.6, -1.1, 0.8, 1.9, 0.0, -0.2)


@dataclass(frozen=True)
class Batch:
    old: torch.Tensor
    new: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor

    def rows(self, part: slice) -> "Batch":
        return Batch(self.old[part], self.new[part], self.advantages[part], self.mask[part])


def ragged_batch(ratio: str, seed: int = 0) -> Batch:
    """Rows on every side of the range; what lies under the padding is garbage."""
    generator = torch.Generator().manual_seed(seed)

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(len(LENGTHS), WIDTH, generator=generator, dtype=torch.float64)

    old, mask = -1.5 + noise(0.3), torch.zeros(len(LENGTHS), WIDTH, dtype=torch.bool)
    log_ratio, advantages = noise(3.0), noise(2.0)
    for row, (length, position, advantage) in enumerate(zip(LENGTHS, POSITIONS, ADVANTAGES, strict=True)):
        mask[row, :length] = True
        advantages[row, :length] = advantage
        width = RANGES[ratio][position > 0]
        spread = noise(0.3 if ratio == "token" else 0.01)[row, :length]
        log_ratio[row, :length] = spread - spread.mean() + position * width if length else spread
    return Batch(old, old + log_ratio, advantages, mask)


def installed(config: Any, batch: Batch, global_batch_size: int | None, dp_size: int = 1, **more: Any) -> Any:
    """(value, gradient, metrics) of the registered loss, called as verl's ppo_loss calls it."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    config = copy.deepcopy(config)
    config.global_batch_info.update(
        dp_size=dp_size,
        batch_num_tokens=sum(LENGTHS),
        global_batch_size=global_batch_size,
        loss_scale_factor=config.loss_scale_factor,
    )
    leaf = batch.new.clone().requires_grad_(True)
    value, metrics = get_policy_loss_fn(config.policy_loss.loss_mode)(
        old_log_prob=batch.old,
        log_prob=leaf,
        advantages=batch.advantages,
        response_mask=batch.mask,
        loss_agg_mode=config.loss_agg_mode,
        config=config,
        **more,
    )
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient, metrics


Floats = list[float]
Objective = Callable[[Floats, Floats, float, Floats], float]  # (new, old, advantage, what is held fixed), one response


def by_differences(objective: Objective, batch: Batch, weights: Floats) -> tuple[float, torch.Tensor]:
    """(value, gradient) of minus the sum of ``weights`` times the objectives of the responses, by central differences.

    The last argument of an objective is ``new`` at the point itself: what a paper stops the gradient of.
    """
    value, gradient = 0.0, torch.zeros(batch.new.shape, dtype=torch.float64)
    for i, weight in enumerate(weights):
        length = int(batch.mask[i].sum())
        if not length:
            continue
        new, old, a = batch.new[i, :length].tolist(), batch.old[i, :length].tolist(), float(batch.advantages[i, 0])
        value -= weight * objective(new, old, a, new)
        for t in range(length):
            up, down = (objective([*new[:t], new[t] + h, *new[t + 1 :]], old, a, new) for h in (1e-6, -1e-6))
            gradient[i, t] = -weight * (up - down) / 2e-6
    return value, gradient


def widened(batch: Batch, columns: int = 5) -> Batch:
    """The same responses with more padding, garbage in it."""
    more = torch.full((len(batch.old), columns), 3.0, dtype=batch.old.dtype)
    pairs = ((batch.old, -more), (batch.new, more), (batch.advantages, more))
    old, new, advantages = (torch.cat(pair, 1) for pair in pairs)
    return Batch(old, new, advantages, torch.cat([batch.mask, torch.zeros_like(more, dtype=torch.bool)], 1))
