"""One contrast under each basis of comparison that the runs allow: at equal steps, tokens and movement.

Descriptive: no claim is decided on it. Movement is what the axis ``kl`` of curves shows, the way that a policy has gone
step by step (``analysis.statistics.movement``). Its distance from the start is not recorded.
"""

from collections.abc import Mapping
from typing import Any

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.factorial import Effect
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
PAIRS = (("luspo", "gspo"), ("gspo", "grpo"), ("luspo", "grpo"))
OUTCOMES = {"response length": ("length", "end", "ratio"), "accuracy": ("accuracy", "run", "points")}

LEARNING_RATE = "actor_rollout_ref.actor.optim.lr"
GRID = (1 / 3, 1.0, 3.0)  # times the learning rate of the experiment


def comparisons(runs: Runs, rules: Mapping[str, Any], level: float = 0.95) -> list[dict[str, Any]]:
    """Every pair of ``PAIRS`` that has runs, by outcome and basis: basis and the columns of ``Effect.record``.

    Length is that of the window ``end``, accuracy that of the run; at equal tokens or movement the window is that of
    the run that has spent less (``quantities.at_equal``). Arms that are not matched have no estimate and the reason.
    rules: one entry of ``rules`` of claims.yaml. Raises ``AnalysisError`` as ``with_movement``.
    """
    members, there = experiment_runs(with_movement(runs), rules), set(runs.runs["arm"])
    found = []
    for pair in (pair for pair in PAIRS if there.issuperset(pair)):
        for outcome, (quantity, window, unit) in OUTCOMES.items():
            for basis, suffix in AT_EQUAL.items():
                try:
                    sample = collect(members, pair, QUANTITIES[quantity + suffix], window)
                except AnalysisError as error:
                    sample = Sample(pair, missing=str(error))
                effect = Effect(outcome, " - ".join(pair), unit, sample.interval(level), sample)
                found.append({"basis": basis, **effect.record()})
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
