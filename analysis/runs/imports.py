"""Runs that left no run directory here: verl's JSONL from elsewhere, and this harness's own runs on W&B.

They are ``Runs`` like any other, without sequences. What nobody recorded stays missing: an imported run has no
fingerprint unless its source tells one, and ``require_matched`` says so.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.frames import Table, metrics_table, parse_line
from analysis.runs.load import KEYS, AnalysisError, Runs, assemble, run_row
from harness.rundir import RunDirError, is_trained, merge_attempts, read_metrics

# Ours -> verl's, where both mean the same.
SAME = {
    "response_length": "response_length/mean",
    "reward": "critic/score/mean",
    "grad_norm": "actor/grad_norm",
    "ppo_kl": "actor/ppo_kl",
    "step_seconds": "timing_s/step",
}
VALIDATION = {
    "val_accuracy": r"val-core/.+/acc/mean@\d+",
    "val_response_length": r"val-\w+/.+/response_length/mean@\d+",
}
NOTES = {  # verl's name -> what a reader has to know of it
    "actor/ppo_kl": "ppo_kl is verl's, a mean over micro-batches of their means: approximate",
    "actor/entropy": "actor/entropy is weighted as the loss is (loss_agg_mode), not by token: not taken for entropy",
    "actor/pg_clipfrac": "actor/pg_clipfrac is a mean over all micro-batches of their means: not taken for "
    "clip_frac_token",
}
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
STATES = {"finished": "done", "failed": "failed", "running": "running", "pending": "planned"}  # others: incomplete
Rows = list[tuple[int, dict[str, Any]]]  # steps and their metrics, as a file has them
NOT_FINITE = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}  # as W&B spells them


def import_verl(
    path: str | PathLike[str] | Iterable[str | PathLike[str]],
    algo: str,
    seed: int,
    experiment: str = "imported",
    arm: str | None = None,
    planned_steps: int | None = None,
) -> Runs:
    """One run from the JSONL of verl's ``file`` logger; several files are its attempts, oldest first.

    So are the parts of a file whose steps go back, as where the file of a resumed run was appended to it: the later one
    wins, what the earlier one trained after the step from which it continued is dropped; a warning names the steps.

    Standard columns are made from verl's where they mean the same: lengths, reward, gradient norm, ``ppo_kl``, seconds,
    validation (mean over data sources) and tokens; verl's own stay beside them. Its entropy and clip fraction mean
    something else and are not taken for ours; ``warnings`` say what is approximate or missing. ``arm``: by default the
    algorithm. ``planned_steps``: with fewer the run is incomplete; by default it is taken to have ended where the file
    does. Raises ``AnalysisError``: a file that is missing or broken, or that has no training step.
    """
    files = [Path(p) for p in ([path] if isinstance(path, str | PathLike) else path)]
    where = ", ".join(map(str, files))
    for file in files:
        if not file.is_file():
            raise AnalysisError(f"{file}: no such file; give verl's metrics, one JSON object a line")
    attempts: list[Rows] = []
    noticed: list[str] = []
    try:
        for file in files:
            attempts += _attempts(list(read_metrics(file, noticed, parse_line)), file, noticed)
    except (RunDirError, OSError) as error:
        raise AnalysisError(str(error)) from None
    steps = merge_attempts(attempts)
    last = max((step for step, data in steps.items() if is_trained(data)), default=0)
    if not last:
        raise AnalysisError(f"{where or 'no file'}: no training step in it (no response_length/mean)")
    table, dropped = metrics_table(steps)
    metrics, warnings = with_standard_metrics(table)
    if dropped:
        warnings.append(f"metrics that are no numbers, dropped: {', '.join(dropped)}")
    if planned_steps is None:
        warnings.append(f"planned steps are unknown, taken as the last one recorded, {last}")
    keys = {"experiment": experiment, "arm": arm or algo, "algo": algo, "seed": seed}
    manifest = {**keys, "fingerprint": "", "planned_steps": planned_steps or last, "imported": [str(f) for f in files]}
    state = "done" if last >= manifest["planned_steps"] else "incomplete"
    said = [*noticed, *(f"{where}: {warning}" for warning in warnings)]
    return assemble([(run_row(manifest, state=state, last_step=last, path=where, warnings=said), metrics, manifest)])


def load_wandb(entity: str, project: str, filters: Mapping[str, Any] | None = None, api: Any = None) -> Runs:
    """Runs of this harness on W&B, with all metrics that they logged; ``filters`` as of ``wandb.Api.runs``.

    ``api``: a ``wandb.Api``, by default a new one (with the login of ``wandb login`` or WANDB_API_KEY). Their
    fingerprints are known and what is behind them is not: equal ones are matched, others are not comparable. The run
    directory is the record: after a resume W&B keeps the first attempt's values. Raises ``AnalysisError``: no login, no
    network, no run found, a run of something else, the same run twice.
    """
    where = f"W&B {entity}/{project}"
    found = _fetch(f"{entity}/{project}", dict(filters or {}), api, where)
    if not found:
        raise AnalysisError(f"{where}: no run found" + (f" with {dict(filters)}" if filters else ""))
    return assemble(_wandb_run(**run) for run in found)


def join(parts: Iterable[Runs]) -> Runs:
    """Runs from several sources as one; raises ``AnalysisError`` if a run is in two of them."""
    singles = []
    parts = list(parts)
    for part in parts:
        by_run = dict(list(part.metrics.groupby("run")))
        for row in part.runs.to_dict("records"):
            metrics = by_run.get(row["run"], part.metrics.iloc[:0]).drop(columns=list(KEYS)).set_index("step")
            table = Table(metrics.index.to_numpy(np.int64), metrics.columns.to_list(), metrics.to_numpy(float))
            singles.append((row, table, part.manifests[row["run"]]))
    if not singles:
        raise AnalysisError("no runs to join")
    return assemble(singles)


def with_standard_metrics(table: Table) -> tuple[Table, list[str]]:
    """verl's metrics with ours added where they are missing; and warnings.

    tokens = total x response / (prompt + response), the lengths being means: verl counts prompts in its total.
    cumulative_tokens only where every step from 1 is there.
    """
    metrics = pd.DataFrame(table.values, index=table.steps, columns=table.names)
    ours: dict[str, pd.Series] = {name: metrics[theirs] for name, theirs in SAME.items() if theirs in metrics}
    for name, pattern in VALIDATION.items():
        if sources := [column for column in metrics if re.fullmatch(pattern, str(column))]:
            ours[name] = metrics[sources].mean(axis=1)
    warnings = []
    if {"perf/total_num_tokens", "response_length/mean", "prompt_length/mean"} <= set(metrics):
        response = metrics["response_length/mean"]
        ours["tokens"] = metrics["perf/total_num_tokens"] * response / (response + metrics["prompt_length/mean"])
        spent = ours["tokens"][response.notna()]
        if spent.notna().all() and spent.index.to_list() == list(range(1, len(spent) + 1)):
            ours["cumulative_tokens"] = spent.cumsum()  # other rows, of validation, get NaN
        else:
            warnings.append("not every step from 1 is there: no cumulative_tokens")
    ours = {name: values for name, values in ours.items() if name not in metrics}
    for theirs, note in NOTES.items():
        if theirs in metrics and (theirs not in SAME.values() or "ppo_kl" in ours):
            warnings.append(note)
    added = pd.DataFrame(ours, index=metrics.index)
    return Table(table.steps, [*table.names, *ours], np.column_stack([table.values, added.to_numpy(float)])), warnings


def _attempts(rows: Rows, file: Path, warnings: list[str]) -> list[Rows]:
    """A file's rows, cut where their steps go back or a trained step comes again; each cut is a warning.

    A validation of the step before, which a resumed run may begin with, is no cut.
    """
    cuts = [0]
    trained: set[int] = set()
    for at, (step, data) in enumerate(rows):
        if at and (step < rows[at - 1][0] or (is_trained(data) and step in trained)):
            cuts.append(at)
            trained = set()
        if is_trained(data):
            trained.add(step)
    parts = [rows[start:end] for start, end in zip(cuts, [*cuts[1:], len(rows)], strict=True)]
    for number, later in enumerate(parts[1:], 1):
        first = min((step for step, data in later if is_trained(data)), default=math.inf)
        before = merge_attempts(parts[:number])
        lost = [step for step, data in before.items() if is_trained(data) and step >= first]
        dropped = f"{lost[0]} to {lost[-1]} of before are dropped" if lost else "none of before is dropped"
        warnings.append(
            f"{file}: steps go back from {parts[number - 1][-1][0]} to {later[0][0]}, taken as a resumed run: {dropped}"
        )
    return parts


def _fetch(path: str, filters: dict[str, Any], api: Any, where: str) -> list[dict[str, Any]]:
    """Everything that is asked of W&B, as plain values."""
    try:
        if api is None:
            import wandb

            api = wandb.Api()
        return [
            {
                "name": run.name,
                "url": run.url,
                "state": run.state,
                "experiment": run.group,
                "algo": run.job_type,
                "tags": list(run.tags),
                "config": run.config,
                "history": list(run.scan_history()),
            }
            for run in api.runs(path, filters=filters)
        ]
    except Exception as error:  # noqa: BLE001  (W&B raises its own, ValueError, requests' and bare ones)
        said = " ".join(str(error).split()) or type(error).__name__
        raise AnalysisError(f"{where}: cannot be read ({said})") from None


def _wandb_run(
    name: str,
    url: str,
    state: str,
    experiment: str | None,
    algo: str | None,
    tags: Sequence[str],
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], Table, dict[str, Any]]:
    """One W&B run (``harness.plugin.job.wandb_environment`` says what is where) as ``assemble`` takes it."""
    try:
        keys = {
            "experiment": experiment or config["harness"]["experiment"],
            "arm": config["harness"]["arm"],
            "algo": algo or config["harness"]["algo"],
            "seed": int(config["seed"]),
        }
        clip, planned = config["harness"]["clip"], int(config["trainer"]["total_training_steps"])
    except (KeyError, TypeError) as error:
        raise AnalysisError(
            f"{url}: {name} is no run of this harness (its config has no {error}); leave it out by filters, "
            "or read its metrics file with import_verl"
        ) from None
    steps: dict[int, dict[str, Any]] = {}
    for row in history:
        values = {key: _number(value) for key, value in row.items() if not key.startswith("_")}
        steps.setdefault(int(row["_step"]), {}).update(values)
    metrics, dropped = metrics_table(dict(sorted(steps.items())))
    last = max((step for step, data in steps.items() if is_trained(data)), default=0)
    fingerprint = next((tag for tag in tags if FINGERPRINT.fullmatch(tag)), "")
    warnings = [f"{url}: no fingerprint among its tags"] * (not fingerprint)
    if dropped:
        warnings.append(f"{url}: metrics that are no numbers, dropped: {', '.join(dropped)}")
    ended = "incomplete" if state == "finished" and last < planned else STATES.get(state, "incomplete")
    minutes = max((row["_runtime"] for row in history if row.get("_runtime")), default=np.nan) / 60
    manifest = {**keys, "clip": clip, "fingerprint": fingerprint, "planned_steps": planned, "wandb": url}
    row = run_row(manifest, state=ended, last_step=last, path=url, minutes=minutes, warnings=warnings)
    return row, metrics, manifest


def _number(value: Any) -> Any:
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value
