"""What a run's own files prove of it: settings against each other, records against the hashes written at its end, and
responses against metrics. Nothing that a manifest says is taken on trust where it can be recomputed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.runs.frames import read_sequences
from harness.rundir import CODE, RunDir, RunDirError, changed_files, flattened, read_json, responses_hash, settings_hash

AGREES, FALSE, UNKNOWN = "agrees", "false", "unknown"
KINDS = ("controlled", "treatment", "execution")
CONTENT = ("hash.", CODE)  # begin the keys of a manifest that are hashes of files, not settings
# Fields of the manifest beside the settings, and the setting that each repeats.
REPEATED = {
    "seed": "seed",
    "arm": "harness.arm",
    "algo": "harness.algo",
    "planned_steps": "trainer.total_training_steps",
}
PER_STEP = ("data.train_batch_size", "actor_rollout_ref.rollout.n", "actor_rollout_ref.actor.ppo_epochs")
MEANS = {"tokens": "response_length", "reward": "reward", "accuracy": "accuracy"}  # of responses -> the metric
KEY = ["step", "prompt_id", "sample", "update"]  # of a row of responses
TOLERANCE = 1e-5  # relative: metrics are written in double precision, rewards are recorded in single
MAX_NAMED = 4


@dataclass(frozen=True)
class Proof:
    """One thing that was recomputed. state: ``AGREES``, ``FALSE`` or ``UNKNOWN`` (its record is not there)."""

    what: str
    state: str
    detail: str


def settings_proofs(rundir: RunDir) -> list[Proof]:
    """Of a run's settings and files; reads no metrics. Raises ``RunDirError`` for a manifest that cannot be read."""
    written = read_json(rundir.path / "manifest.json")
    return [_fingerprint(written), _configuration(rundir, written), _seal(rundir)]


def rows_proof(rundir: RunDir, manifest: Mapping[str, Any], metrics: pd.DataFrame) -> Proof:
    """Of a run's recorded responses against its ``metrics`` (indexed by step)."""
    files = rundir.response_files()
    if not files:
        return Proof("responses", UNKNOWN, "no responses are recorded")
    try:
        rows = read_sequences(files, [*KEY, "response_hash", *MEANS])
    except RunDirError as error:
        said = str(error).removeprefix(f"{rundir.path}/")
        return Proof("responses", UNKNOWN if "has no column" in said else FALSE, said)
    by_step = rows.groupby("step")
    trained = metrics.index[metrics["response_length"].notna()]
    if wrong := _counts(by_step.size(), trained, manifest) or _repeated(rows) or _means(by_step, metrics):
        return Proof("responses", FALSE, wrong)
    start = manifest.get("step1_responses")
    if start and (found := first_responses(rows)) and found != start:
        return Proof("responses", FALSE, f"those of step 1 hash to {found}, the manifest has {start}")
    return Proof("responses", AGREES, f"{len(rows)} at {len(trained)} steps: number, mean length, reward, accuracy")


def first_responses(rows: pd.DataFrame) -> str:
    """The manifest's ``step1_responses`` from the recorded rows; nothing where those of step 1 are not there."""
    first = rows[rows["step"] == 1]
    if first.empty:
        return ""
    return responses_hash(first[["prompt_id", "sample", "response_hash"]].itertuples(index=False, name=None))


def _fingerprint(written: Mapping[str, Any]) -> Proof:
    controlled, given = written.get("controlled"), written.get("fingerprint")
    if not controlled or not given:
        return Proof("fingerprint", UNKNOWN, "the settings are not recorded")
    found = settings_hash(controlled)
    if found != given:
        return Proof(
            "fingerprint",
            FALSE,
            f"its fingerprint {given} is not that of its controlled keys, {found}, so it was changed after the run "
            "began",
        )
    return Proof("fingerprint", AGREES, f"{given}, of {len(controlled)} settings")


def _configuration(rundir: RunDir, written: Mapping[str, Any]) -> Proof:
    """config.yaml and manifest.json hold the same settings, written by one process at one time."""
    if not rundir.config.exists():
        return Proof("config.yaml", UNKNOWN, "not there")
    try:
        content = yaml.load(rundir.config.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        flat = flattened(content)
    except (yaml.YAMLError, AttributeError, OSError, UnicodeDecodeError):
        return Proof("config.yaml", FALSE, "config.yaml is not readable as YAML")
    told = {key: value for kind in KINDS for key, value in (written.get(kind) or {}).items()}
    told = {key: value for key, value in told.items() if not key.startswith(CONTENT) and key not in REPEATED.values()}
    if written.get("planned_steps"):  # an initial model that was evaluated has the settings of the runs from it
        told |= {key: written[name] for name, key in REPEATED.items() if name in written and flat.get(key) is not None}
    differ = [key for key, value in told.items() if key not in flat or flat[key] != value]
    if differ:
        named = [f"{key} ({told[key]} | {flat.get(key, 'absent')})" for key in differ[:MAX_NAMED]]
        more = f" and {len(differ) - len(named)} more" if len(differ) > len(named) else ""
        return Proof("config.yaml", FALSE, f"manifest.json and config.yaml differ in {', '.join(named)}{more}")
    return Proof("config.yaml", AGREES, f"{len(told)} settings")


def _seal(rundir: RunDir) -> Proof:
    """The records are those of the run's end."""
    found = changed_files(rundir)
    if found is None:
        return Proof("files", UNKNOWN, "no hashes were written at the run's end")
    if found:
        named = ", ".join(f"{file} ({what})" for file, what in list(found.items())[:MAX_NAMED])
        return Proof("files", FALSE, f"not as the run left them: {named}")
    return Proof("files", AGREES, "as the run left them")


def _counts(sizes: pd.Series, trained: pd.Index, manifest: Mapping[str, Any]) -> str:
    if lost := [step for step in trained if step not in sizes.index]:
        return f"no responses of step {lost[0]}" + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
    controlled = manifest.get("controlled", {})
    if not set(PER_STEP[:2]) <= controlled.keys():
        return ""
    expected = int(np.prod([controlled.get(key, 1) for key in PER_STEP]))
    wrong = sizes[sizes != expected]
    return f"{wrong.iloc[0]} responses at step {wrong.index[0]}, the settings give {expected}" if len(wrong) else ""


def _repeated(rows: pd.DataFrame) -> str:
    twice = rows[rows.duplicated(KEY)]
    if twice.empty:
        return ""
    step, prompt, sample, _ = twice[KEY].iloc[0]
    return f"sample {sample} of prompt {prompt} is there twice at step {step}"


def _means(by_step: Any, metrics: pd.DataFrame) -> str:
    for column, metric in MEANS.items():
        if metric not in metrics:
            continue
        recorded, found = metrics[metric].dropna(), by_step[column].mean()
        both = recorded.index.intersection(found.index)
        wrong = ~np.isclose(found[both], recorded[both], rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
        if wrong.any():
            step = both[wrong][0]
            return f"{metric} of step {step} is {recorded[step]:.6g} in the metrics, {found[step]:.6g} in the responses"
    return ""
