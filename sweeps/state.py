"""A named sweep as its controllers and readers share it: trials, launcher, and a folder of small files beside the runs.

``<harness.root>/.sweeps/<name>/``: ``trials.json`` (what the last ``run`` was asked for; a cache: composing hundreds of
configurations takes minutes), ``lock`` (its controller) and ``cancel`` (a cancel request). No state of a run is in it.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config import ConfigError, digest, register
from harness.paths import CONF, ROOT
from harness.rundir import RunDirError, read_json, write_json
from sweeps.definition import Sweep, load
from sweeps.trials import Trial
from sweeps.until import EXPERIMENT, UNTIL, adjusted

ROOT_KEY = "harness.root"
DEFAULT_ROOT = "results/runs"
CHOICE, SETTING = "hydra/launcher=", "hydra.launcher."


@dataclass(frozen=True)
class SweepState:
    """overrides: of the command line, for all trials and the launcher; kind and launcher_settings: where they run."""

    sweep: Sweep
    overrides: tuple[str, ...]
    trials: tuple[Trial, ...]
    folder: Path
    kind: str
    launcher_settings: dict[str, Any]
    key: str = ""  # of the composed trials

    @property
    def begun(self) -> tuple[Trial, ...]:
        """The trials but those of seeds that a sweep with ``until`` may never come to."""
        start = self.sweep.until.get("start")
        if start is None:
            return self.trials
        return tuple(trial for trial in self.trials if trial.seed in start or trial.path.exists())

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def cancel_request(self) -> Path:
        """A file that is there while the sweep's controller is asked to cancel it."""
        return self.folder / "cancel"

    @classmethod
    def of(cls, name: str, overrides: Sequence[str]) -> "SweepState":
        """The sweep with these overrides, composed unless nothing has changed since it last was."""
        register()
        sweep, mine = adjusted(load(name), [one for one in overrides if not one.startswith((CHOICE, SETTING))])
        wrong = [one for one in mine if one.startswith("hydra") or "=" not in one]
        if wrong:
            raise ConfigError(
                f"{wrong[0]}: expected an override key=value, hydra/launcher=... or hydra.launcher.KEY=..."
            )
        folder, key = _folder(sweep, mine), digest([asdict(sweep), mine, _sources()])
        trials = _cached(folder, key) or tuple(sweep.trials(mine))
        kind, settings = launcher_settings(overrides, max(trial.memory_gb for trial in trials))
        return cls(sweep, tuple(overrides), trials, folder, kind, settings, key)

    @classmethod
    def last(cls, name: str, overrides: Sequence[str]) -> "SweepState":
        """The sweep as the last ``run`` had it, where no overrides are given but those that say which it was: its root,
        and its experiment where that is part of its name (``adjusted``)."""
        sweep, _ = adjusted(load(name), overrides)
        which = (f"{ROOT_KEY}=", *([f"{EXPERIMENT}=", f"{UNTIL}="] if sweep.until else []))
        if all(one.startswith(which) for one in overrides):
            with contextlib.suppress(RunDirError):  # never run: as it would be
                overrides = read_json(_folder(sweep, overrides) / "trials.json")["overrides"]
        return cls.of(name, overrides)

    def write(self) -> None:
        """Keep the composed trials, for readers and for the next time."""
        trials = [{**asdict(trial), "path": str(trial.path)} for trial in self.trials]
        write_json(self.folder / "trials.json", {"key": self.key, "overrides": list(self.overrides), "trials": trials})


def launcher_settings(overrides: Sequence[str], memory_gb: float) -> tuple[str, dict[str, Any]]:
    """(kind, settings) of the launcher that the overrides name, from ``conf/hydra/launcher``; ``local`` by default.

    memory_gb: of the largest run, for the number that fit side by side. Raises ``ConfigError``.
    """
    chosen = [one.removeprefix(CHOICE) for one in overrides if one.startswith(CHOICE)]
    kind = chosen[-1] if chosen else "local"
    files = {file.stem: file for file in sorted((CONF / "hydra" / "launcher").glob("*.yaml"))}
    if kind not in files:
        raise ConfigError(f"{CHOICE}{kind}: no such launcher; there are {', '.join(files)}")
    try:
        given = OmegaConf.from_dotlist([one.removeprefix(SETTING) for one in overrides if one.startswith(SETTING)])
    except yaml.YAMLError as error:
        raise ConfigError(f"hydra.launcher: {' '.join(str(error).split())}") from None
    known = OmegaConf.load(files[kind])
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise ConfigError(
            f"{SETTING}{unknown[0]}: no such setting; {kind} has "
            f"{', '.join(str(k) for k in known if k not in ('_target_', 'kind'))}"
        )
    try:
        whole = OmegaConf.create(
            {"harness": {"memory_gb": memory_gb}, "hydra": {"launcher": OmegaConf.merge(known, given)}}
        )
        settings: Any = OmegaConf.to_container(whole.hydra.launcher, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"hydra.launcher: {str(error).splitlines()[0]}") from None
    return settings.pop("kind"), {key: value for key, value in settings.items() if key != "_target_"}


def _folder(sweep: Sweep, overrides: Sequence[str]) -> Path:
    roots = [one.removeprefix(f"{ROOT_KEY}=") for one in overrides if one.startswith(f"{ROOT_KEY}=")]
    root = roots[-1] if roots else str(sweep.fixed.get(ROOT_KEY, DEFAULT_ROOT))
    return ROOT / root / ".sweeps" / sweep.name


def _cached(folder: Path, key: str) -> tuple[Trial, ...] | None:
    try:
        kept = read_json(folder / "trials.json")
    except RunDirError:
        return None
    if kept["key"] != key:
        return None
    return tuple(
        replace(Trial(**trial), path=Path(trial["path"]), overrides=tuple(trial["overrides"]))
        for trial in kept["trials"]
    )


def _sources() -> str:
    """Hash of everything that decides what a trial's overrides mean."""
    total = hashlib.sha256()
    files = [*CONF.rglob("*.yaml"), *(ROOT / "harness").rglob("*.py"), Path(__file__).with_name("trials.py")]
    for file in sorted(files):
        total.update(json.dumps([str(file), file.read_text()]).encode())
    return total.hexdigest()
