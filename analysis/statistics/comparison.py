"""Any two arms, compared on each basis that the runs allow: at equal steps, tokens and movement.

No claim of the paper is decided on it. Each comparison has a verdict of its own, by the margins of ``MARGINS``.
Movement is what the axis ``kl`` of curves shows, the way that a policy has gone step by step
(``analysis.statistics.movement``). Its distance from the start is not recorded.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.factorial import Effect
from analysis.statistics.intervals import Interval
from analysis.statistics.movement import with_movement
from analysis.statistics.pairs import Sample, collect, experiment_runs
from analysis.statistics.quantities import QUANTITIES

BASES = {
    "config-matched": "equal in every setting but the treatment, compared at equal steps (as in the paper)",
    "token-matched": "compared after equal numbers of tokens spent on training",
    "movement-matched": "compared after equal movement: the KL to the policies that sampled, summed over steps (x axis "
    "kl); the KL to the start is not recorded",
    "tuned": "every arm at its best value of an equal small grid, chosen on other seeds; not run here",
}
AT_EQUAL = {"config-matched": "", "token-matched": "_at_equal_tokens", "movement-matched": "_at_equal_movement"}
PAIRS = (("luspo", "gspo"), ("gspo", "grpo"), ("luspo", "grpo"))  # those of the paper
BASELINES = ("gspo", "grpo")  # what any other arm is compared with, the first that has runs
MARGINS = {"ratio": 1.10, "points": 1.0}  # a smaller effect is none: claims.yaml's smallest ones
MORE, LESS, SAME, OPEN, UNTESTED = "more", "less", "no difference", "undecided", "not tested"
OUTCOMES = {"response length": ("length", "end", "ratio"), "accuracy": ("accuracy", "run", "points")}

LEARNING_RATE = "actor_rollout_ref.actor.optim.lr"
GRID = (1 / 3, 1.0, 3.0)  # times the learning rate of the experiment


def chosen_pairs(arms: Collection[str], asked: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Which arms are compared: those of ``asked``, such as luspo:gspo, else the paper's pairs that have runs, and every
    arm that is in none of them with the baseline, which is the first of ``BASELINES``, else the first arm by name.

    Raises ``AnalysisError`` for a pair that is none or of arms that have no runs.
    """
    if asked:
        return [_pair(text, arms) for text in asked]
    pairs = [pair for pair in PAIRS if set(pair) <= set(arms)]
    others = sorted(set(arms).difference(*pairs))
    baseline = next((arm for arm in BASELINES if arm in arms), others[0] if others else "")
    return [*pairs, *((arm, baseline) for arm in others if arm != baseline)]


def _pair(text: str, arms: Collection[str]) -> tuple[str, str]:
    first, separator, second = text.partition(":")
    there = ", ".join(sorted(arms))
    if not separator or first == second:
        raise AnalysisError(f"contrast {text}: two different arms with a colon between, such as luspo:gspo, of {there}")
    for arm in (first, second):
        if arm not in arms:
            raise AnalysisError(f"contrast {text}: no run of an arm {arm}; there are {there}")
    return first, second


def judged(effect: Effect) -> str:
    """``SAME``: the interval lies within the margin; ``MORE``, ``LESS``: beyond no effect; else ``OPEN``.

    ``UNTESTED`` without an interval. Runs that failed or are lost leave it open: they may have been lost by the loss.
    """
    found = effect.interval
    if not math.isfinite(found.low) or found.n < MIN_T_RUNS:
        return UNTESTED
    margin = math.log(MARGINS["ratio"]) if effect.unit == "ratio" else MARGINS["points"]
    if effect.sample.capped:
        return OPEN
    if -margin < found.low and found.high < margin:
        return SAME
    return MORE if found.low > 0 else LESS if found.high < 0 else OPEN


def comparisons(
    runs: Runs,
    rules: Mapping[str, Any],
    level: float = 0.95,
    asked: Sequence[str] = (),
    interval: Callable[[Sample], Interval] | None = None,
) -> list[dict[str, Any]]:
    """Every pair of ``chosen_pairs``, by outcome and basis: basis, arms, verdict and the columns of ``Effect.record``.

    Length is that of the window ``end``, accuracy that of the run; at equal tokens or movement the window is that of
    the run that has spent less (``quantities.at_equal``). Arms that are not matched have no estimate and the reason.
    rules: one entry of ``rules`` of claims.yaml. interval: that of a sample, where ``Sample.interval`` at ``level`` is
    none (``sequential.adjusted``). Raises ``AnalysisError`` as ``with_movement`` and ``chosen_pairs``.
    """
    members = experiment_runs(with_movement(runs), rules)
    found = []
    for pair in chosen_pairs(set(runs.runs["arm"]), asked):
        for outcome, (quantity, window, unit) in OUTCOMES.items():
            for basis, suffix in AT_EQUAL.items():
                try:
                    sample = collect(members, pair, QUANTITIES[quantity + suffix], window)
                except AnalysisError as error:
                    sample = Sample(pair, missing=str(error))
                of_sample = interval(sample) if interval else sample.interval(level)
                effect = Effect(outcome, " - ".join(pair), unit, of_sample, sample)
                found.append({"basis": basis, "arms": pair, "verdict": judged(effect), **effect.record()})
    return found


def tuning(runs: Runs) -> dict[str, Any]:
    """What a tuned comparison of these runs would need: arms, their grid of learning rates, the seeds to leave out.

    Empty where a learning rate is not recorded or differs between runs.
    """
    rates = {runs.manifests[run].get("controlled", {}).get(LEARNING_RATE) for run in runs.runs["run"]}
    (rate, *others) = rates or {None}
    if others or not isinstance(rate, int | float):
        return {}
    arms, seeds = (sorted(set(runs.runs[column])) for column in ("arm", "seed"))
    return {"arms": arms, "grid": [float(f"{factor * rate:.3g}") for factor in GRID], "compared_seeds": seeds}
