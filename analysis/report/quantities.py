"""The quantities that a report's interactive picture offers, in the order of its list."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.statistics.movement import MOVEMENT


@dataclass(frozen=True)
class Quantity:
    """A metric that can be chosen: its name for a reader, the values that it can have, and whether its axis is
    logarithmic at first."""

    metric: str
    label: str
    low: float = -np.inf
    high: float = np.inf
    log: bool = False

    @property
    def band(self) -> str:
        """The kind of its interval (``pointwise``), as in the static figures."""
        return "share" if (self.low, self.high) == (0.0, 1.0) else "t"


SHARE: Any = {"low": 0.0, "high": 1.0}
QUANTITIES = (
    Quantity("response_length", "response length (tokens)", low=0.0),
    Quantity("response_length_correct", "length of correct responses (tokens)", low=0.0),
    Quantity("response_length_incorrect", "length of incorrect responses (tokens)", low=0.0),
    Quantity("truncated", "truncated responses (fraction)", **SHARE),
    Quantity("accuracy", "training accuracy (fraction)", **SHARE),
    Quantity("reward", "training reward"),
    Quantity("val_accuracy", "validation accuracy (fraction)", **SHARE),
    Quantity("val_response_length", "validation response length (tokens)", low=0.0),
    Quantity("clip_frac_token", "clipped tokens (fraction)", log=True, **SHARE),
    Quantity("clip_frac_seq", "clipped share of a sequence (mean)", log=True, **SHARE),
    Quantity("clip_frac_pos", "clipped tokens, positive advantage (fraction)", log=True, **SHARE),
    Quantity("clip_frac_neg", "clipped tokens, negative advantage (fraction)", log=True, **SHARE),
    Quantity("entropy", "entropy (nats per token)", low=0.0),
    Quantity("ppo_kl", "mean of log old/new probability (nats per token)"),
    Quantity(MOVEMENT, "KL to the behaviour policy, of a step (nats per token)", low=0.0),
    Quantity("grad_norm", "gradient norm, before clipping", low=0.0, log=True),
)
