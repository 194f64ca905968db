"""A trial of a sweep: one run that is to be done, known by its overrides, and what it will need."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import ConfigError, compose, effective, flatten, matching
from harness.doctor import rules
from harness.estimate import cost
from harness.estimate.architecture import shape_of
from harness.rundir import RunDir
from harness.tasks.cache import nothing_built

SEED = "seed"


@dataclass(frozen=True)
class Trial:
    """ranks: of one node; gpus: of all nodes together, 0 on CPU; hours: GPU-hours at the experiment's mean length, at
    most, and hours_least: at least, None without GPUs; minutes: of one core, of a run on the CPU whose experiment has
    been measured, else None; disk: bytes of the checkpoints that are kept; memory_gb: of a host at its peak; priority:
    higher ones start first.
    """

    overrides: tuple[str, ...]
    path: Path
    planned: int
    nodes: int = 1
    ranks: int = 1
    gpus: int = 0
    hours: float | None = None
    hours_least: float | None = None
    minutes: float | None = None
    disk: float = 0.0
    memory_gb: float = 0.0
    priority: float = 0.0

    @property
    def run(self) -> RunDir:
        return RunDir(self.path)

    @property
    def seed(self) -> int:
        """The seed, by the run directory's path."""
        return int(self.path.name.removeprefix(f"{SEED}="))

    @property
    def name(self) -> str:
        """Experiment, arm and seed, as in the run directory's path."""
        return "/".join(self.path.parts[-3:])


def trials_of(jobs: Iterable[Sequence[str]]) -> list[Trial]:
    """A trial for each list of overrides; raises ``ConfigError`` for what does not compose and for a run named twice.

    Lists that differ by their seed alone are composed once: a seed changes nothing of what a run needs.
    """
    composed: dict[tuple[str, ...], Trial] = {}
    found: dict[Path, Trial] = {}
    for overrides in jobs:
        seeds = [one for one in overrides if one.startswith(f"{SEED}=")]
        rest = tuple(one for one in overrides if one not in seeds)
        seed = seeds[-1].removeprefix(f"{SEED}=") if seeds else None
        if rest not in composed:
            composed[rest] = trial_of(rest)
        trial = composed[rest]
        if seed is not None:
            if not seed.isdigit():
                raise ConfigError(f"{SEED} must be a whole number of at least 0, got {seed!r}")
            trial = replace(trial, overrides=tuple(overrides), path=trial.path.with_name(f"{SEED}={seed}"))
        if trial.path in found:
            raise ConfigError(
                f"{' '.join(overrides)} and {' '.join(found[trial.path].overrides)} are the same run, {trial.path}"
            )
        found[trial.path] = trial
    return list(found.values())


def trial_of(overrides: Sequence[str]) -> Trial:
    """The trial of one list of overrides of ``harness.train``; nothing is built or written.

    Raises ``ConfigError`` for what does not compose and for settings that do not fit together.
    """
    flat = flatten(compose(overrides))
    rules.settings(flat)
    nodes, ranks = flat["trainer.nnodes"], flat["trainer.n_gpus_per_node"]
    gpus = nodes * ranks if flat["trainer.device"] != "cpu" else 0
    steps = flat[matching.STEPS]
    (least, hours), disk = _needs(flat, steps)
    minutes = None if gpus else cost.cpu_minutes(flat)
    path = matching.run_path(flat, effective(overrides, lambda word: matching.may_make_an_arm(word, flat)))
    memory = flat["harness.memory_gb"]
    return Trial(tuple(overrides), path, steps, nodes, ranks, gpus, hours, least, minutes, disk, memory)


def _needs(flat: dict[str, Any], steps: int) -> tuple[tuple[float | None, float | None], float]:
    """(GPU-hours from least to most or None, bytes of checkpoints), by ``harness.estimate``; 0 bytes where the model's
    shape is unknown."""
    try:
        with nothing_built():
            shape = shape_of(flat)
    except ConfigError:
        return (None, None), 0.0
    kept = (flat["trainer.max_actor_ckpt_to_keep"] or steps) if flat["trainer.save_freq"] > 0 else 0
    disk = cost.training(flat, shape).checkpoint * kept
    if "harness.mean_length" not in flat:
        return (None, None), disk
    one = cost.step(flat, shape, flat["harness.mean_length"]).gpu_hours
    return (one[0] * steps, one[1] * steps) if one else (None, None), disk
