"""What is proved of runs and of every pair of arms: recomputed and equal, recomputed and false, or not to be known.

    python -m analysis verify results/runs/tiny

Of a run: its settings, the hashes of its files, its responses against its metrics (``analysis.runs.proofs``). Of the
two runs of a seed: settings, versions of what trained them, source code, first responses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from analysis.runs.foreign import imported
from analysis.runs.load import AnalysisError, Runs
from analysis.runs.proofs import AGREES, FALSE, UNKNOWN, Proof
from analysis.statistics.matched import IMPORTED, changed_files, require_matched, trainer_versions, unproved
from harness.rundir import CODE


@dataclass(frozen=True)
class Verified:
    """What is proved of one subject: a run, or two arms at one seed (``gspo, luspo at seed 3``)."""

    subject: str
    experiment: str
    pair: bool
    proofs: tuple[Proof, ...]


def verify(runs: Runs) -> list[Verified]:
    """Every run that was to train, then every pair of arms at every seed that both have."""
    trained = runs.trained()
    table = trained.runs.sort_values(["experiment", "arm", "seed"])
    rows = table.to_dict("records")
    found = [Verified(row["run"], row["experiment"], False, tuple(_of_run(trained, row["run"]))) for row in rows]
    for (experiment, seed), part in table.groupby(["experiment", "seed"]):
        for a, b in combinations(part.to_dict("records"), 2):
            subject = f"{a['arm']}, {b['arm']} at seed {seed}"
            found.append(Verified(subject, str(experiment), True, tuple(_of_pair(trained, a["run"], b["run"]))))
    return found


def counted(verified: list[Verified]) -> list[dict[str, Any]]:
    """One row a check: pair (of a run or a pair), what, how many agree, are unknown or false, and what of."""
    rows: dict[tuple[bool, str], dict[str, Any]] = {}
    for one in verified:
        for proof in one.proofs:
            start = {"pair": one.pair, "what": proof.what, AGREES: 0, UNKNOWN: 0, FALSE: 0, "exceptions": {}}
            row = rows.setdefault((one.pair, proof.what), start)
            row[proof.state] += 1
            if proof.state != AGREES:
                row["exceptions"].setdefault(f"{proof.state}: {proof.detail}", []).append(one.subject)
    return list(rows.values())


def _of_run(runs: Runs, run: str) -> Iterator[Proof]:
    manifest = runs.manifests[run]
    yield from runs.proofs.get(run) or [Proof("settings", UNKNOWN, "imported: no manifest of the run")]
    yield runs.rows_proof(run)
    commit = str(manifest.get("commit") or "")
    if not commit:
        yield Proof("commit", UNKNOWN, "no commit is recorded")
    elif commit.endswith("+"):
        yield Proof("commit", UNKNOWN, f"made from a changed tree, {commit}")
    else:
        yield Proof("commit", AGREES, commit)


def _of_pair(runs: Runs, one: str, other: str) -> Iterator[Proof]:
    a, b = (runs.manifests[run] for run in (one, other))
    try:
        pair = runs.select(run=[one, other])
        require_matched(pair, [IMPORTED] if imported(pair) else [])
        state, detail = (UNKNOWN, unproved(pair)) if imported(pair) else (AGREES, "equal but for the treatment")
        yield Proof("settings", state, detail)
    except AnalysisError as error:
        yield Proof("settings", FALSE, str(error))
    versions = [trainer_versions(manifest) for manifest in (a, b)]
    if not all(versions):
        yield Proof("trainer", UNKNOWN, "the version of verl is not recorded")
    else:
        same = versions[0] == versions[1]
        yield Proof("trainer", AGREES if same else FALSE, " | ".join(str(v) for v in versions))
    yield _code(runs, one, other)
    starts = [manifest.get("step1_responses") for manifest in (a, b)]
    if not all(starts):
        yield Proof("first responses", UNKNOWN, "no hash of the first responses")
    else:
        same = starts[0] == starts[1]
        yield Proof("first responses", AGREES if same else FALSE, "the same" if same else "not the same")


def _code(runs: Runs, one: str, other: str) -> Proof:
    """The grader's, reward's, agent loop's and verl's source; the loss's belongs to the treatment."""
    a, b = (
        {key: value for key, value in (runs.manifests[run].get("controlled") or {}).items() if key.startswith(CODE)}
        for run in (one, other)
    )
    if wrong := [key for key in a if key in b and a[key] != b[key]]:
        named = ", ".join(f"{key} {changed_files(runs, one, other, key)}" for key in wrong)
        return Proof("source code", FALSE, f"not the same: {named.rstrip(' :')}")
    if not a or a.keys() != b.keys():
        return Proof("source code", UNKNOWN, "no hash of the grader's and reward's code")
    return Proof("source code", AGREES, ", ".join(key.removeprefix(CODE) for key in a))
