"""The words of a command line, ``key=value``, before they are composed: what Hydra would take for something else."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException

from harness.config.errors import ConfigError, did_you_mean
from harness.paths import CONF, python

LAUNCHER = "hydra/launcher"


def groups() -> dict[str, list[str]]:
    """The groups of ``conf`` and what can be chosen of each. benchmark is of evaluations, not of runs."""
    found = {
        str(folder.relative_to(CONF)): sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in CONF.rglob("*")
        if folder.is_dir()
    }
    return {group: names for group, names in found.items() if names and group != "benchmark"}


def parse(words: Sequence[str], multirun: bool = False) -> list[Override]:
    """The overrides of a command line; ``multirun``: several values of a key are several runs.

    Raises ``ConfigError`` for a word that is no ``key=value``, for a group with more or less than one name (Hydra
    merges ``algo=[a,b]`` into one configuration under the last name) and for several values in a single run.
    """
    there = groups()
    return [_parsed(word, multirun, there) for word in words]


def _parsed(word: str, multirun: bool, there: dict[str, list[str]]) -> Override:
    key = word.partition("=")[0]
    if "=" not in word and not word.startswith("~"):
        chosen = [f"{group}={word}" for group, names in there.items() if word in names]
        hint = f" (did you mean {' or '.join(chosen)}?)" if chosen else ", such as algo=luspo or seed=1"
        raise ConfigError(f"{word}: must be key=value{hint}")
    if key in there and word == f"{key}=":
        raise ConfigError(f"{word}: a name is missing; there are {', '.join(there[key])}")
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException as error:
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"{word}: cannot be read ({said}); quote a value with special characters: {key}='...'"
        ) from None
    several = override.is_sweep_override()
    if several and not multirun:
        how = f"-m {word}" if key not in there else f"`{python()} -m harness.train -m {word}` or `make sweep`"
        raise ConfigError(f"{word}: several values are several runs; use {how}, or give one value")
    if key in there and several:
        for name in _choices(override):
            if name not in there[key]:
                raise no_such_name(f"{key}={name}", key, name, there[key])
        if isinstance(glob := override.value(), Glob) and not glob.filter(there[key]):
            raise ConfigError(f"{word}: no {key} has such a name; there are {', '.join(there[key])}")
    elif override.key_or_group in there:
        _require_one_name(word, override, there)
    return override


def no_such_name(word: str, group: str, name: str, there: Sequence[str]) -> ConfigError:
    """The refusal of a name that the group does not have."""
    return ConfigError(f"{word}: no such {group}{did_you_mean(name, there)}; there are {', '.join(there)}")


def _choices(override: Override) -> list[str]:
    """The names of ``group=a,b``; nothing of other sweeps, such as glob(*)."""
    value = override.value()
    return [str(one) for one in value.list] if isinstance(value, ChoiceSweep) else []


def _require_one_name(word: str, override: Override, there: dict[str, list[str]]) -> None:
    group, value = override.key_or_group, override.value()
    if override.is_delete():
        raise ConfigError(f"{word}: a run needs one {group}; give {group}=NAME, of {', '.join(there[group])}")
    if isinstance(value, list):
        names = ",".join(map(str, value))
        raise ConfigError(f"{word}: one name, not a list; for one run of each use -m {group}={names}")
    if not isinstance(value, str):
        raise ConfigError(
            f"{word}: must be a name, of {', '.join(there[group])}{did_you_mean(str(value), there[group])}"
        )
