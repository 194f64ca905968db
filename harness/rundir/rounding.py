"""How much of a sequence-level clip fraction rounding makes, by arithmetic alone.

On-policy a sequence's log-ratio is 0; what is recorded there (``onpolicy_log_ratio_rms``) is rounding. It is a mean
over tokens, so it is taken for normal, and it falls like 1/sqrt(length).
"""

import math

# Root mean square of a token's log-ratio on-policy. bf16: 2e-3 to 3e-3 measured over responses of 17 tokens; fp32: 1e-5
# a token measured where two kernels compute it, and room for other sizes.
BF16_TOKEN_NOISE, FP32_TOKEN_NOISE = 1e-2, 1e-4
MOSTLY = 0.5  # of the clipped responses: from here on a clip fraction says little of the policy
NARROW = 3.0  # a range of three standard deviations of rounding: of both sides together 0.1 % of the responses leave it


def clipped_by_rounding(noise: float, low: float, high: float) -> float:
    """Expected clipped share of responses whose log-ratio is N(0, noise^2) and whose advantages have either sign alike.

    low, high: the range of the ratio is [1 - low, 1 + high]. A positive advantage is clipped above it, a negative one
    below.
    """
    if not noise > 0:
        return 0.0
    below = _tail(-math.log1p(-low) / noise) if low < 1 else 0.0
    return (below + _tail(math.log1p(high) / noise)) / 2


def length_needed(noise: float, length: float, low: float, high: float) -> float:
    """Tokens that a response needs for its rounding to be a third of the narrower side; noise: at ``length`` tokens."""
    return length * (NARROW * noise / min(low, high)) ** 2


def _tail(deviations: float) -> float:
    return math.erfc(deviations / math.sqrt(2)) / 2
