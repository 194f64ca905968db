"""Any two arms, compared on each basis that the runs allow: at equal steps, tokens and movement.

No claim is decided on it. Each comparison has a verdict of its own, by the margins of ``MARGINS``.
Movement is what the axis ``kl`` of curves shows, the way that a policy has gone step by step
(``analysis.statistics.movement``). Its distance from the start is not recorded.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.arms import MIN_T_RUNS, rank
from analysis.statistics.effects import Effect
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
Pair = tuple[str, str]
AT_EQUAL = {"config-matched": "", "token-matched": "_at_equal_tokens", "movement-matched": "_at_equal_movement"}
MARGINS = {"ratio": 1.10, "points": 1.0}  # a smaller effect is none
MORE, LESS, SAME, OPEN, UNTESTED = "more", "less", "no difference", "undecided", "not tested"
OUTCOMES = {"response length": ("length", "end", "ratio"), "accuracy": ("accuracy", "run", "points")}

LEARNING_RATE = "actor_rollout_ref.actor.optim.lr"
GRID = (1 / 3, 1.0, 3.0)  # times the learning rate of the experiment


def chosen_pairs(
    arms: Collection[str],
    asked: Sequence[str] = (),
    pairs: Sequence[Pair] = (),
    baselines: Sequence[str] = (),
) -> list[Pair]:
    """Which arms are compared: those of ``asked``, such as mine:gspo, else those of ``pairs`` that have runs, and every
    arm that is in none of them with the baseline.

    That is the first of ``baselines`` with runs, else the first arm in the order in which arms are shown. Raises
    ``AnalysisError`` for a pair that is none or of arms that have no runs.
    """
    if asked:
        return [_pair(text, arms) for text in asked]
    chosen = [pair for pair in pairs if set(pair) <= set(arms)]
    others = sorted(set(arms).difference(*chosen))
    baseline = next((arm for arm in baselines if arm in arms), "") or min(others, key=_place, default="")
    return [*chosen, *((arm, baseline) for arm in others if arm != baseline)]


def require_baseline(arm: str, arms: Collection[str]) -> None:
    """Raise ``AnalysisError`` for a baseline that has no runs."""
    if arm not in arms:
        raise AnalysisError(f"baseline {arm}: no run of such an arm; there are {', '.join(sorted(arms))}")


def _place(arm: str) -> tuple[int, str]:
    return rank(arm.partition(",")[0]), arm


def _pair(text: str, arms: Collection[str]) -> Pair:
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
    pairs: Sequence[Pair],
    level: float = 0.95,
    interval: Callable[[Sample], Interval] | None = None,
) -> list[dict[str, Any]]:
    """Each of ``pairs`` (``chosen_pairs``) by outcome and basis: basis, arms, verdict and columns of ``Effect.record``.

    Length is that of the window ``end``, accuracy that of the run; at equal tokens or movement the window is that of
    the run that has spent less (``quantities.at_equal``). Arms that are not matched have no estimate and the reason.
    rules: of the experiment (``Claims.rules_of``). interval: that of a sample, where ``Sample.interval`` at ``level``
    is none (``repeated.repeated_interval``). Raises ``AnalysisError`` as ``with_movement``.
    """
    members = experiment_runs(with_movement(runs), rules)
    found = []
    for pair in pairs:
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
