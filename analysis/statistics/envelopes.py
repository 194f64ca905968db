"""Reference envelopes: what runs of each loss recorded, step by step, with everything that must be equal to compare."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.conform import MEASURES, Key, summaries
from harness.rundir import CODE, write_json

ABOUT, STEPS = "envelope.json", "steps.csv"
DIGITS = 9  # more than single precision has
MIN_SEEDS = 5  # of each loss: the spread of fewer is hardly known
KEYS_NAMED = 4
PER_LOSS = ("treatment", "commits")  # of ``Envelope.about``
NEEDED = ("controlled", "treatment", "versions", "hardware", "commit")  # of a manifest
Table = dict[Key, Any]  # (loss, measure, first step, last step) -> one summary a seed


@dataclass(frozen=True)
class Envelope:
    """Runs of some losses with one setting.

    steps: a row for each run and step: algo, seed, step, then ``MEASURES``; NaN where the loss has no such thing.
    about: experiment, planned_steps, settings (that no loss may change), treatment (of each loss), versions, hardware,
        commits (of each loss).
    """

    steps: pd.DataFrame
    about: dict[str, Any]

    @property
    def losses(self) -> list[str]:
        return list(self.about["treatment"])

    def seeds(self, loss: str) -> list[int]:
        return sorted(self.rows(loss)["seed"].unique().tolist())

    def rows(self, loss: str, seed: int | None = None) -> pd.DataFrame:
        """The rows of ``steps`` of a loss, of one seed or of all."""
        of_loss = self.steps["algo"] == loss
        return self.steps[of_loss if seed is None else of_loss & (self.steps["seed"] == seed)]

    def keeping(self, runs: Collection[tuple[str, int]]) -> "Envelope":
        """Its runs of these losses and seeds."""
        names = zip(self.steps["algo"], self.steps["seed"], strict=True)
        left = self.steps[[name in runs for name in names]].reset_index(drop=True)
        losses = {loss for loss, _ in runs}
        each = {what: {loss: its for loss, its in self.about[what].items() if loss in losses} for what in PER_LOSS}
        return Envelope(left, {**self.about, **each})

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(loss, seed) of each run."""
        return [(loss, seed) for loss in self.losses for seed in self.seeds(loss)]

    def summaries(self) -> Table:
        """``conform.summaries`` of every loss."""
        planned = self.about["planned_steps"]
        by_loss = ((loss, summaries(self.rows(loss), planned)) for loss in self.losses)
        return {(loss, *key): values for loss, found in by_loss for key, values in found.items()}


def of_runs(runs: Runs) -> Envelope:
    """The envelope of finished runs of one setting. Raises ``AnalysisError`` naming the run that does not belong."""
    for path, reason in runs.left_out.items():
        raise AnalysisError(f"{path}: {reason}")
    rows = runs.runs.sort_values(["algo", "seed"]).to_dict("records")
    for row in rows:
        if row["state"] != "done" or row["last_step"] != row["planned_steps"]:
            why = f": {row['error']}" if row["error"] else ""
            raise AnalysisError(
                f"{row['run']} is {row['state']} at step {row['last_step']} of {row['planned_steps']}{why}; only whole "
                "runs can be compared, train it again"
            )
        if lacking := [key for key in NEEDED if key not in runs.manifests[row["run"]]]:
            raise AnalysisError(
                f"{row['run']}: its manifest has no {', '.join(lacking)}; train it anew, or leave it out"
            )
    first = runs.manifests[rows[0]["run"]]
    about = {
        "experiment": first["experiment"],
        "planned_steps": first["planned_steps"],
        "settings": first["controlled"],
        "treatment": {row["algo"]: runs.manifests[row["run"]]["treatment"] for row in reversed(rows)},
        "versions": first["versions"],
        "hardware": first["hardware"],
        "commits": {row["algo"]: runs.manifests[row["run"]]["commit"] for row in reversed(rows)},
    }
    about |= {what: dict(sorted(about[what].items())) for what in PER_LOSS}
    for row in rows:
        its = runs.manifests[row["run"]]
        for what in ("experiment", "planned_steps", "versions"):
            if its[what] != about[what]:
                raise AnalysisError(f"{rows[0]['run']} and {row['run']} differ in {what}: {about[what]} | {its[what]}")
        if said := different(_settings(about, row["algo"]), {**its["controlled"], **its["treatment"]}):
            raise AnalysisError(f"{rows[0]['run']} and {row['run']} differ in {said}")
    columns = ["algo", "seed", "step", *MEASURES]
    steps = runs.metrics[runs.metrics["step"] > 0].reindex(columns=columns)
    steps = steps.sort_values(["algo", "seed", "step"]).reset_index(drop=True)
    counted = steps.groupby(["algo", "seed"]).size()
    if (counted != about["planned_steps"]).any():
        loss, seed = counted.index[counted != about["planned_steps"]][0]
        raise AnalysisError(f"{loss}, seed {seed}: {counted[loss, seed]} rows of {about['planned_steps']} steps")
    return Envelope(_rounded(steps), about)


