"""Runs of other frameworks, once they are run directories (``import_runs``): which they are, and what they state.

Their settings are known as far as their records state them, so nothing proves them matched.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from analysis.runs.load import Runs
from analysis.runs.sources.settings import NO_SETTING, TREATMENT

KIND = "imported"  # of a manifest, in its field ``kind``
SETTINGS = ("controlled", "treatment", "execution")  # of the manifest of a run of our own


def is_imported(manifest: Mapping[str, Any]) -> bool:
    """Whether the run was made from another framework's records."""
    return manifest.get("kind") == KIND


def imported(runs: Runs) -> list[str]:
    """The names of those that are."""
    return [str(run) for run in runs.runs["run"] if is_imported(runs.manifests[run])]


def native(runs: Runs) -> Runs:
    """The others, which may be none."""
    theirs = set(imported(runs))
    if not theirs:
        return runs
    kept = ~runs.runs["run"].isin(theirs)
    metrics = runs.metrics[~runs.metrics["run"].isin(theirs)].reset_index(drop=True)
    return replace(runs, runs=runs.runs[kept].reset_index(drop=True), metrics=metrics)


def settings_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a run states of its settings, under verl's names; of a run of our own all of them. Without the seed."""
    if is_imported(manifest):
        found = dict(manifest.get("stated") or {})
    else:
        found = {key: value for kind in SETTINGS for key, value in (manifest.get(kind) or {}).items()}
    return {key: value for key, value in found.items() if key not in NO_SETTING}


def statements(runs: Runs) -> dict[str, Any]:
    """What imported runs state, held against all that the runs of ``runs`` state; {} without any imported run.

    equal: settings that all runs state, and alike. differ: setting -> value -> runs, the treatment apart. partly: those
    that only some state, of the ones that an imported run does. treatment: as ``differ``, of the loss's.
    """
    theirs = imported(runs)
    if not theirs:
        return {}
    told = {str(run): settings_of(runs.manifests[run]) for run in runs.runs["run"]}
    keys = sorted({key for run in theirs for key in told[run]})
    found: dict[str, Any] = {"equal": {}, "differ": {}, "partly": [], "treatment": {}}
    for key in keys:
        by_value: dict[str, list[str]] = {}
        for run, settings in told.items():
            if key in settings:
                by_value.setdefault(str(plain(settings[key])), []).append(run)
        if len(by_value) > 1:
            found["treatment" if key in TREATMENT else "differ"][key] = by_value
        elif sum(map(len, by_value.values())) < len(told):
            found["partly"].append(key)
        else:
            found["equal"][key] = next(iter(by_value))
    return found


def plain(value: Any) -> Any:
    """A number as one spelling of it, 1 and 1.0 being the same; everything else as it is."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
