"""Hydra's composition for a session that composes hundreds of times: what it reads, parses and merges again and again
is kept. The steps and their order are Hydra's own, so what comes out is what a process of its own would compose."""

import contextlib
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any
from unittest import mock


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within, each file is parsed once for as long as it stays as it is, each interpolation once, and the files that
    two compositions have in common at their beginning are merged once."""
    import hydra.core.plugins
    import omegaconf.base
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    import harness.config  # noqa: F401, of whose composition this is

    hydra.core.plugins.Plugins.instance()  # loads the modules of its sources anew, the first time
    from hydra._internal.core_plugins.file_config_source import FileConfigSource

    with (
        mock.patch.object(FileConfigSource, "load_config", _read_once(FileConfigSource.load_config)),
        mock.patch.object(ConfigLoaderImpl, "_compose_config_from_defaults_list", _merge_on(ConfigLoaderImpl)),
        mock.patch.object(omegaconf.base, "parse", lru_cache(maxsize=10_000)(omegaconf.base.parse)),
    ):
        yield


def _read_once(read: Any) -> Any:
    """``FileConfigSource.load_config``; pickles, since Hydra changes what it gets."""

    @cache
    def pickled(provider: str, folder: str, config_path: str, kind: type, *_state: int) -> bytes:
        return pickle.dumps(read(kind(provider, folder), config_path))

    def load_config(source: Any, config_path: str) -> Any:
        try:
            state = os.stat(os.path.join(source.path, source._normalize_file_name(config_path)))
        except OSError:  # Hydra has words for it
            return read(source, config_path)
        kind = type(source)
        return pickle.loads(
            pickled(source.provider, source.path, config_path, kind, state.st_mtime_ns, state.st_size, state.st_ino)
        )

    return load_config


def _merge_on(loader: Any) -> Any:
    """``ConfigLoaderImpl._compose_config_from_defaults_list``, from the longest beginning that was merged before."""
    compose = sys.modules["harness.config.compose"]  # its state of ``conf``
    whole = loader._compose_config_from_defaults_list
    merged: dict[tuple[Any, ...], bytes] = {}

    def merge_on(self: Any, defaults: list[Any], repo: Any) -> Any:
        from omegaconf import OmegaConf, flag_override

        place = (tuple(source.path for source in repo.get_sources()), compose._stamp())
        names = [(place, *map(repr, defaults[: n + 1])) for n in range(len(defaults))]
        if len(merged) > 200:  # 100 KB each
            merged.clear()
        known = next((n for n in range(len(names), 0, -1) if names[n - 1] in merged), 0)
        config = pickle.loads(merged[names[known - 1]]) if known else OmegaConf.create()
        for n in range(known, len(defaults)):
            with flag_override(config, "no_deepcopy_set_nodes", True):
                config.merge_with(self._load_single_config(default=defaults[n], repo=repo).config)
            if len(defaults) - 5 < n < len(defaults) - 1:  # the algorithm, the experiment and the clip range come last
                merged[names[n]] = pickle.dumps(config)
        first = replace(defaults[0], primary=False)

        def loaded(default: Any, repo: Any) -> Any:
            return SimpleNamespace(config=config)

        with mock.patch.object(self, "_load_single_config", loaded):
            return whole(self, defaults=[first], repo=repo)  # what it does to the merged files

    return merge_on
