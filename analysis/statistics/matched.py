"""Whether runs may be compared: they agree in every controlled key, or in all but those that are declared to vary."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.runs.foreign import imported, is_imported, plain, settings_of, statements
from analysis.runs.load import AnalysisError, Runs
from analysis.runs.sources.settings import TREATMENT
from harness.rundir import CODE

IMPORTED = "imported"  # what it is told to let runs of other frameworks pass, which cannot be shown to be matched
UNKNOWN = "unknown"  # what `require_matched` is told to let runs pass whose settings are not recorded
# What runs on other data differ in (``require_matched``).
DATA_KEYS = ("hash.train_data", "hash.heldout_data", "data.train_max_samples", "data.val_max_samples")
MAX_KEYS_NAMED = 8
MERGED = re.compile(r"[+]*(algo|clip|policy|task|experiment|cluster|tracking|sweep)=\[")
ENGINE = "actor_rollout_ref.rollout.name"
PARENT = "hash.fork"  # the checkpoint that a fork started from


def require_matched(runs: Runs, varies: Sequence[str] = ()) -> None:
    """Raise ``AnalysisError`` unless all runs agree in every controlled key but those that are declared to vary.

    ``varies``, beside ``Runs.varies``, holds flattened config keys or their prefixes (``data`` covers
    ``data.train_batch_size``). Runs must also have the same versions of what trains them (``trainer_versions``). A hash
    of source code that is not recorded in one run is no difference: nobody knows. The message names two runs and up to
    8 keys in which they differ, with both values. Runs without a fingerprint (imported ones) cannot be proved matched;
    they pass only where ``varies`` declares ``UNKNOWN`` too; those that are run directories (``import_runs``) where it
    declares ``IMPORTED`` (as ``selection.choose`` does), and then what two of them both state must be equal. Forks of
    other parents may have other seeds: a parent is then a part of the seed, within which everything is compared.

    Also raises for an arm whose runs differ in their treatment, and for a run that merges several files of one group
    (``algo=[dr_grpo,grpo]``, which Hydra takes and files under the last name).
    """
    varies = (*varies, *runs.varies)
    question = frozenset(runs.runs["run"]), varies
    if question in runs.agreed:  # a report asks of the same runs for every claim
        return
    _require_one_loss_an_arm(runs)
    _require_one_trainer(runs, varies)
    _require_one_code(runs, varies)
    fingerprints = runs.runs["fingerprint"]
    theirs = imported(runs)
    if theirs and len(runs.runs) > 1:
        if IMPORTED not in varies:
            raise AnalysisError(f"not matched: {unproved(runs)}")
        _require_equal_statements(runs, varies)
    unknown = runs.runs["run"][(fingerprints == "") & ~runs.runs["run"].isin(theirs)]
    if len(unknown) and len(runs.runs) > 1 and UNKNOWN not in varies:
        raise AnalysisError(
            f"not matched: the settings of {unknown.iloc[0]} are not recorded, so nothing proves that they equal the "
            f"others'; if you know that they do, declare {UNKNOWN!r} as varying"
        )
    # Equal fingerprints mean equal controlled keys, so one run per fingerprint stands for the others.
    first, *others = runs.runs[fingerprints != ""].drop_duplicates("fingerprint")["run"].to_list() or [""]
    for other in others:
        a, b = (runs.manifests[run].get("controlled", {}) for run in (first, other))
        if not (a and b):  # known by their fingerprints alone
            if UNKNOWN in varies:
                continue
            raise AnalysisError(
                f"not matched: the fingerprints of {first} and {other} differ, in what is not recorded; if you know "
                f"that it does not matter, declare {UNKNOWN!r} as varying"
            )
        absent = object()  # so that a key set to null differs from one that is not there
        differ = [key for key in sorted({*a, *b}) if a.get(key, absent) != b.get(key, absent)]
        if not differ:
            raise AnalysisError(
                f"not matched: the fingerprints of {first} and {other} differ, but no controlled key does"
            )
        differ = [key for key in differ if not key.startswith(CODE)]  # those are compared above
        if differ == [PARENT] and not _seeds(runs, a) & _seeds(runs, b):
            continue
        undeclared = [key for key in differ if not _declared(key, varies)]
        if undeclared:
            named = [f"{key} ({a.get(key, 'absent')} | {b.get(key, 'absent')})" for key in undeclared[:MAX_KEYS_NAMED]]
            more = f" and {len(undeclared) - len(named)} more" if len(undeclared) > len(named) else ""
            raise AnalysisError(f"not matched: {first} and {other} differ in {', '.join(named)}{more}")
    runs.agreed.add(question)


def unproved(runs: Runs) -> str:
    """Why it cannot be shown that runs are matched, as the end of a sentence; nothing where none is imported."""
    theirs = imported(runs)
    if not theirs:
        return ""
    first, told = theirs[0], statements(runs)
    source = runs.manifests[first].get("imported", {}).get("framework", "another framework")
    which = f"{first} is imported ({source})" if len(theirs) == 1 else f"{len(theirs)} runs are imported"
    return (
        f"cannot be shown, because {which}: settings that all runs state, and alike, {len(told['equal'])}; that only "
        f"some state, {len(told['partly'])}; the others no imported run states"
    )


def merged_files(runs: Runs, run: str) -> str:
    """That the run was started with a list of names for one group, which Hydra merges; nothing for any other run."""
    words = [word for word in runs.manifests[run].get("overrides", ()) if MERGED.match(word)]
    return f"was started with {words[0]}, so it is several files merged under one name" if words else ""


def different_treatment(runs: Runs, one: str, other: str) -> str:
    """The treatment keys in which two runs differ, with both values; nothing if they agree or one has none recorded."""
    a, b = (runs.manifests[name].get("treatment") or {} for name in (one, other))
    differ = [key for key in sorted({*a, *b}) if a and b and a.get(key) != b.get(key)]
    differ = [key for key in differ if not key.startswith(CODE) or (key in a and key in b)]
    if any(is_imported(runs.manifests[name]) for name in (one, other)):  # what only one states is no difference
        a, b = (settings_of(runs.manifests[name]) for name in (one, other))
        differ = [key for key in sorted(a.keys() & b.keys() & TREATMENT) if plain(a[key]) != plain(b[key])]
    return ", ".join(
        f"{key} ({changed_files(runs, one, other, key)}{a.get(key)} | {b.get(key)})" for key in differ[:MAX_KEYS_NAMED]
    )


def changed_files(runs: Runs, one: str, other: str, key: str) -> str:
    """``in a.py, b.py: ``, the source files in which a hash of code differs between runs; nothing for other keys."""
    part = key.removeprefix(CODE)
    a, b = (runs.manifests[run].get("code", {}).get(part, {}) for run in (one, other))
    files = [file for file in sorted({*a, *b}) if a.get(file) != b.get(file)] if key.startswith(CODE) else []
    return f"in {', '.join(files)}: " if files else ""


def trainer_versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The versions that a contrast needs equal, as far as they are recorded: verl's and the rollout engine's."""
    versions = manifest.get("versions") or {}
    engine = (manifest.get("controlled") or {}).get(ENGINE)
    return {name: str(versions[name]) for name in ("verl", engine) if name and name in versions}


