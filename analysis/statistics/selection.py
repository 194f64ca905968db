"""Which runs of a folder belong together: of each experiment the largest matched group, and why others are left out.

A smoke run, a run with another batch size or a second learning rate beside finished runs must not end their report.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from analysis.runs.foreign import imported, settings_of
from analysis.runs.load import AnalysisError, Runs
from analysis.runs.sources.settings import TREATMENT
from analysis.statistics.matched import IMPORTED, different_treatment, merged_files, require_matched, trainer_versions
from harness.rundir import settings_hash

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
    runs = runs.varying(choice.varies)
    runs = runs.varying([IMPORTED] if imported(runs) else [])
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
    if wanted:
        false = _false_names(runs.select(run=wanted))
        left_out |= false
        wanted = [run for run in wanted if run not in false]
    if not wanted:
        raise AnalysisError(f"no run is left: {'; '.join(dict.fromkeys(left_out.values()))}")
    kept: list[str] = []
    asked = runs.select(run=wanted)
    for experiment in asked.runs["experiment"].unique():
        part = asked.select(experiment=experiment)
        main, *others = _groups(part)
        for group in others:
            if reason := _apart(part, main, group):
                left_out |= dict.fromkeys(group, reason)
            else:  # the next one must agree with this one too
                main = [*main, *group]
        kept += main
    return runs.select(run=kept).leaving_out(left_out)


def _false_names(runs: Runs) -> dict[str, str]:
    """Runs that are not what their name says, with the reason: several files merged under one name, an arm with
    another treatment than most of its runs, a copy under another seed, an arm that is another one's loss."""
    found: dict[str, str] = {}
    for _, part in runs.runs.groupby(["experiment", "arm"], sort=False):
        names = list(part["run"])
        found |= {run: reason for run in names if (reason := merged_files(runs, run))}
        treatments = {run: runs.manifests[run].get("treatment") or {} for run in names}
        usual = Counter(map(settings_hash, treatments.values())).most_common(1)[0][0]
        first = next(run for run in names if settings_hash(treatments[run]) == usual)
        starts: dict[str, str] = {}
        for run in names:
            if named := different_treatment(runs, first, run):
                found[run] = f"called one arm with {first}, and differs from it in the treatment: {named}"
            start = runs.manifests[run].get("step1_responses")
            if start and starts.setdefault(start, run) != run:
                found[run] = f"has the same first responses as {starts[start]} under another seed, so it is a copy"
    return found | _same_losses(
        runs.select(run=left) if (left := [r for r in runs.runs["run"] if r not in found]) else None
    )


def _same_losses(runs: Runs | None) -> dict[str, str]:
    """The runs of arms whose treatment and controlled settings are all another arm's."""
    found: dict[str, str] = {}
    first: dict[tuple[str, str, str], str] = {}
    for row in runs.runs.to_dict("records") if runs else ():
        manifest = runs.manifests[row["run"]] if runs else {}
        if not manifest.get("treatment") or row["planned_steps"] <= 0:
            continue
        same = (row["experiment"], settings_hash(manifest["treatment"]), row["fingerprint"])
        if first.setdefault(same, row["arm"]) != row["arm"]:
            found[row["run"]] = f"its treatment and settings are those of the arm {first[same]}, so it is the same loss"
    return found


def _named(run: str, pattern: str) -> bool:
    return fnmatchcase(run, pattern) or any(fnmatchcase(part, pattern) for part in run.split("/"))


def _groups(runs: Runs) -> list[list[str]]:
    """The runs of one experiment by fingerprint, planned steps and trainer: first the group with most finished runs,
    then more runs, then more steps. Initial models belong to every group and stand with the first."""
    trained = runs.runs[runs.runs["planned_steps"] > 0]
    trainer = [str(sorted(trainer_versions(runs.manifests[run]).items())) for run in trained["run"]]
    theirs = {run: settings_of(runs.manifests[run]) for run in imported(runs)}  # of others the fingerprint tells it
    told = [theirs.get(run, {}) for run in trained["run"]]
    stated = [settings_hash({key: value for key, value in one.items() if key not in TREATMENT}) for one in told]
    trained = trained.assign(trainer=trainer, stated=stated)
    initial = list(runs.runs["run"][runs.runs["planned_steps"] <= 0])
    found = [
        ((rows["state"] == "done").sum(), len(rows), key[1], list(rows["run"]))
        for key, rows in trained.groupby(["fingerprint", "planned_steps", "trainer", "stated"], sort=False)
    ]
    ordered = [group for *_, group in sorted(found, key=lambda one: one[:3], reverse=True)]
    return [ordered[0] + initial, *ordered[1:]] if ordered else [initial]


def _apart(runs: Runs, main: Sequence[str], group: Sequence[str]) -> str:
    """Why the group cannot be shown beside the main one, or nothing if it can."""
    planned = runs.runs.set_index("run")["planned_steps"]
    ours, theirs = planned[main[0]], planned[group[0]]
    if ours != theirs and STEPS not in runs.varies:
        return f"planned for {theirs} steps, the others for {ours}"
    try:
        require_matched(runs.select(run=[*main, *group]).trained())
    except AnalysisError as error:
        return str(error)
    return ""
