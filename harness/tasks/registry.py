"""``asset:<name>/<file>`` in a configuration: models and data that are built here, where they are first asked for."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from harness.config import ConfigError

ASSET_SCHEME = "asset:"
ASSET_KEYS = ("actor_rollout_ref.model.path", "data.train_files", "data.val_files")


def asset_builders() -> dict[str, Callable[[int], Path]]:
    """Everything that ``asset:<name>/...`` may name: a function from a seed to the built folder."""
    from harness.tasks import arithmetic, benchmarks, smollm2  # pandas takes a second, and most commands build nothing
    from harness.tasks.hub.prepare import builders
    from harness.tasks.mini import benchmarks as mini_benchmarks
    from harness.tasks.mini import images as mini_images
    from harness.tasks.mini.asset import asset as mini
    from harness.tasks.mini.task import LASTS
    from harness.tasks.tiny.asset import asset as tiny

    return {
        "tiny": partial(tiny, "tiny"),
        "tiny_neutral": partial(tiny, "tiny_neutral"),
        "tiny_vllm": partial(tiny, "tiny_vllm"),
        **{variant: partial(mini, variant) for variant in LASTS},
        mini_images.NAME: mini_images.asset,
        "smollm2": lambda seed: smollm2.asset(),
        "chain_sum": partial(arithmetic.asset, "chain_sum"),
        "tiny_benchmarks": benchmarks.tiny_asset,
        "chain_sum_benchmarks": benchmarks.chain_sum_asset,
        "mini_benchmarks": lambda seed: mini_benchmarks.asset(),
        "mini_shown": lambda seed: mini_benchmarks.shown_asset(),
        **builders(),
    }


def asset_path(key: str, value: str, seed: int) -> str:
    """``value`` with ``asset:<name>/<file>`` replaced by a path, built if not there yet; anything else as it is.

    Raises ``ConfigError`` for an unknown asset, naming ``key``.
    """
    if not value.startswith(ASSET_SCHEME):
        return value
    name, _, file = value.removeprefix(ASSET_SCHEME).partition("/")
    builders = asset_builders()
    if name not in builders:
        raise ConfigError(f"{key}={value}: no asset {name}; there are {', '.join(sorted(builders))}")
    folder = builders[name](seed)
    return str(folder / file) if file else str(folder)


def build_assets(config: DictConfig) -> DictConfig:
    """A copy of the configuration with every ``asset:<name>/<file>`` replaced by a path, built if not there yet.

    Run directories keep the names, so that they mean the same on another machine. Raises ``ConfigError``.
    """
    config = copy.deepcopy(config)
    for key in ASSET_KEYS:
        value = OmegaConf.select(config, key)
        if isinstance(value, str):
            OmegaConf.update(config, key, asset_path(key, value, config.harness.asset_seed))
    return config
