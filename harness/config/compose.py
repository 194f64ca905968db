"""From command-line overrides to one resolved configuration, without torch and verl, so a mistake shows at once."""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import hydra
import psutil
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from harness.config import schema
from harness.config.errors import ConfigError, did_you_mean, one_line
from harness.config.overrides import groups, no_such_name, parse
from harness.losses.registry import importance_sampling_level
from harness.paths import CONF, ROOT
from harness.rundir import flattened

TWICE = re.compile(r"Multiple values for ([^.]+)\.")
COULD_NOT = re.compile(r"(?:Could not override|Key not found:?|Error merging override) '?([^'\s]+?)'?\.?\s")


def register() -> None:
    """Tell Hydra where verl's configuration lies (without importing verl, which takes seconds) and our resolvers."""
    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("verl is not installed in this Python; run `make setup` and use .venv/bin/python")
    os.environ["HARNESS_VERL_CONFIG"] = str(Path(spec.submodule_search_locations[0]) / "trainer" / "config")
    OmegaConf.register_new_resolver("mean", lambda pair: (pair["low"] + pair["high"]) / 2, replace=True)
    OmegaConf.register_new_resolver("times", lambda factor, number: factor * number, replace=True)
    OmegaConf.register_new_resolver(  # responses of an update on one rank
        "per_rank", lambda prompts, n, nodes, ranks: prompts * n // (nodes * ranks), replace=True
    )
    OmegaConf.register_new_resolver("sum", lambda *numbers: sum(numbers), replace=True)
    OmegaConf.register_new_resolver(  # tokens of so many responses on one of the GPUs that share them
        "per_gpu", lambda tokens, gpus, responses=1: math.ceil(tokens * responses / gpus), replace=True
    )
    OmegaConf.register_new_resolver("jobs", side_by_side, replace=True)
    OmegaConf.register_new_resolver("level", importance_sampling_level, replace=True)
    OmegaConf.register_new_resolver(  # whether the rollout's log-probabilities are the policy's, and all they are for
        "whole", lambda top_p, top_k, *corrections: top_p == 1 and top_k <= 0 and not any(corrections), replace=True
    )
    OmegaConf.register_new_resolver("tied", tied, replace=True)
    OmegaConf.register_new_resolver("equal", lambda one, other: one == other, replace=True)


def tied(path: str) -> bool:
    """Whether the model in this folder has one matrix for embedding and head, as all that are built here have. With two
    FSDP 2 shards the head by itself, where verl's fused head does not find it whole."""
    if path.startswith("asset:"):
        return True
    try:
        return bool(json.loads((ROOT / path / "config.json").read_text()).get("tie_word_embeddings"))
    except (OSError, ValueError, AttributeError):
        return False


def side_by_side(memory_gb: float) -> int:
    """How many runs of ``memory_gb`` each this machine can do at once: at most one a core, at least one."""
    return max(1, min(os.cpu_count() or 1, int(psutil.virtual_memory().available / 1e9 / memory_gb)))


def compose(overrides: Iterable[str]) -> DictConfig:
    """The configuration that ``python -m harness.train OVERRIDES`` would run, before assets are built.

    Raises ``ConfigError``, one line, for whatever can be known from the words alone: a word that is none, a name or key
    that there is not, a value of another type or out of range.
    """
    words = tuple(overrides)
    parsed = parse(words)
    config = _composed(words)
    try:
        flat = flatten(config)
    except ConfigError as error:
        raise ConfigError(f"{' '.join(words)}: {error}") from None
    schema.check(flat)
    keys = [one.key_or_group for one in parsed if not one.is_add() and not one.is_delete()]
    others = [key for key in keys if key not in groups() and key not in schema.SCHEMA]
    if others:
        chosen = tuple(w for w, one in zip(words, parsed, strict=True) if one.key_or_group in groups())
        schema.check(flat, others, _flat(chosen))
    return config


def effective(overrides: Iterable[str], counts: Callable[[str], bool] = lambda _: True) -> list[str]:
    """The overrides without those that only say what holds anyway, such as the default learning rate.

    counts: which overrides are asked at all (each costs a composition); the others stay. Raises as ``compose``.
    """
    words = tuple(overrides)

    def changes_nothing(word: str) -> bool:
        try:
            return _flat(tuple(other for other in words if other != word)) == _flat(words)
        except ConfigError:  # another word needs this one
            return False

    return [word for word in words if not (counts(word) and changes_nothing(word))]


@cache
def _flat(words: tuple[str, ...]) -> dict[str, Any]:
    """The flat configuration of these words, not to be changed."""
    return flatten(_composed(words))


