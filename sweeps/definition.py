"""Named sweeps: ``sweeps/named/*.yaml``, a grid of overrides with exceptions and priorities.

::

    about: one line
    extends: paper              # start from that sweep, or from a YAML file beside this one; see below
    grid:                       # every combination of these is a run of `python -m harness.train`
      experiment: [text_dense]
      algo: [grpo, gspo, luspo]
      seed: [0, 1, 2]
    set: {trainer.total_training_steps: 100}          # for all
    exclude: [{algo: grpo, seed: 2}]                  # combinations that are left out
    priority: [{when: {algo: luspo}, add: 1}]         # higher starts first
    retries: 3                                        # attempts without progress that are forgiven
    backoff_seconds: 30                               # before the first of them, doubled each time
    until: {max_seeds: 20, claim: [luspo:gspo]}       # new seeds only until it is decided; see sweeps/until.py

A sweep that extends another has all that the other has. Its own ``grid`` and ``set`` replace the other's key by key;
its own ``exclude``, ``priority``, ``retries``, ``backoff_seconds`` and ``until`` replace the other's as a whole;
``about`` is never taken over.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from harness.config import ConfigError
from sweeps.trials import Trial, trials_of

FOLDER = Path(__file__).parent / "named"
MERGED = ("grid", "set")  # the keys of a sweep that extends another replace the other's one by one
KEYS = ("about", "extends", "grid", "set", "exclude", "priority", "retries", "backoff_seconds", "until")


@dataclass(frozen=True)
class Sweep:
    """A named sweep as written. grid: {override's key: values}; the other fields as in its file; until: {} for none."""

    name: str
    about: str
    grid: dict[str, list[Any]]
    fixed: dict[str, Any]
    exclude: list[dict[str, Any]]
    priority: list[dict[str, Any]]
    retries: int
    backoff_seconds: float
    until: dict[str, Any] = field(default_factory=dict)

    def jobs(self) -> list[tuple[dict[str, Any], list[str]]]:
        """(choices, overrides) of every combination that is not left out, the last key of the grid varying first."""
        combinations = (dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))
        kept = (chosen for chosen in combinations if not any(_holds(rule, chosen) for rule in self.exclude))
        return [(chosen, [_override(key, value) for key, value in {**chosen, **self.fixed}.items()]) for chosen in kept]

    def trials(self, extra: Sequence[str] = ()) -> list[Trial]:
        """The sweep's trials; ``extra``: overrides for all of them. Raises ``ConfigError``."""
        jobs = self.jobs()
        if not jobs:
            raise ConfigError(f"sweep {self.name}: every combination is excluded")
        trials = trials_of([*overrides, *extra] for _, overrides in jobs)
        return [
            replace(trial, priority=self._priority(chosen)) for trial, (chosen, _) in zip(trials, jobs, strict=True)
        ]

    def _priority(self, chosen: Mapping[str, Any]) -> float:
        return sum(float(rule["add"]) for rule in self.priority if _holds(rule["when"], chosen))


def names() -> list[str]:
    """Names of the sweeps that come with the project."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> Sweep:
    """The sweep of that name, or in that YAML file; raises ``ConfigError`` with the first thing that is wrong."""
    file = _file(name)
    if not file.is_file():
        raise ConfigError(f"no sweep {name}; there are {', '.join(names())}, or give the path of a YAML file")
    content = _content(file)
    sweep = Sweep(
        name=file.stem,
        about=str(content.get("about", "")),
        grid=_mapping(file, content, "grid"),
        fixed=_mapping(file, content, "set"),
        exclude=_typed(file, content, "exclude", list, []),
        priority=_typed(file, content, "priority", list, []),
        retries=_typed(file, content, "retries", int, 3),
        backoff_seconds=float(_typed(file, content, "backoff_seconds", (int, float), 30)),
        until=_mapping(file, content, "until"),
    )
    _check(file, sweep)
    return sweep


def _file(name: str, beside: Path = Path()) -> Path:
    """The file of a sweep's name, or the YAML file of that path, which is relative to the folder ``beside``."""
    return beside / name if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"


def _content(file: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What the file says together with what it extends; ``extended_by``: the files that led here, the first one first.

    Raises ``ConfigError``, also for an ``extends`` that names no sweep or leads back to a file that it came from.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected the keys {', '.join(KEYS)}")
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise ConfigError(f"{file}: unknown key {unknown[0]}; there are {', '.join(KEYS)}")
    if "extends" not in content:
        return content
    name = content.pop("extends")
    base = _file(name, file.parent) if isinstance(name, str) else None
    if base is None or not base.is_file():
        raise ConfigError(f"{file}: extends: no sweep {name}; there are {', '.join(names())}, or a YAML file beside it")
    chain = (*extended_by, file)
    if base.resolve() in [one.resolve() for one in chain]:
        raise ConfigError(f"{chain[0]}: extends goes in a circle: {' -> '.join(one.stem for one in (*chain, base))}")
    inherited = _content(base, chain)
    inherited.pop("about", None)
    merged = {key: {**_mapping(base, inherited, key), **_mapping(file, content, key)} for key in MERGED}
    return {**inherited, **content, **merged}


def _mapping(file: Path, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    return _typed(file, content, key, dict, {})


def _typed(file: Path, content: Mapping[str, Any], key: str, kind: Any, default: Any) -> Any:
    value = content.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {dict: "a mapping", list: "a list"}.get(kind, "a number")
        raise ConfigError(f"{file}: {key} must be {wanted}, not {value!r}")
    return value


def _check(file: Path, sweep: Sweep) -> None:
    if not sweep.grid:
        raise ConfigError(f"{file}: grid is missing, for example `grid: {{algo: [gspo, luspo], seed: [0, 1]}}`")
    for key, values in sweep.grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{file}: grid.{key} must be a list of values, not {values!r}")
    for key, number in (("retries", sweep.retries), ("backoff_seconds", sweep.backoff_seconds)):
        if number < 0:
            raise ConfigError(f"{file}: {key} must be 0 or more, not {number:g}")
    for rule in sweep.priority:
        if not isinstance(rule, dict) or set(rule) != {"when", "add"} or not isinstance(rule["add"], (int, float)):
            raise ConfigError(f"{file}: a priority is {{when: {{algo: luspo}}, add: 1}}, not {rule!r}")
    for rule in [*sweep.exclude, *(rule["when"] for rule in sweep.priority)]:
        if not isinstance(rule, dict) or not rule:
            raise ConfigError(f"{file}: expected a mapping from keys of the grid to values, not {rule!r}")
        for key, value in rule.items():
            if key not in sweep.grid or value not in sweep.grid[key]:
                raise ConfigError(f"{file}: {key}: {value} is not in the grid, so the rule would never hold")


def _holds(rule: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return all(chosen[key] == value for key, value in rule.items())


def _override(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar."""
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={'null' if value is None else value}"
