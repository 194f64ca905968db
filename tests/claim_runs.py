"""Constructed runs on which claims are decided, of the experiment ``tiny`` unless said otherwise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_runs import write_run

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.statistics.claims import Result, evaluate

CLAIMS = paper_claims()
STEPS = 20
ONES = np.ones(STEPS)
LONGER = [1.5, 1.55, 1.45, 1.6, 1.5]


def write_arm(root: Path, arm: str, seeds: Sequence[int] = range(5), experiment: str = "tiny", **metrics: Any) -> None:
    """Runs of 20 steps; a metric is a constant per seed, or a function of the seed that returns an array."""
    for at, seed in enumerate(seeds):
        arrays: dict[str, Any] = {
            k: v(seed) if callable(v) else np.full(STEPS, v[at], dtype=float) for k, v in metrics.items()
        }
        write_run(root, arrays, arm=arm, seed=seed, experiment=experiment)


def decide(root: Path, claim: str, row: str = "", experiment: str = "tiny") -> Result:
    results = evaluate(load_runs(root), CLAIMS)
    (result,) = [r for r in results if (r.claim.id, r.claim.row, r.experiment) == (claim, row, experiment)]
    return result


def write_lengths(root: Path, ratios: Sequence[float], **kwargs: Any) -> None:
    write_arm(root, "gspo", response_length=[20, 22, 24, 21, 23][: len(ratios)], seeds=range(len(ratios)), **kwargs)
    lengths = np.array([20, 22, 24, 21, 23][: len(ratios)]) * ratios
    write_arm(root, "luspo", response_length=lengths, seeds=range(len(ratios)), **kwargs)