def _composed(words: Sequence[str]) -> DictConfig:
    """Hydra's composition, its errors as ``ConfigError``."""
    register()
    inside = GlobalHydra.instance().is_initialized()  # in a multirun, whose Hydra looks into the same folders
    with contextlib.nullcontext() if inside else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return _from_memory(words) or hydra.compose("train", overrides=list(words))
        except MissingConfigException as error:
            raise _no_such_name(error) from None
        except YAMLError as error:  # it names the file and the line
            raise ConfigError(f"a file that was chosen is no YAML: {one_line(error)}") from None
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise _no_such_key(words, error) from None


def _from_memory(words: Sequence[str]) -> DictConfig | None:
    """The same composition, of files that are read once for each choice of files: Hydra sets values after it has
    merged the files, so they are set here, by Hydra's own function, in a copy. Of a hundred runs that differ in seed
    and rate the first one alone costs half a second.

    None where the words do not tell files from values, and for whatever is wrong: Hydra says it of the whole.
    """
    try:
        overrides, there = parse(words), groups()
        values = [one for one in overrides if one.key_or_group not in there]
        if not (_only_ours() and all(_sets_a_value(one) for one in values)):
            return None
        files = tuple(word for word, one in zip(words, overrides, strict=True) if one.key_or_group in there)
        config = pickle.loads(_merged(files, _stamp()))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except (ConfigError, HydraException, OmegaConfBaseException, ValueError, OSError):
        return None
    return config


def _sets_a_value(override: Override) -> bool:
    """Whether this word sets a value in one of our files or verl's: no name of a file (``model_engine=megatron``), and
    nothing of Hydra's own, which may change where files are."""
    key = override.key_or_group
    return override.package is None and not key.startswith("hydra") and ("." in key or key == "seed")


@lru_cache(maxsize=128)
def _merged(files: tuple[str, ...], _stamp: tuple[Any, ...]) -> bytes:
    """The configuration that these words choose, as a pickle: three times as fast to copy as the objects."""
    return pickle.dumps(hydra.compose("train", overrides=list(files)))


def _stamp() -> tuple[Any, ...]:
    """The state of every file of ``conf``: what is edited meanwhile is read again."""
    files = (one for folder, _, names in os.walk(CONF) for one in (os.path.join(folder, name) for name in names))
    states = ((file, os.stat(file)) for file in sorted(files))
    return tuple((file, state.st_mtime_ns, state.st_size) for file, state in states)


def _only_ours() -> bool:
    """Whether Hydra looks for files in ``conf`` alone, and not in a folder that a command line adds (--config-dir)."""
    queries = GlobalHydra.instance().config_loader().get_search_path().get_path()
    places = {str(query.path).removeprefix("file://") for query in queries}
    return {place for place in places if "://" not in place} == {str(CONF)}


def _no_such_name(error: MissingConfigException) -> ConfigError:
    missing, options = error.missing_cfg_file or "", [str(one) for one in error.options or ()]
    group, _, name = missing.rpartition("/")
    return no_such_name(f"{group}={name}", group, name, options)


def _no_such_key(words: Sequence[str], error: Exception) -> ConfigError:
    if twice := TWICE.match(str(error)):
        word = next((word for word in words if word.startswith(f"+{twice.group(1)}=")), twice.group(1))
        return ConfigError(f"{word}: a run has one {twice.group(1)} already; give it without the +")
    found = COULD_NOT.match(str(error))
    if not found:
        return ConfigError(f"{' '.join(words)}: {one_line(str(error).partition('Config search path')[0])}")
    key = found.group(1)
    word = next((word for word in words if word.partition("=")[0] == key), key)
    hint = did_you_mean(key, [*groups(), *_flat(())])
    return ConfigError(f"{word}: no such setting{hint}; a setting that verl's files do not list is given as +{key}=...")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A resolved configuration as ``{"a.b.c": value}``; lists stay values, an empty mapping is a value.

    Raises ``ConfigError`` where a value refers to a key that there is not.
    """
    if isinstance(config, DictConfig):
        try:
            config = OmegaConf.to_container(config, resolve=True)
        except OmegaConfBaseException as error:
            raise ConfigError(one_line(str(error).splitlines()[0] + _where(error))) from None
    return flattened(config, prefix)


def _where(error: OmegaConfBaseException) -> str:
    key = getattr(error, "full_key", None)
    return f" (at {key})" if key else ""


def digest(content: Any) -> str:
    """Sixteen hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
