"""FSPO's hyper-parameters beside verl's; a module of its own because verl's classes need torch."""

from dataclasses import dataclass

from verl.workers.config import PolicyLossConfig


@dataclass
class FSPOConfig(PolicyLossConfig):
    """verl's ``actor.policy_loss`` with FSPO's own hyper-parameters; a YAML chooses it by ``_target_``.

    Args:
        mu: drift of a token's log-ratio, the centre of the band per token (nats; the expectation is minus a KL).
        reference_length: tokens of the response whose mean log-ratio is clipped at ``clip_ratio_low`` and ``_high``;
            at 1 these two are the paper's c.
    """

    mu: float = 0.0
    reference_length: float = 1.0

    def __post_init__(self) -> None:
        if not self.reference_length > 0:
            raise ValueError(f"policy_loss.reference_length must be above 0 tokens, not {self.reference_length}")
