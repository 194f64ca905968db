"""Run directories -> tidy frames. Everything else in ``analysis`` starts from ``load_runs``."""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from harness.rundir import STANDARD_METRICS, RunDir, RunDirError, find_runs, is_trained

KEYS = ("run", "experiment", "arm", "algo", "seed")  # what names a row of every frame
MAX_KEYS_NAMED = 8


class AnalysisError(Exception):
    """Input that cannot be analysed; the message is one line that names the file, key or metric."""


@dataclass(frozen=True)
class Runs:
    """Runs as tidy frames; ``run`` is ``<experiment>/<arm>/seed=<n>`` and unique.

    runs: one row per run, failed and incomplete ones included: ``KEYS``, clip, fingerprint, state (of
        ``rundir.STATES``), last_step (with training metrics), planned_steps, minutes (of training, over all attempts;
        NaN if unknown), path, error (one line or ""), warnings (tuple of lines).
    metrics: one row per run and step: ``KEYS``, step, then one float column per metric. ``STANDARD_METRICS`` always
        exist. NaN is missing: a row of validation only (step 0, a resume) has NaN in all training metrics, so a count
        of training steps must count values, not rows.
    manifests: run -> its ``manifest.json``.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    manifests: dict[str, dict[str, Any]]

    def select(self, **where: Any) -> "Runs":
        """The runs whose columns have the given values (one value or several), e.g. ``select(arm=["gspo", "luspo"])``.

        Raises ``AnalysisError`` if a column does not exist or if no run is left.
        """
        runs = self.runs
        for column, wanted in where.items():
            if column not in runs:
                raise AnalysisError(f"runs have no column {column!r}; there are {', '.join(runs.columns)}")
            values = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Iterable) else list(wanted)
            left = runs[runs[column].isin(values)]
            if left.empty:
                there = ", ".join(str(value) for value in runs[column].unique())
                raise AnalysisError(f"no run with {column} {', '.join(map(str, values))}; there are {there}")
            runs = left
        names = set(runs["run"])
        return Runs(
            runs.reset_index(drop=True),
            self.metrics[self.metrics["run"].isin(names)].reset_index(drop=True),
            {run: manifest for run, manifest in self.manifests.items() if run in names},
        )

    def sequences(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per response of all steps: ``KEYS``, then ``columns`` (all by default; ``rundir.SEQUENCE_COLUMNS``).

        Read from disk at each call and not kept: select runs and columns first where there are many. Without any file
        the frame is empty. Raises ``AnalysisError`` naming a file that cannot be read or lacks a column.
        """
        parts = []
        for row in self.runs.to_dict("records"):
            for file in RunDir(Path(row["path"])).sequences().values():
                part = _read_parquet(file, columns)
                for at, key in enumerate(KEYS):
                    part.insert(at, key, row[key])
                parts.append(part)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*KEYS, *(columns or ())])


def load_runs(paths: str | PathLike[str] | Iterable[str | PathLike[str]]) -> Runs:
    """Load every run directory at or below ``paths`` (one path or several).

    Raises ``AnalysisError``: no run found, the same run in two places, a file that is missing, broken or of a newer
    schema. A torn last line of a metrics file is dropped and noted in ``warnings`` of its run.
    """
    roots = [Path(p) for p in ([paths] if isinstance(paths, str | PathLike) else paths)]
    found = {rundir.path.resolve(): rundir for root in roots for rundir in find_runs(root)}
    if not found:
        looked = ", ".join(str(root) if root.exists() else f"{root} (does not exist)" for root in roots)
        raise AnalysisError(f"no runs found: no manifest.json at or below {looked or 'no path at all'}")
    rows, records, manifests = [], [], {}
    for rundir in found.values():
        row, metrics, manifest = _load_one(rundir)
        if row["run"] in manifests:  # a copy would be averaged as if it were another seed
            other = next(r["path"] for r in rows if r["run"] == row["run"])
            raise AnalysisError(f"run {row['run']} is there twice: {other} and {rundir.path}; give one of them")
        rows.append(row)
        records += metrics
        manifests[row["run"]] = manifest
    frame = pd.DataFrame.from_records(records, columns=None if records else [*KEYS, "step"])
    keys = [*KEYS, "step"]
    extra = [column for column in frame.columns if column not in {*keys, *STANDARD_METRICS}]
    frame = frame.reindex(columns=[*keys, *STANDARD_METRICS, *extra])
    frame = frame.astype(dict.fromkeys((*STANDARD_METRICS, *extra), float))
    return Runs(pd.DataFrame.from_records(rows), frame, manifests)


