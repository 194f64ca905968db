"""Hydra's multirun through our scheduler: ``hydra/launcher=local | slurm | ray_jobs`` on the command line of a run.

Hydra finds launchers by scanning the installed namespace package ``hydra_plugins``; ours registers itself when the
multirun starts, through the callback that ``conf/train.yaml`` names.
"""

import importlib
import sys
import types
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from rich.console import Console

from harness.config import ConfigError, say_error
from sweeps.control import launcher, run_trials
from sweeps.scheduler import Rules
from sweeps.trials import trials_of

PACKAGE = "hydra_plugins"  # the only one from which Hydra instantiates plugins


class RegisterLauncher(Callback):
    """Makes ``SweepLauncher`` known to Hydra before it is asked for, under a name that Hydra accepts."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        # Hydra imports a launcher by a name that starts with ``hydra_plugins.``. A real package of that name would have
        # to be a folder at the top of the checkout: one that setuptools maps to a folder in here is not found by
        # Hydra's scan in an editable installation, and not at all where the checkout is only on the path.
        try:
            package = importlib.import_module(PACKAGE)
        except ImportError:  # no other plugin is installed
            package = sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
        name = __name__.partition(".")[0]
        sys.modules[f"{PACKAGE}.{name}"] = sys.modules[__name__]
        setattr(package, name, sys.modules[__name__])
        Plugins.instance().register(SweepLauncher)


class SweepLauncher(Launcher):
    """Every job of the multirun is a trial; ends the program with status 1 if one is not done."""

    __module__ = f"{PACKAGE}.{__name__.partition('.')[0]}"

    def __init__(self, kind: str, **settings: Any):
        self.kind, self.settings = kind, settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Nothing to remember: a trial is composed again by the process that trains it."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        console = Console(stderr=True)
        try:
            where = launcher(self.kind, self.settings)
            status = run_trials(trials_of(job_overrides), where, Rules(), console)
        except ConfigError as error:
            say_error(error)
            sys.exit(2)
        if status:
            sys.exit(status)
        return [JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED) for overrides in job_overrides]
