"""Which runs of a folder belong together: of each experiment the largest matched group, and why others are left out.

A smoke run, a run with another batch size or a second learning rate beside finished runs must not end their report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.matched import require_matched

STEPS = "trainer.total_training_steps"


@dataclass(frozen=True)
class Choice:
    """What of the runs a report is about. varies: keys, or prefixes of keys, in which its runs may differ
    (``require_matched``). only, exclude: run names with ``*`` (``tiny/luspo/seed=*``), or parts of them (``luspo``,
    ``seed=3``)."""

    varies: Sequence[str] = ()
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()


def choose(runs: Runs, choice: Choice | None = None) -> Runs:
    """The runs that a report is about; ``Runs.left_out`` of the result names all others with their reason.

    Of each experiment the group of the same settings and planned steps with the most finished runs. Raises
    ``AnalysisError`` if nothing is left, or if ``only`` or ``exclude`` names no run.
    """
    choice = choice or Choice()
    left_out = dict(runs.left_out)
    for pattern in (*choice.only, *choice.exclude):
        if not any(_named(run, pattern) for run in runs.runs["run"]):
            raise AnalysisError(f"no run is called {pattern!r}; there are {', '.join(runs.runs['run'][:8])}")
    wanted = []
    for run in runs.runs["run"]:
        if choice.only and not any(_named(run, pattern) for pattern in choice.only):
            left_out[run] = "not asked for"
        elif any(_named(run, pattern) for pattern in choice.exclude):
            left_out[run] = "excluded"
        else:
            wanted.append(run)
    if not wanted:
        raise AnalysisError("no run is left: every one is excluded or not asked for")
    kept: list[str] = []
    asked = runs.select(run=wanted)
    for experiment in asked.runs["experiment"].unique():
        part = asked.select(experiment=experiment)
        main, *others = _groups(part)
        kept += main
        for group in others:
            if reason := _apart(part, main, group, choice.varies):
                left_out |= dict.fromkeys(group, reason)
            else:
                kept += group
    return runs.select(run=kept).leaving_out(left_out)


def _named(run: str, pattern: str) -> bool:
    return fnmatchcase(run, pattern) or any(fnmatchcase(part, pattern) for part in run.split("/"))


def _groups(runs: Runs) -> list[list[str]]:
    """The runs of one experiment by fingerprint and planned steps; the group with the most finished runs first, then
    the one with more runs, then with more steps. Initial models belong to every group and stand with the first."""
    trained = runs.runs[runs.runs["planned_steps"] > 0]
    initial = list(runs.runs["run"][runs.runs["planned_steps"] <= 0])
    found = [
        ((rows["state"] == "done").sum(), len(rows), key[1], list(rows["run"]))
        for key, rows in trained.groupby(["fingerprint", "planned_steps"], sort=False)
    ]
    ordered = [group for *_, group in sorted(found, key=lambda one: one[:3], reverse=True)]
    return [ordered[0] + initial, *ordered[1:]] if ordered else [initial]


def _apart(runs: Runs, main: Sequence[str], group: Sequence[str], varies: Sequence[str]) -> str:
    """Why the group cannot be shown beside the main one, or nothing if it can."""
    planned = runs.runs.set_index("run")["planned_steps"]
    ours, theirs = planned[main[0]], planned[group[0]]
    if ours != theirs and STEPS not in varies:
        return f"planned for {theirs} steps, the others for {ours}"
    try:
        require_matched(runs.select(run=[*main, *group]).trained(), varies)
    except AnalysisError as error:
        return str(error)
    return ""
