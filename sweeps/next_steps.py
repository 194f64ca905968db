"""What to type next: the command that reports exactly these runs, and where a run that failed says why."""

import functools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.paths import ROOT, python
from harness.rundir import LAUNCH_LOG, find_runs
from sweeps.scheduler import refusal
from sweeps.trials import Trial

RUNS = ROOT / "results" / "runs"  # where `make report EXPERIMENT=NAME` looks


def sweeps_command(command: str, name: str, overrides: Sequence[str] = ()) -> str:
    """``python -m sweeps COMMAND NAME OVERRIDES``, quoted for a shell."""
    return shlex.join([python(), "-m", "sweeps", command, name, *overrides])


def report_command(paths: Sequence[Path]) -> str:
    """The command that reports these runs and no others. A folder stands for its runs where it holds only these."""
    wanted = {path.resolve() for path in paths}

    @functools.cache
    def holds_only_these(folder: Path) -> bool:
        return {run.path.resolve() for run in find_runs(folder)} <= wanted

    found = (next((one for one in (path.parents[1], path.parent) if holds_only_these(one)), path) for path in paths)
    folders = list(dict.fromkeys(found))
    if all(folder.parent.resolve() == RUNS.resolve() for folder in folders):
        return f"make report EXPERIMENT={','.join(folder.name for folder in folders)}"
    apart = report_folder(paths)
    return shlex.join([python(), "-m", "analysis", *map(shown, folders), *(("--out", shown(apart)) if apart else ())])


def report_folder(paths: Sequence[Path]) -> Path | None:
    """Where the report of runs is that are kept apart from ``results/runs``: beside them, so that two roots never share
    a folder. None: among the other reports."""
    roots = {path.parents[2] for path in paths}
    if len(roots) > 1 or roots == {RUNS}:
        return None
    return roots.pop() / "reports" / "+".join(dict.fromkeys(path.parents[1].name for path in paths))


def why(trial: Trial) -> str:
    """Where a trial that is not done says why: the doctor for a refused one, else the log of its last attempt."""
    if refusal(trial.run):
        return shlex.join([python(), "-m", "harness.doctor", *trial.overrides])
    attempts = trial.run.attempts()
    log = attempts[-1] / "log.txt" if attempts else trial.path / LAUNCH_LOG
    return f"tail -n 50 {shlex.quote(shown(log))}"


def shown(path: Path) -> str:
    """The path as it is typed from the checkout, absolute where it is elsewhere."""
    return os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path)
