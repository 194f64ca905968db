"""Run directories -> tidy frames. Everything else in ``analysis`` starts from ``load_runs``."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.errors import AnalysisError
from analysis.runs.frames import Table, read_eval, read_metrics, read_sequences, stacked
from analysis.runs.proofs import FALSE, Proof, rows_proof, settings_proofs
from harness.rundir import EVAL_COLUMNS, STANDARD_METRICS, RunDir, RunDirError, find_runs

KEYS = ("run", "experiment", "arm", "algo", "seed")  # what names a row of every frame


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs as tidy frames; ``run`` is ``<experiment>/<arm>/seed=<n>`` and unique.

    runs: one row per run, failed and incomplete ones included: ``KEYS``, clip, fingerprint, state (of
        ``rundir.STATES``), last_step (with training metrics), planned_steps, minutes (of training, over all attempts;
        NaN if unknown), path, error (one line or ""), cause (of a failure, or ""), warnings (tuple of lines).
    metrics: one row per run and step: ``KEYS``, step, then one float column per metric. ``STANDARD_METRICS`` always
        exist. NaN is missing: a row of validation only (step 0, a resume) has NaN in all training metrics, so a count
        of training steps must count values, not rows.
    manifests: run -> its ``manifest.json``.
    left_out: run, or path of what could not be read, -> why it is not among ``runs``.
    varies: config keys, or prefixes, in which these runs may differ and still be compared (``require_matched``).
    proofs: run -> what its settings and files prove (``settings_proofs``); of imported runs nothing.
    checked: run -> what its responses prove, for those that were asked (``rows_proof``); shared by all selections.
    agreed: runs, with what may vary, that ``require_matched`` has found matched; shared likewise.
    moved: run -> its movement by step, of those that were asked (``statistics.movement``); shared likewise.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    manifests: dict[str, dict[str, Any]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    varies: tuple[str, ...] = ()
    proofs: Mapping[str, tuple[Proof, ...]] = field(default_factory=dict, repr=False)
    checked: dict[str, Proof] = field(default_factory=dict, repr=False)
    agreed: set[tuple[frozenset[str], tuple[str, ...]]] = field(default_factory=set, repr=False)
    moved: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @cached_property
    def recorded(self) -> frozenset[str]:
        """The metrics that have a value in any run."""
        there = self.metrics.notna().any()
        return frozenset(there.index[there].difference([*KEYS, "step"]))

    def leaving_out(self, left_out: Mapping[str, str]) -> "Runs":
        """The same with these reasons."""
        return replace(self, left_out=dict(left_out))

    def varying(self, keys: Iterable[str]) -> "Runs":
        """The same, allowed to differ in these keys."""
        return replace(self, varies=(*self.varies, *keys))

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
            self.left_out,
            self.varies,
            self.proofs,
            self.checked,
            self.agreed,
            self.moved,
        )

    def trained(self) -> "Runs":
        """The runs that were to train; the others stand for an initial model that was evaluated."""
        planned = self.runs["run"][self.runs["planned_steps"] > 0]
        return self.select(run=list(planned)) if len(planned) else self

    def sequences(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per response of all steps: ``KEYS``, then ``columns`` (all by default; ``rundir.SEQUENCE_COLUMNS``).

        Read from disk at each call and not held: take ``responses`` where there are many. Without any
        file the frame is empty. Raises ``AnalysisError`` naming a file that lacks a column.
        """
        return _stack(self.responses(columns), KEYS, columns or ())

    def responses(self, columns: Sequence[str] | None = None) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
        """The row in ``runs`` of each run that recorded responses, and ``sequences`` of it without ``KEYS``.

        One run in memory at a time. A run whose responses contradict its metrics or cannot be read is passed over
        (``rows_proof``). Raises ``AnalysisError`` as ``sequences`` does.
        """
        for row in self.runs.to_dict("records"):
            files = RunDir(Path(row["path"])).response_files()
            if files and self.rows_proof(row["run"]).state != FALSE:
                with _one_line():
                    frame = read_sequences(files, columns)
                if len(frame):
                    yield {str(key): value for key, value in row.items()}, frame

    def rows_proof(self, run: str) -> Proof:
        """Whether the run's responses agree with its metrics (``proofs.rows_proof``); read once."""
        if run not in self.checked:
            (path,) = self.runs.loc[self.runs["run"] == run, "path"]
            metrics = self.metrics[self.metrics["run"] == run].set_index("step")
            self.checked[run] = rows_proof(RunDir(Path(path)), self.manifests[run], metrics)
        return self.checked[run]

    def evals(self, benchmark: str | None = None) -> pd.DataFrame:
        """One row per question and sample of one benchmark or all: ``KEYS``, benchmark, ``rundir.EVAL_COLUMNS``.

        Without any evaluation the frame is empty. Read once and held: not to be changed. Raises ``AnalysisError``
        naming a file that cannot be read, lacks a column or has a row twice.
        """
        frame = self._evals
        return frame if benchmark is None else frame[frame["benchmark"] == benchmark].reset_index(drop=True)

    @cached_property
    def _evals(self) -> pd.DataFrame:
        found = ((row, RunDir(Path(row["path"])).evals()) for row in self.runs.to_dict("records"))
        named = (({**row, "benchmark": name}, file) for row, files in found for name, file in files.items())
        parts = ((row, read_eval(file)) for row, file in named)
        return _stack(parts, (*KEYS, "benchmark"), tuple(EVAL_COLUMNS))