def _declared(key: str, varies: Sequence[str]) -> bool:
    return any(key == declared or key.startswith(f"{declared}.") for declared in varies)


def _require_one_trainer(runs: Runs, varies: Sequence[str]) -> None:
    first: dict[str, tuple[str, str]] = {}
    for run in runs.runs["run"]:
        for name, version in trainer_versions(runs.manifests[run]).items():
            other, its = first.setdefault(name, (run, version))
            if version != its and not _declared(f"versions.{name}", varies):
                raise AnalysisError(f"not matched: {other} and {run} differ in versions.{name} ({its} | {version})")


def _require_one_code(runs: Runs, varies: Sequence[str]) -> None:
    first: dict[str, tuple[str, str]] = {}
    for run in runs.runs["run"]:
        for key, value in (runs.manifests[run].get("controlled") or {}).items():
            if not key.startswith(CODE) or _declared(key, varies):
                continue
            other, its = first.setdefault(key, (run, value))
            if value != its:
                where = changed_files(runs, other, run, key)
                raise AnalysisError(f"not matched: {other} and {run} differ in {key} ({where}{its} | {value})")


def _require_equal_statements(runs: Runs, varies: Sequence[str]) -> None:
    """What imported runs state of their settings, but of the loss, is what the others state."""
    for key, by_value in statements(runs)["differ"].items():
        if not _declared(key, varies):
            named = " | ".join(f"{value}: {', '.join(names[:2])}" for value, names in by_value.items())
            raise AnalysisError(f"not matched: the runs differ in {key} ({named})")


def _require_one_loss_an_arm(runs: Runs) -> None:
    first: dict[tuple[str, str], str] = {}
    for row in runs.runs.to_dict("records"):
        run = row["run"]
        if reason := merged_files(runs, run):
            raise AnalysisError(f"not matched: {run} {reason}; leave it out, and train each name by itself")
        other = first.setdefault((row["experiment"], row["arm"]), run)
        if named := different_treatment(runs, other, run):
            raise AnalysisError(
                f"not matched: {other} and {run} are called one arm, {row['arm']}, and differ in the treatment: {named}"
            )


def _seeds(runs: Runs, controlled: dict[str, Any]) -> set[int]:
    """Seeds of the runs that forked from the parent of ``controlled``."""
    parent = controlled.get(PARENT)
    return {
        int(row["seed"])
        for row in runs.runs.to_dict("records")
        if runs.manifests[row["run"]].get("controlled", {}).get(PARENT) == parent
    }
