"""What a run recorded under its own names -> our metrics by step: chosen, derived, put together, and checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from analysis.runs.load import AnalysisError
from analysis.runs.sources.history import History
from analysis.runs.sources.names import LASTS, SHARES, SUMS, TOTAL_TOKENS, Column, validation_of

Steps = dict[int, dict[str, float]]  # step -> our metric -> value


@dataclass(frozen=True)
class Taken:
    """Our metrics by step. used: ours -> their names that they come from."""

    steps: Steps
    used: Mapping[str, tuple[str, ...]]
    notes: list[str] = field(default_factory=list)


def taken(history: History, choices: Mapping[str, tuple[Column, ...]], per_step: int = 1) -> Taken:
    """Our metrics of what was read; what was not recorded is absent, never 0.

    per_step: steps of the source that are one here. Raises ``AnalysisError`` for a share that is none.
    """
    there = {name for row in history.steps.values() for name in row}
    sources: dict[str, tuple[Column, ...]] = {}
    for ours, columns in choices.items():
        if chosen := next((column for column in columns if column.theirs in there), None):
            sources[ours] = (chosen,)
        elif parts := tuple(Column(name) for name in sorted(there) if validation_of(name) == ours):
            sources[ours] = parts
    steps: Steps = {}
    for step, row in sorted(history.steps.items()):
        values = {ours: _mean([row.get(c.theirs, math.nan) * c.scale for c in cs]) for ours, cs in sources.items()}
        steps[step] = {ours: value for ours, value in values.items() if not math.isnan(value)}
    used = {ours: tuple(column.theirs for column in columns) for ours, columns in sources.items()}
    notes: list[str] = []
    if "tokens" not in used and {"response_length", "prompt_length"} <= used.keys() and TOTAL_TOKENS in there:
        _response_tokens(history, steps)
        used["tokens"] = (TOTAL_TOKENS, *used["response_length"], *used["prompt_length"])
    _require_shares(steps, used, history.where)
    if per_step > 1:
        steps = _together(steps, per_step)
        notes.append(f"{per_step} steps of the source are one here")
    if "tokens" in used and "cumulative_tokens" not in used and _add_up(steps):
        used["cumulative_tokens"] = used["tokens"]
    return Taken({step: row for step, row in steps.items() if row}, used, [*notes, *_gaps(steps, per_step)])


def trained_steps(steps: Steps) -> list[int]:
    """The steps with any metric of training, from 1."""
    return [step for step, row in steps.items() if step > 0 and any(not name.startswith("val_") for name in row)]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _response_tokens(history: History, steps: Steps) -> None:
    """verl counts prompts in its total: a share of it, by the means, as ``imports.with_standard_metrics``."""
    for step, row in steps.items():
        total = history.steps[step].get(TOTAL_TOKENS)
        if total is not None and {"response_length", "prompt_length"} <= row.keys():
            row["tokens"] = total * row["response_length"] / (row["response_length"] + row["prompt_length"])


def _add_up(steps: Steps) -> bool:
    """Give every trained step the tokens so far, where they are known of each step from 1; returns whether they are."""
    trained = trained_steps(steps)
    if trained != list(range(1, len(trained) + 1)) or any("tokens" not in steps[step] for step in trained):
        return False
    for step, total in zip(trained, np.cumsum([steps[step]["tokens"] for step in trained]), strict=True):
        steps[step]["cumulative_tokens"] = float(total)
    return True


def _together(steps: Steps, per_step: int) -> Steps:
    """Steps 1 to n of the source as step 1, and so on: means, the last validation, sums where all parts are known.

    A validation before training stays at step 0.
    """
    groups: dict[int, list[dict[str, float]]] = {}
    for step, row in steps.items():
        groups.setdefault(math.ceil(step / per_step), []).append(row)
    found: Steps = {}
    for step, rows in groups.items():
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row[name] for row in rows if name in row] for name in names}
        found[step] = {
            name: values[-1] if name in LASTS else math.fsum(values) if name in SUMS else _mean(values)
            for name, values in columns.items()
            if name not in SUMS or len(values) == per_step
        }
    return found


def _require_shares(steps: Steps, used: Mapping[str, tuple[str, ...]], where: str) -> None:
    for step, row in steps.items():
        for name in SHARES & row.keys():
            if not -1e-9 <= row[name] <= 1 + 1e-9:
                raise AnalysisError(
                    f"{where}: {', '.join(used[name])} is {row[name]:g} at step {step}, and {name} is a share from 0 "
                    "to 1; what is in per cent is mapped with scale: 0.01"
                )


def _gaps(steps: Steps, per_step: int) -> list[str]:
    """What a reader has to know of steps that are missing, or whose lengths are."""
    trained = trained_steps(steps)
    with_length = [step for step in trained if "response_length" in steps[step]]
    if not trained:
        return []
    notes = []
    last = trained[-1]
    if missing := last - len(trained):
        there = set(trained)
        first = next(step for step in range(1, last + 1) if step not in there)
        notes.append(f"{missing} of the steps 1 to {last} are not recorded, the first is {first}")
    apart = {int(b - a) for a, b in pairwise(with_length)}
    if len(apart) == 1 and (every := apart.pop()) > 1:
        notes.append(
            f"lengths are recorded every {every} steps only, so no window of steps is complete; --per-step "
            f"{every * per_step} makes one step of them"
        )
    return notes
