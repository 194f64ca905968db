"""One pair of losses over a grid of experiments and clip ranges: the effect in each cell, and what foretold it.

What foretold it is the length pressure of the first steps (``analysis.statistics.length_pressure``): that of the first
loss minus that of the second, both evaluated on the *same* responses, those that the runs of the second recorded in
their first steps. It is a direction and a size under one natural-gradient step, in standard deviations of length; how
far an optimizer then goes it does not say, so that it may rank the cells and give the sign of their effects, no more.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.intervals import t_interval
from analysis.statistics.length_pressure import COLUMNS, loss_bias, loss_of, require_defined
from analysis.statistics.pairs import Sample, collect, experiment_runs
from analysis.statistics.quantities import QUANTITIES
from analysis.statistics.windows import USUAL

FIRST_STEPS = 5  # whose responses foretell: the window ``start`` of the rules
EFFECTS = {  # column -> (quantity, window, unit): the first is the one that figures show
    "length": ("length", "end", "ratio"),
    "length_run": ("length", "run", "ratio"),
    "accuracy": ("accuracy", "run", "points"),
}
CLIPS = ("narrow", "preset", "wide")  # in which they are shown, before all others


@dataclass(frozen=True)
class Cell:
    """One cell: an experiment at a clip range, and the arms that are compared there, the first against the second."""

    experiment: str
    clip: str
    arms: tuple[str, str]


def cells(runs: Runs, pair: tuple[str, str]) -> list[Cell]:
    """The cells in which both losses of ``pair`` have runs, by how much being long pays, then by clip range.

    An arm may have further settings, such as a learning rate: each combination of them would be a grid of its own, so
    an experiment with two arms of a loss at one range raises ``AnalysisError``, as does a grid without any cell.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for (experiment, clip, algo), rows in runs.runs.groupby(["experiment", "clip", "algo"], sort=False):
        arms = sorted(set(rows["arm"]))
        if algo in pair and len(arms) > 1:
            raise AnalysisError(
                f"{experiment}: several arms of {algo} at clip={clip}, {' and '.join(arms)}; leave one out: --exclude"
            )
        if algo in pair:
            found.setdefault((str(experiment), str(clip)), {})[str(algo)] = arms[0]
    pays = pays_to_be_long(runs)
    there = [Cell(*key, (of[pair[0]], of[pair[1]])) for key, of in found.items() if set(of) == set(pair)]
    if not there:
        raise AnalysisError(f"no experiment has runs of both {pair[0]} and {pair[1]} at one clip range")
    return sorted(there, key=lambda cell: (-pays.get(cell.experiment, -np.inf), cell.experiment, _place(cell.clip)))


def _place(clip: str) -> tuple[int, str]:
    return (CLIPS.index(clip) if clip in CLIPS else len(CLIPS), clip)


def pays_to_be_long(runs: Runs) -> dict[str, float]:
    """Experiment -> correlation of length and being right in step 1, which every loss begins with.

    Both are centred within prompts. Of each seed one run counts, as equal seeds have equal first responses. An
    experiment without recorded responses is not there.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    seen: set[tuple[str, int]] = set()
    for run, rows in runs.responses(("step", "prompt_id", "tokens", "accuracy")):
        key = (run["experiment"], run["seed"])
        first = rows[rows["step"] == 1]
        if key not in seen and len(first):
            seen.add(key)
            groups = first.groupby("prompt_id")[["tokens", "accuracy"]]
            parts.setdefault(run["experiment"], []).append(first[["tokens", "accuracy"]] - groups.transform("mean"))
    return {name: float(pd.concat(found).corr().to_numpy()[0, 1]) for name, found in parts.items()}


def grid(runs: Runs, pair: tuple[str, str], rules: Mapping[str, Any] = USUAL, level: float = 0.95) -> pd.DataFrame:
    """One row for each of ``cells``: experiment, clip, then of each of ``EFFECTS`` its estimate, low, high and n, and
    foretold, foretold_low, foretold_high, pays, clipped, reason.

    Ratios as factors, accuracies in percentage points, Student's t intervals over pairs of runs with one seed; NaN
    where there is none. foretold: standard deviations of length. pays: ``pays_to_be_long``. clipped: share of tokens
    that the second loss clipped over its runs. rules: for the windows. Raises ``AnalysisError`` for arms that are not
    matched, and as ``cells``.
    """
    pays = pays_to_be_long(runs)
    records = []
    for cell in cells(runs, pair):
        part = runs.select(experiment=cell.experiment, arm=cell.arms)
        members = experiment_runs(part, rules)
        record: dict[str, Any] = {"experiment": cell.experiment, "clip": cell.clip}
        reasons: list[str] = []
        for name, (quantity, window, unit) in EFFECTS.items():
            sample = collect(members, cell.arms, QUANTITIES[quantity], window)
            reasons += _reasons(sample)
            found, back = sample.interval(level), np.exp if unit == "ratio" else float
            record |= {name: float(back(found.estimate)), f"{name}_low": float(back(found.low)),
                       f"{name}_high": float(back(found.high)), f"{name}_n": found.n}  # fmt: skip
        foretold = t_interval(list(_foretold(part.select(arm=cell.arms[1]), pair)), level)
        clipped = part.select(arm=cell.arms[1]).metrics["clip_frac_token"].mean()
        records.append({**record, "foretold": foretold.estimate, "foretold_low": foretold.low,
                        "foretold_high": foretold.high, "pays": pays.get(cell.experiment, np.nan),
                        "clipped": float(clipped), "reason": "; ".join(dict.fromkeys(reasons))})  # fmt: skip
    return pd.DataFrame(records)


def _reasons(sample: Sample) -> list[str]:
    return [one for one in (sample.missing, *sample.failed.values(), *sample.lost.values(), *sample.left_out.values())
            if one]  # fmt: skip


def _foretold(runs: Runs, pair: Sequence[str]) -> Iterator[float]:
    """Of each run: length pressure of the first loss minus that of the second on its first steps, in sd of length.

    The reward's own pressure is in both and cancels. Nothing of a run of a loss that says nothing of the other.
    """
    for run, rows in runs.responses(COLUMNS):
        own = loss_of(runs.manifests[run["run"]])
        try:
            for loss in pair:
                require_defined(loss, own, None, run["run"])
        except AnalysisError:
            return
        first = rows[rows["step"] <= FIRST_STEPS]
        yield loss_bias(first, pair[0]) - loss_bias(first, pair[1])


def agreement(table: pd.DataFrame) -> float:
    """Spearman's correlation over cells of what was foretold and what came, as ln ratio; NaN for fewer than 3 cells."""
    both = table[["foretold", "length"]].dropna()
    return float(both.corr("spearman").to_numpy()[0, 1]) if len(both) >= 3 else float("nan")