def require_metric(frame: pd.DataFrame, metric: str) -> None:
    """Raise ``AnalysisError`` if ``frame`` has no column ``metric`` (naming the nearest ones) or no value in it."""
    if metric in frame and metric not in {*KEYS, "step"}:
        if frame[metric].isna().all():
            raise AnalysisError(f"metric {metric!r} has no value in these runs")
        return
    known = [column for column in frame.columns.difference([*KEYS, "step"]) if frame[column].notna().any()]
    near = difflib.get_close_matches(metric, known, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"{len(known)} others are recorded, none with a similar name"
    raise AnalysisError(f"unknown metric {metric!r}; {hint}")


def require_matched(runs: Runs, varies: Sequence[str] = ()) -> None:
    """Raise ``AnalysisError`` unless all runs agree in every controlled key but those that ``varies`` declares.

    ``varies`` holds flattened config keys or their prefixes (``data`` covers ``data.train_batch_size``). The message
    names two runs and up to 8 keys in which they differ, with both values.
    """
    # Equal fingerprints mean equal controlled keys, so one run per fingerprint stands for the others.
    first, *others = runs.runs.drop_duplicates("fingerprint")["run"]
    a = runs.manifests[first].get("controlled", {})
    for other in others:
        b = runs.manifests[other].get("controlled", {})
        absent = object()  # so that a key set to null differs from one that is not there
        differ = [key for key in sorted({*a, *b}) if a.get(key, absent) != b.get(key, absent)]
        undeclared = [key for key in differ if not any(key == v or key.startswith(f"{v}.") for v in varies)]
        if undeclared:
            named = [f"{key} ({a.get(key, 'absent')} | {b.get(key, 'absent')})" for key in undeclared[:MAX_KEYS_NAMED]]
            more = f" and {len(undeclared) - len(named)} more" if len(undeclared) > len(named) else ""
            raise AnalysisError(f"not matched: {first} and {other} differ in {', '.join(named)}{more}")
        if not differ:
            raise AnalysisError(
                f"not matched: the fingerprints of {first} and {other} differ, but no controlled key does"
            )


def _load_one(rundir: RunDir) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """One run's row of ``runs``, its rows of ``metrics`` and its manifest."""
    try:
        manifest = rundir.manifest()
        # A run killed between its two files is one of the incomplete runs, which stay in the count.
        there = (rundir.path / "status.json").exists()
        status = rundir.status() if there else {"state": "incomplete", "error": "status.json is missing"}
        steps, warnings = rundir.metrics()
    except (RunDirError, OSError) as error:
        raise AnalysisError(str(error)) from None
    try:
        keys = {key: manifest[key] for key in ("experiment", "arm", "algo")} | {"seed": int(manifest["seed"])}
        fingerprint, planned = manifest["fingerprint"], int(manifest["planned_steps"])
    except KeyError as error:
        raise AnalysisError(f"{rundir.path / 'manifest.json'}: has no {error}") from None
    keys = {"run": f"{keys['experiment']}/{keys['arm']}/seed={keys['seed']}", **keys}

    not_numeric: set[str] = set()
    records = []
    for step, data in steps.items():
        records.append({**keys, "step": step})
        for metric, value in data.items():
            if value is None or isinstance(value, int | float):
                records[-1][metric] = math.nan if value is None else float(value)
            else:
                not_numeric.add(metric)
    if not_numeric:
        warnings.append(f"{rundir.path}: metrics that are no numbers, dropped: {', '.join(sorted(not_numeric))}")
    row = {
        **keys,
        "clip": manifest.get("clip", ""),
        "fingerprint": fingerprint,
        "state": status["state"],
        "last_step": max((step for step, data in steps.items() if is_trained(data)), default=0),
        "planned_steps": planned,
        "minutes": float(status.get("seconds") or math.nan) / 60,
        "path": str(rundir.path),
        "error": " ".join(str(status.get("error") or "").split()),
        "warnings": tuple(warnings),
    }
    return row, records, manifest


def _read_parquet(file: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    try:
        return pd.read_parquet(file, columns=None if columns is None else list(columns))
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors derive from these
        raise AnalysisError(f"{file}: not readable ({' '.join(str(error).split())})") from None
