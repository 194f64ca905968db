"""From command-line overrides to one resolved configuration, and what of it makes two runs comparable."""

from harness.config.compose import ConfigError, compose, digest, flatten, register, side_by_side

__all__ = ["ConfigError", "compose", "digest", "flatten", "register", "side_by_side"]
