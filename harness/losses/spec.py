"""What a loss is, said once: read by the checks, the probe, the recorder and the metrics, and written to the manifest.

No torch and no verl is imported here, so that checks before a run take no seconds.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

LARGEST_LOG_RATIO = 20.0  # beyond it exp overflows sooner or later; verl's bound for tokens
SUM_MODES = ("seq-mean-token-sum", "seq-mean-token-sum-norm")
# The power of |y| that each of verl's aggregations gives a response, up to a factor that all of a batch share.
EXPONENT_BY_AGGREGATION = {
    "seq-mean-token-mean": 0,
    "seq-mean-token-sum": 1,
    "seq-mean-token-sum-norm": 1,
    "token-mean": 1,
    "token-sum": 1,
}

Bounds = Callable[[Any, Any], tuple[Any, Any]]


def ratio_bounds(config: Any, tokens: Any) -> tuple[float, float]:
    """[1 - clip_ratio_low, 1 + clip_ratio_high], for responses of any number of ``tokens``."""
    low, high = clip_range(config)
    return 1 - low, 1 + high


def log_ratio_bounds(config: Any, tokens: Any) -> tuple[float, float]:
    """[exp(-clip_ratio_low), exp(clip_ratio_high)]: a clip range of log-ratios."""
    low, high = clip_range(config)
    return math.exp(-low), math.exp(high)


@dataclass(frozen=True)
class LossSpec:
    """A policy loss by verl's ``loss_mode``. The defaults fit a loss of which nothing is known but its name.

    Args:
        name: verl's ``actor.policy_loss.loss_mode``.
        level: what the importance ratio is taken over: ``token``; ``sequence_mean``, exp of the mean of a response's
            log-ratios (GSPO's); ``sequence_sum``, exp of their sum.
        length_exponent: p, where a response's gradient weight on-policy is proportional to |y|^p, whatever
            ``actor.loss_agg_mode`` is; None: that key decides (``EXPONENT_BY_AGGREGATION``).
        aggregations: values of ``actor.loss_agg_mode`` at which it is this loss; None: all.
        clips: some tokens lose their gradient, so there is a clip fraction.
        bounds: (actor's configuration, tokens of each response) -> ends of the range of the ratio; None: it has none.
        derivative_is_ratio: where not clipped, dL/dlogp is the ratio times its value on-policy, as in PPO's surrogate.
        function: the loss in verl's signature, for ``registry.register_losses``; None: verl has it.
        rule: (flat configuration) -> a line that says what keeps this loss from working with it, or "".
    """

    name: str
    level: str = "token"
    length_exponent: int | None = None
    aggregations: tuple[str, ...] | None = None
    clips: bool = True
    bounds: Bounds | None = ratio_bounds
    derivative_is_ratio: bool = False
    function: Callable[..., Any] | None = None
    rule: Callable[[dict[str, Any]], str] | None = None

    def exponent(self, aggregation: str) -> int | None:
        """The power of |y| with this ``loss_agg_mode``; None for an aggregation that is not known."""
        return EXPONENT_BY_AGGREGATION.get(aggregation) if self.length_exponent is None else self.length_exponent

    def described(self, aggregation: str) -> dict[str, Any]:
        """What the manifest keeps: enough for an analysis that knows no loss by its name."""
        kept = ("level", "clips", "derivative_is_ratio")
        named = {"loss_mode": self.name, "loss_agg_mode": aggregation, "length_exponent": self.exponent(aggregation)}
        return named | {name: value for name, value in asdict(self).items() if name in kept}


def clip_range(config: Any) -> tuple[float, float]:
    """(clip_ratio_low, clip_ratio_high) of verl's ``ActorConfig``, with verl's fallback to ``clip_ratio``."""
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    return float(low), float(high)


def require_sum(loss: str, aggregation: str) -> None:
    """Raise ValueError for a ``loss_agg_mode`` that is no sum over a response's tokens."""
    if aggregation not in SUM_MODES:
        raise ValueError(f"{loss} needs actor.loss_agg_mode to be one of {', '.join(SUM_MODES)}, not {aggregation}")
