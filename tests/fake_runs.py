"""Synthetic run directories: test material, written through the same module as real ones. No run produced them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.runs.proofs import first_responses
from harness.rundir import RunDir, seal

NARROW = {  # as ``manifest``: a sequence-level range
    "treatment": {f"actor_rollout_ref.actor.clip_ratio_{side}": at for side, at in (("low", 3e-3), ("high", 4e-3))}
}


def write_run(
    root: Path,
    metrics: Mapping[str, Sequence[float | None] | np.ndarray] | None = None,
    *,
    experiment: str = "fake",
    arm: str = "gspo",
    algo: str | None = None,
    seed: int = 0,
    state: str = "done",
    planned: int | None = None,
    controlled: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    **status: Any,
) -> RunDir:
    """Write one run of one attempt; ``metrics`` has one array per metric, its first value is step 1's.

    ``planned`` is the arrays' length by default. Values are written as they are: None and NaN stay. ``manifest`` and
    ``status`` override fields of the two files.
    """
    run = RunDir(root / experiment / arm / f"seed={seed}")
    steps = max((len(values) for values in (metrics or {}).values()), default=0)
    controlled = dict((manifest or {}).get("controlled") or controlled or {"data.train_batch_size": 16})
    run.write_manifest(
        {
            "experiment": experiment,
            "arm": arm,
            "algo": algo or arm.split(",")[0],
            "clip": "own",
            "seed": seed,
            "fingerprint": hashlib.sha256(json.dumps(controlled, sort_keys=True).encode()).hexdigest()[:16],
            "controlled": controlled,
            "planned_steps": steps if planned is None else planned,
            **(manifest or {}),
        }
    )
    run.write_status(state, **{"attempt": 1, "last_step": steps, "seconds": 60.0, **status})
    if metrics:
        write_attempt(run, {i + 1: {key: values[i] for key, values in metrics.items()} for i in range(steps)})
    return run


def write_attempt(run: RunDir, rows: Mapping[int, Mapping[str, Any]], tail: str = "") -> Path:
    """Write a further attempt from ``{step: {metric: value}}``; ``tail`` is appended as it is. Returns its folder."""
    folder = run.new_attempt()
    lines = [json.dumps({"step": step, "data": dict(data)}) + "\n" for step, data in rows.items()]
    (folder / "metrics.jsonl").write_text("".join(lines) + tail)
    return folder


def write_sequences(attempt: Path, step: int, **columns: Sequence[Any] | np.ndarray) -> Path:
    """Write one step's sequences file of an attempt, with the given columns and ``step``."""
    file = attempt / "sequences" / f"{step}.parquet"
    pd.DataFrame({"step": step, **columns}).to_parquet(file)
    return file


def training_like(steps: int, seed: int, growth: float = 0.0, clip: float = 0.01) -> dict[str, np.ndarray]:
    """Made-up arrays that look like training: length, clip fractions, reward, accuracy. For looking at figures."""
    rng = np.random.default_rng(seed)
    progress = np.arange(steps) / max(1, steps - 1)
    walk = np.cumsum(rng.normal(0, 0.5, steps))
    accuracy = np.clip(0.2 + 0.5 * progress**0.5 + 0.02 * walk / 3 + rng.normal(0, 0.03, steps), 0, 1)
    clip_frac = clip * np.exp(rng.normal(0, 0.35, steps))
    clip_frac[0] = 0.0  # the first step of a warm-up moves nothing
    return {
        "response_length": 40 * np.exp(growth * progress) + walk + rng.normal(0, 1.0, steps),
        "clip_frac_token": clip_frac,
        "clip_frac_seq": clip_frac * 1.2,
        "reward": accuracy - 0.05,
        "accuracy": accuracy,
    }


BATCH, GROUP = 4, 2  # prompts a step and responses to each, of ``write_whole_run``
VERSIONS = {"verl": "0.9.1", "torch": "2.13.0", "vllm": "0.24.0"}


def write_whole_run(
    root: Path,
    arm: str,
    seed: int,
    *,
    lengths: Sequence[float],
    experiment: str = "tiny",
    accuracy: float = 0.5,
    manifest: Mapping[str, Any] | None = None,
    controlled: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Sequence[float | None]] | None = None,
    **status: Any,
) -> RunDir:
    """A finished run with everything that a real one leaves: settings twice, responses that are what the metrics say,
    and the hashes of its files. lengths: mean response length in tokens of each step, two updates a step."""
    settings = {
        "actor_rollout_ref.actor.optim.lr": 1e-5,
        "actor_rollout_ref.rollout.n": GROUP,
        "actor_rollout_ref.rollout.name": "vllm",
        "data.train_batch_size": BATCH,
        **(controlled or {}),
    }
    treatment = {"actor_rollout_ref.actor.policy_loss.loss_mode": arm, **NARROW["treatment"]}
    told: dict[str, Any] = {"treatment": treatment, "versions": VERSIONS, "commit": "0123456789ab", **(manifest or {})}
    rng = np.random.default_rng(1000 * seed + len(lengths))
    steps = [_responses(rng, mean, accuracy, step == 0) for step, mean in enumerate(lengths)]
    columns = {"tokens": "response_length", "reward": "reward", "accuracy": "accuracy"}
    means = {metric: [float(rows[column].mean()) for rows in steps] for column, metric in columns.items()}
    recorded = {**means, "grad_norm": [0.1] * len(steps), "tokens": [float(rows["tokens"].sum()) for rows in steps]}
    told.setdefault("step1_responses", first_responses(steps[0].assign(step=1)))
    run = write_run(
        root,
        {**recorded, **(metrics or {})},
        experiment=experiment,
        arm=arm,
        seed=seed,
        controlled=settings,
        manifest=told,
        **status,
    )
    (attempt,) = run.attempts()
    for step, rows in enumerate(steps, 1):
        rows.assign(step=step).to_parquet(attempt / "sequences" / f"{step}.parquet")
    flat = {**settings, **told["treatment"], "seed": seed, "trainer": {"total_training_steps": len(steps)}}
    run.config.write_text(yaml.safe_dump(flat | {"harness": {"arm": arm, "algo": arm.split(",")[0]}}))
    if run.status()["state"] == "done":
        seal(run)
    return run


def _responses(rng: np.random.Generator, mean: float, accuracy: float, first: bool) -> pd.DataFrame:
    """Rows of one step; the first step's lengths do not depend on ``mean``, as matched runs begin alike."""
    n = BATCH * GROUP
    right = (rng.permutation(n) < round(accuracy * n)).astype(float)
    return pd.DataFrame(
        {
            "prompt_id": np.repeat(np.arange(BATCH), GROUP),
            "sample": np.tile(np.arange(GROUP), BATCH),
            "update": np.repeat([1, 2], n // 2),
            "tokens": np.maximum(1, np.round((20 if first else mean) + rng.normal(0, 1, n))).astype(int),
            "truncated": False,
            "reward": right,
            "accuracy": right,
            "advantage": 2 * right - 1,
            "log_ratio": rng.normal(0, 1e-3, n),
            "clipped": 0,
            "effective_ratio": 1.0,
            "response_hash": rng.integers(0, 2**31, n),
        }
    )
