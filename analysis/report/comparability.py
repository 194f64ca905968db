"""The comparability report: what was equal between the arms of an experiment, what differed, and how one knows."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from analysis.runs.foreign import imported, statements
from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.matched import require_matched, unproved

KINDS = ("versions", "hardware")  # of the manifest: what may differ between matched runs, and is shown


def comparability(runs: Runs, varies: Sequence[str] = ()) -> dict[str, Any]:
    """What can be said about the matching of one experiment's runs, as JSON would hold it.

    matched, why_not: ``require_matched``. fingerprints: fingerprint -> arms. treatment: key -> arm -> value, of the
    treatment keys in which the arms differ (all others are equal). same_start: pairs of runs of one seed whose first
    responses are recorded, and how many of them have the same. versions, hardware: what differs within the experiment,
    and the rest as it is. imported: run -> what was read of which files, of runs that are (``import_runs``), which are
    never matched; stated: ``statements`` of them. commit: of this project, with a + for a changed tree. varies: keys
    that were declared to differ.
    """
    try:
        require_matched(runs, varies)
        why_not = unproved(runs)
    except AnalysisError as error:
        why_not = str(error)
    fingerprints: dict[str, list[str]] = {}
    for fingerprint, rows in runs.runs.groupby("fingerprint"):
        fingerprints[str(fingerprint)] = sorted(rows["arm"].unique())
    arms = runs.runs.drop_duplicates("arm").sort_values("arm").to_dict("records")
    treatments = {str(row["arm"]): runs.manifests[row["run"]].get("treatment", {}) for row in arms}
    pairs, equal = _same_start(runs)
    return {
        "matched": not why_not,
        "why_not": why_not,
        "varies": list(varies),
        "fingerprints": fingerprints,
        "treatment": _differing(treatments),
        "same_start": {"pairs": pairs, "equal": equal},
        "imported": {run: runs.manifests[run].get("imported", {}) for run in imported(runs)},
        "stated": statements(runs),
        "commit": _by_value({"commit": runs.manifests[run].get("commit") or "unknown"} for run in runs.runs["run"]),
        **{kind: _by_value(runs.manifests[run].get(kind, {}) for run in runs.runs["run"]) for kind in KINDS},
    }


def _same_start(runs: Runs) -> tuple[int, int]:
    """Pairs of arms of one seed with a recorded hash of the first responses, and those where it is the same."""
    pairs = equal = 0
    for _, rows in runs.runs.groupby("seed"):
        hashes = [runs.manifests[run].get("step1_responses") for run in rows["run"]]
        for a, b in combinations([h for h in hashes if h], 2):
            pairs, equal = pairs + 1, equal + (a == b)
    return pairs, equal


def _differing(of_arm: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    keys = sorted({key for treatment in of_arm.values() for key in treatment})
    values = {key: {arm: treatment.get(key) for arm, treatment in of_arm.items()} for key in keys}
    return {key: by_arm for key, by_arm in values.items() if len({repr(value) for value in by_arm.values()}) > 1}


def _by_value(records: Iterable[dict[str, Any]]) -> dict[str, list[str]]:
    """Every value that a field has in the runs; more than one means that the runs differ in it."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.items():
            found.setdefault(name, set()).add(str(value))
    return {name: sorted(values) for name, values in sorted(found.items())}
