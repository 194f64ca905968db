"""Named sweeps from the command line.

    python -m sweeps plan NAME              what it would run, GPU-hours and disk; starts nothing
    python -m sweeps run NAME               run it, or go on with it; what is done stays done
    python -m sweeps status NAME            where each of its runs is, and what to do next
    python -m sweeps watch NAME             the same, again and again
    python -m sweeps cancel NAME            end what it started, and its controller
    python -m sweeps manifests NAME --to FOLDER kubernetes.image=... kubernetes.claim=...
                                            a Kubernetes manifest (KubeRay RayJob) for each run; all values of theirs
                                            are in sweeps/cluster/rayjob.yaml

NAME is a file of sweeps/named/ or a path to a YAML file. Overrides of ``harness.train`` may follow for all runs; of a
key of the sweep's grid they replace its values, algo=gspo,luspo. ``until=decided max_seeds=20 claim=luspo:gspo`` trains
new seeds only while that comparison is undecided (sweeps/until.py).
``hydra/launcher=slurm hydra.launcher.partition=gpu`` say where they run. ``status``, ``watch`` and ``cancel`` work from
any machine that sees the results, and take the overrides of the last ``run`` if none are given.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from harness.config import ConfigError, say_error
from sweeps.control import cancel, run_sweep, until_decided
from sweeps.definition import names
from sweeps.next_steps import sweeps_command
from sweeps.view import next_step, plan_table, status_table

WATCH_SECONDS = 5.0


def plan(name: str, overrides: list[str], console: Console) -> int:
    """Print the runs and what they need."""
    from sweeps.state import SweepState

    state = SweepState.of(name, overrides)
    rule = until_decided(state).decision.words if state.sweep.until else ""
    console.print(plan_table(state.sweep, state.begun, state.trials))
    if rule:
        console.print(rule, highlight=False, soft_wrap=True, markup=False)
    _tell_next(console, sweeps_command("run", name, overrides))
    return 0


def run(name: str, overrides: list[str], console: Console) -> int:
    """Run the sweep; the exit status says whether all is done."""
    return run_sweep(name, overrides, console)


def status(name: str, overrides: list[str], console: Console) -> int:
    """Print the table once."""
    from sweeps.state import SweepState

    state = SweepState.last(name, overrides)
    console.print(status_table(state.begun, state.lock))
    if not state.sweep.until:
        _tell_next(console, next_step(name, state.overrides, state.trials, state.lock))
        return 0
    until = until_decided(state)
    console.print(until.last or until.decision.words, highlight=False, soft_wrap=True, markup=False)
    trials = state.begun if until.over else state.trials
    _tell_next(console, next_step(name, state.overrides, trials, state.lock))
    return 0


def watch(name: str, overrides: list[str], console: Console) -> int:
    """Print the table until interrupted."""
    from sweeps.state import SweepState

    state = SweepState.last(name, overrides)
    with Live(status_table(state.begun, state.lock), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(status_table(state.begun, state.lock), refresh=True)


def manifests(name: str, overrides: list[str], console: Console) -> int:
    """Write a manifest for each run; ``--to FOLDER`` among the overrides says where."""
    from sweeps.launchers.kubernetes import defaults, take_settings, write_rayjobs
    from sweeps.state import SweepState

    if "--to" not in overrides or overrides[-1] == "--to":
        raise ConfigError("manifests: --to FOLDER is missing; it is the folder for the manifests")
    at = overrides.index("--to")
    folder, rest = Path(overrides[at + 1]), overrides[:at] + overrides[at + 2 :]
    settings, rest = take_settings(rest)
    files = write_rayjobs(SweepState.of(name, rest).trials, settings, folder, defaults())
    console.print(f"{len(files)} manifests in {folder}", highlight=False, soft_wrap=True)
    _tell_next(console, shlex.join(["kubectl", "apply", "-f", str(folder)]))
    return 0


def _tell_next(console: Console, command: str) -> None:
    console.print(f"next: {command}", highlight=False, soft_wrap=True, markup=False)


COMMANDS: dict[str, Callable[[str, list[str], Console], int]] = {
    "plan": plan,
    "run": run,
    "status": status,
    "watch": watch,
    "cancel": cancel,
    "manifests": manifests,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 2 for a mistake in it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        print("sweeps:", ", ".join(names()))
        return 0
    console = Console(stderr=arguments[0] in ("run", "cancel"))
    try:
        if arguments[0] not in COMMANDS:
            raise ConfigError(f"{arguments[0]}: no such command; there are {', '.join(COMMANDS)}")
        if len(arguments) < 2:
            raise ConfigError(f"{arguments[0]}: the sweep's name is missing; there are {', '.join(names())}")
        return COMMANDS[arguments[0]](arguments[1], arguments[2:], console)
    except ConfigError as error:
        say_error(error)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