def write(envelope: Envelope, folder: Path) -> None:
    """Write ``envelope.json`` and ``steps.csv``, replacing those of before."""
    folder.mkdir(parents=True, exist_ok=True)
    envelope.steps.to_csv(folder / STEPS, index=False, float_format=f"%.{DIGITS}g", lineterminator="\n")
    write_json(folder / ABOUT, envelope.about)


def read(folder: Path) -> Envelope:
    """What ``write`` wrote. Raises ``AnalysisError`` if it is not there or not whole."""
    try:
        about = json.loads((folder / ABOUT).read_text())
        steps = pd.read_csv(folder / STEPS)
        planned, treatment = about["planned_steps"], about["treatment"]
        counted = steps.groupby(["algo", "seed"])[[*MEASURES]].size()
        whole = (counted == planned).all() and set(steps["algo"]) == set(treatment)
    except FileNotFoundError as error:
        raise AnalysisError(
            f"{error.filename}: no such file; record runs of ten seeds: python -m analysis conform record RUNS"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise AnalysisError(f"{folder}: no envelope can be read ({' '.join(str(error).split())})") from None
    if not whole:
        raise AnalysisError(f"{folder / STEPS}: not every run of {ABOUT} has its {planned} steps; restore the file")
    return Envelope(steps, about)


def require_comparable(recorded: Envelope, new: Envelope, varies: Sequence[str] = ()) -> None:
    """Raise ``AnalysisError`` unless both are of one setting, but for source code, versions and keys in ``varies``.

    A key that only one side has is a difference, unless verl is another one: its versions have other keys.
    """
    if lacking := [loss for loss in new.losses if loss not in recorded.losses]:
        raise AnalysisError(f"{', '.join(lacking)}: not recorded; the envelope has {', '.join(recorded.losses)}")
    here, there = new.about["planned_steps"], recorded.about["planned_steps"]
    if here != there:
        raise AnalysisError(f"the runs have {here} steps, the envelope {there}; train so many")
    shared = recorded.about["versions"].get("verl") != new.about["versions"].get("verl")
    for loss in new.losses:
        if said := different(_settings(recorded.about, loss), _settings(new.about, loss), varies, shared):
            raise AnalysisError(f"{loss} was trained with other settings than the envelope's: {said}")


def joined(recorded: Envelope, new: Envelope) -> Envelope:
    """Both as one, with the new runs of a loss that both have. Raises ``AnalysisError`` unless they are of one setting
    and of the same versions: an envelope has one of each."""
    there, here = (
        {name: one.about[name] for name in ("experiment", "planned_steps")}
        | {f"version of {name}": version for name, version in one.about["versions"].items()}
        | one.about["settings"]
        for one in (recorded, new)
    )
    if said := different(there, here):
        raise AnalysisError(f"the envelope and these runs differ in {said}; record all losses anew, without --add")
    kept = recorded.keeping([run for run in recorded.runs if run[0] not in new.losses])
    steps = pd.concat([kept.steps, new.steps], ignore_index=True).sort_values(["algo", "seed", "step"])
    each = {what: dict(sorted({**kept.about[what], **new.about[what]}.items())) for what in PER_LOSS}
    return Envelope(steps.reset_index(drop=True), {**recorded.about, **each})


def different(a: Mapping[str, Any], b: Mapping[str, Any], varies: Sequence[str] = (), shared: bool = False) -> str:
    """The settings in which two runs differ, with both values; hashes of source code are no settings.

    varies: keys, or prefixes of keys, that may. shared: only keys that both have are compared.
    """
    keys = (a.keys() & b.keys()) if shared else (a.keys() | b.keys())
    absent = object()
    named = [
        f"{key} ({a.get(key, 'absent')} | {b.get(key, 'absent')})"
        for key in sorted(keys)
        if not key.startswith(CODE)
        and not any(key == one or key.startswith(f"{one}.") for one in varies)
        and a.get(key, absent) != b.get(key, absent)
    ]
    more = f" and {len(named) - KEYS_NAMED} more" if len(named) > KEYS_NAMED else ""
    return ", ".join(named[:KEYS_NAMED]) + more


def _settings(about: Mapping[str, Any], loss: str) -> dict[str, Any]:
    return {**about["settings"], **about["treatment"][loss]}


def _rounded(steps: pd.DataFrame) -> pd.DataFrame:
    """As it will be read again: numbers of ``DIGITS`` digits."""
    return steps.assign(**{name: [float(f"{value:.{DIGITS}g}") for value in steps[name]] for name in MEASURES})
