"""Synthetic run directories: test material, written through the same module as real ones. No run produced them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.rundir import RunDir

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
