"""Settings as they stand on the command line, for all frameworks."""

import ast
from collections.abc import Mapping
from typing import Any


def parsed(text: str) -> Any:
    """``0.2``, ``true``, ``null``, ``[1, 2]`` as Python values; any other text as it is."""
    try:
        return ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a YAML file, where ``3e-4`` without a point is a text to PyYAML and a number to OmegaConf."""
    return {key: parsed(value) if isinstance(value, str) else value for key, value in given.items()}


def merged(framework: str, settings: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` with ``settings`` over them. Raises ValueError, one line, for a setting that is none."""
    if unknown := set(settings) - set(defaults):
        raise ValueError(f"{framework} has no setting {min(unknown)}; it has {', '.join(defaults)}")
    return {**defaults, **{key: parsed(value) for key, value in settings.items()}}
