"""From command-line overrides to one resolved configuration, and what of it makes two runs comparable."""

from harness.config.compose import compose, digest, effective, flatten, register, side_by_side
from harness.config.errors import ConfigError, did_you_mean, one_line, say_error, say_warning
from harness.config.overrides import parse

__all__ = [
    "ConfigError",
    "compose",
    "did_you_mean",
    "digest",
    "effective",
    "flatten",
    "one_line",
    "parse",
    "register",
    "say_error",
    "say_warning",
    "side_by_side",
]
