"""VL Norm's hyper-parameter beside verl's; a module of its own because verl's classes need torch."""

from dataclasses import dataclass

from verl.workers.config import PolicyLossConfig


@dataclass
class VLNormConfig(PolicyLossConfig):
    """verl's ``actor.policy_loss`` with VL Norm's own hyper-parameter; a YAML chooses it by ``_target_``.

    Args:
        alpha: the weight of a response falls as |y|^-alpha; from 0 (a plain sum) to 1 (the least variance).
    """

    alpha: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"policy_loss.alpha must be from 0 to 1, not {self.alpha}")
