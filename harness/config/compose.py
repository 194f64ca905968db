"""From command-line overrides to one resolved configuration, without torch and verl, so a mistake shows at once."""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hydra
import psutil
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from harness.losses.registry import importance_sampling_level
from harness.paths import CONF


class ConfigError(Exception):
    """Something the user can mend; the message is one line: what is wrong, where, what would be right."""


def register() -> None:
    """Tell Hydra where verl's configuration lies (without importing verl, which takes seconds) and our resolvers."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("verl is not installed in this Python; run `make setup` and use .venv/bin/python")
    os.environ["HARNESS_VERL_CONFIG"] = str(Path(spec.submodule_search_locations[0]) / "trainer" / "config")
    OmegaConf.register_new_resolver("mean", lambda pair: (pair["low"] + pair["high"]) / 2, replace=True)
    OmegaConf.register_new_resolver(  # responses of an update on one rank
        "per_rank", lambda prompts, n, nodes, ranks: prompts * n // (nodes * ranks), replace=True
    )
    OmegaConf.register_new_resolver("sum", lambda *numbers: sum(numbers), replace=True)
    OmegaConf.register_new_resolver(  # tokens of so many responses on one of the GPUs that share them
        "per_gpu", lambda tokens, gpus, responses=1: math.ceil(tokens * responses / gpus), replace=True
    )
    OmegaConf.register_new_resolver("jobs", side_by_side, replace=True)
    OmegaConf.register_new_resolver("level", importance_sampling_level, replace=True)


def side_by_side(memory_gb: float) -> int:
    """How many runs of ``memory_gb`` each this machine can do at once: at most one a core, at least one."""
    return max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().available / 1e9 / memory_gb)))


def compose(overrides: Iterable[str]) -> DictConfig:
    """The configuration that ``python -m harness.train OVERRIDES`` would run, before assets are built."""
    register()
    inside = GlobalHydra.instance().is_initialized()  # in a multirun, whose Hydra looks into the same folders
    with contextlib.nullcontext() if inside else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", overrides=list(overrides))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A resolved configuration as ``{"a.b.c": value}``; lists stay values, an empty mapping is a value."""
    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=True)
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key] = value
    return flat


def digest(content: Any) -> str:
    """Sixteen hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