def load_runs(paths: str | PathLike[str] | Iterable[str | PathLike[str]]) -> Runs:
    """Load every run directory at or below ``paths`` (one path or several).

    A run with a file that is missing, broken or of a newer schema is in ``left_out`` with the reason. A torn last line
    of a metrics file is dropped and noted in ``warnings`` of its run. Raises ``AnalysisError``: no run found, none that
    can be read, the same run in two places.
    """
    roots = [Path(p) for p in ([paths] if isinstance(paths, str | PathLike) else paths)]
    found = {rundir.path.resolve(): rundir for root in roots for rundir in find_runs(root)}
    if not found:
        looked = ", ".join(str(root) if root.exists() else f"{root} (does not exist)" for root in roots)
        raise AnalysisError(
            f"no runs found: no manifest.json at or below {looked or 'no path at all'}; train some with `make sweep`"
        )
    parts, proofs, broken = [], {}, {}
    for rundir in found.values():
        try:
            proved = _proved(rundir)
            parts.append(_load_one(rundir))
            proofs[parts[-1][0]["run"]] = proved
        except AnalysisError as error:
            broken[str(rundir.path)] = str(error).removeprefix(f"{rundir.path}: ")
    if not parts:
        path, why = next(iter(broken.items()))
        raise AnalysisError(why if why.startswith(path) else f"{path}: {why}")
    return replace(assemble(parts), left_out=broken, proofs=proofs)


def assemble(parts: Iterable[tuple[dict[str, Any], Table, dict[str, Any]]]) -> Runs:
    """``Runs`` of each run's row of ``runs`` (``run_row``), its metrics and its manifest.

    Raises ``AnalysisError`` if two have the same name.
    """
    rows: dict[str, dict[str, Any]] = {}
    tables, manifests = [], {}
    for row, table, manifest in parts:
        run = row["run"]
        if run in rows:  # a copy would be averaged as if it were another seed
            raise AnalysisError(f"run {run} is there twice: {rows[run]['path']} and {row['path']}; give one of them")
        rows[run] = row
        tables.append(table)
        manifests[run] = manifest
    runs = pd.DataFrame.from_records(list(rows.values()))
    whole = stacked(tables, STANDARD_METRICS)
    keys = runs[list(KEYS)].take(np.repeat(np.arange(len(runs)), [len(table.steps) for table in tables]))
    keys = keys.reset_index(drop=True).assign(step=whole.steps)
    metrics = pd.concat([keys, pd.DataFrame(whole.values, columns=whole.names)], axis=1)
    return Runs(runs, metrics, manifests)


def run_row(
    manifest: Mapping[str, Any],
    *,
    state: str,
    last_step: int,
    path: str,
    warnings: Iterable[str],
    minutes: float = math.nan,
    error: str = "",
    cause: str = "",
) -> dict[str, Any]:
    """A row of ``Runs.runs``. Raises KeyError for what the manifest lacks."""
    experiment, arm, algo, seed = (manifest[key] for key in ("experiment", "arm", "algo", "seed"))
    return {
        "run": f"{experiment}/{arm}/seed={int(seed)}",
        "experiment": experiment,
        "arm": arm,
        "algo": algo,
        "seed": int(seed),
        "clip": manifest.get("clip", ""),
        "fingerprint": manifest["fingerprint"],
        "state": state,
        "last_step": last_step,
        "planned_steps": int(manifest["planned_steps"]),
        "minutes": minutes,
        "path": path,
        "error": error,
        "cause": cause,
        "warnings": tuple(warnings),
    }


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


def _proved(rundir: RunDir) -> tuple[Proof, ...]:
    """``settings_proofs``; raises ``AnalysisError`` with all that is false."""
    try:
        proofs = settings_proofs(rundir)
    except (RunDirError, OSError) as error:
        raise AnalysisError(str(error)) from None
    if false := [proof.detail for proof in proofs if proof.state == FALSE]:
        raise AnalysisError(f"{rundir.path}: {'; '.join(false)}")
    return tuple(proofs)


def _load_one(rundir: RunDir) -> tuple[dict[str, Any], Table, dict[str, Any]]:
    """One run's row of ``runs``, its metrics and its manifest."""
    try:
        manifest = rundir.manifest()
        # A run killed between its two files is one of the incomplete runs, which stay in the count.
        there = (rundir.path / "status.json").exists()
        status = rundir.status() if there else {"state": "incomplete", "error": "status.json is missing"}
        metrics, notes = read_metrics(rundir.metrics_files(), str(rundir.path))
    except (RunDirError, OSError) as error:
        raise AnalysisError(str(error)) from None
    try:
        row = run_row(
            manifest,
            state=status["state"],
            path=str(rundir.path),
            minutes=float(status.get("seconds") or math.nan) / 60,
            error=" ".join(str(status.get("error") or "").split()),
            cause=str(status.get("cause") or ""),
            **notes,
        )
    except KeyError as error:
        raise AnalysisError(f"{rundir.path / 'manifest.json'}: has no {error}") from None
    return row, metrics, manifest


def _stack(
    parts: Iterable[tuple[Mapping[Any, Any], pd.DataFrame]], keys: Sequence[str], columns: Sequence[str]
) -> pd.DataFrame:
    """The frames of (row, frame) one below the other, with the row's keys in front; without any an empty frame."""
    frames = []
    with _one_line():
        for row, frame in parts:
            for at, key in enumerate(keys):
                frame.insert(at, key, row[key])
            frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*keys, *columns])


@contextmanager
def _one_line() -> Iterator[None]:
    """What is wrong with a run directory as ``AnalysisError``."""
    try:
        yield
    except RunDirError as error:
        raise AnalysisError(str(error)) from None
