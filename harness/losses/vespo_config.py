"""VESPO's hyper-parameters beside verl's; a module of its own because verl's classes need torch."""

from dataclasses import dataclass

from verl.workers.config import PolicyLossConfig


@dataclass
class VESPOConfig(PolicyLossConfig):
    """verl's ``actor.policy_loss`` with VESPO's own hyper-parameters; a YAML chooses it by ``_target_``.

    Args:
        k_pos, k_neg: power of the ratio in the kernel, for advantages >= 0 and < 0.
        lambda_pos, lambda_neg: rate at which the kernel falls with the ratio.
    """

    k_pos: float = 2.0
    lambda_pos: float = 3.0
    k_neg: float = 3.0
    lambda_neg: float = 2.0

    def __post_init__(self) -> None:
        for name in ("k_pos", "lambda_pos", "k_neg", "lambda_neg"):
            if not getattr(self, name) > 0:
                raise ValueError(f"policy_loss.{name} must be above 0, not {getattr(self, name)}")
