"""The 2 x 2 of losses: (ratio and clip by token or by sequence) x (mean or sum over a response's tokens).

============  ==========  ========
..            mean        sum
============  ==========  ========
by token      grpo        grpo_sum
by sequence   gspo        luspo
============  ==========  ========

Effects are contrasts of the four arms within a seed, so intervals are over runs paired by seed. On-policy, with one
update a rollout, the ratio is 1 and both levels of the first factor are one and the same loss: its effect must vanish.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import Runs
from analysis.statistics.effects import Effect
from analysis.statistics.intervals import t_interval
from analysis.statistics.pairs import collect, experiment_runs
from analysis.statistics.quantities import QUANTITIES
from analysis.tables.effects import effect_entry, effect_text
from analysis.tables.table import Table

INTERACTION = "beyond that where ratio and clip are of sequences (interaction)"

CORNERS = ("grpo", "grpo_sum", "gspo", "luspo")

# Weights of the corners. An effect of a factor is the mean over the other's levels; the two add up to luspo - grpo.
CONTRASTS: dict[str, tuple[float, ...]] = {
    "ratio by sequence": (-0.5, -0.5, 0.5, 0.5),
    "sum over tokens": (-0.5, 0.5, -0.5, 0.5),
    "interaction": (1, -1, -1, 1),
    "sum, ratio by token": (-1, 1, 0, 0),
    "sum, ratio by sequence": (0, 0, -1, 1),
}

# What is compared: the quantity and window of ``quantities``, and its unit once it is back from logarithms.
RESPONSES = {
    "response length": ("length", "end", "ratio"),
    "accuracy": ("accuracy", "run", "points"),
    "clipped tokens": ("clipped_tokens", "run", "ratio"),
}


def factorial(runs: Runs, rules: Mapping[str, Any], level: float = 0.95) -> list[Effect]:
    """Every contrast of every quantity over the seeds that all four corners have; empty unless all four have runs.

    rules: of the experiment (``Claims.rules_of``), for its windows. Raises ``AnalysisError`` if the arms are not
    matched.
    """
    if not set(CORNERS) <= set(runs.runs["arm"]):
        return []
    members = experiment_runs(runs.select(arm=CORNERS), rules)
    effects = []
    for name, (quantity, window, unit) in RESPONSES.items():
        sample = collect(members, CORNERS, QUANTITIES[quantity], window)
        table = np.array(list(sample.values.values())).reshape(-1, len(CORNERS))
        for contrast, weights in CONTRASTS.items():
            effects.append(Effect(name, contrast, unit, t_interval(table @ np.array(weights), level), sample))
    return effects


def attribution(effects: list[Effect]) -> pd.DataFrame:
    """What LUSPO's length over GSPO's is made of, as factors that multiply to it: part, estimate, low, high, n.

    GSPO and LUSPO differ in 1/|y| alone. The first part is what taking it away does where ratio and clip are of tokens
    (grpo_sum over grpo), the second what it does beyond that where they are of sequences: an interaction, no effect of
    the clip by itself. Read them together with their intervals, and with the on-policy sweep, where the second is 1.
    """
    of = {effect.contrast: effect for effect in effects if effect.quantity == "response length"}
    rows = []
    for part, contrast in (
        ("LUSPO over GSPO", "sum, ratio by sequence"),
        ("of it 1/|y|", "sum, ratio by token"),
        (INTERACTION, "interaction"),
    ):
        if contrast in of:
            record = of[contrast].record()
            rows.append({"part": part, **{key: record[key] for key in ("estimate", "low", "high", "n")}})
    return pd.DataFrame(rows, columns=["part", "estimate", "low", "high", "n"])


def effects_frame(effects: list[Effect]) -> pd.DataFrame:
    """One row per effect, columns as in ``Effect.record``."""
    return pd.DataFrame([effect.record() for effect in effects])


def factorial_tables(content: Mapping[str, Any], experiment: str) -> list[Table]:
    """The 2 x 2 and the attribution, where the numbers of a report's experiment have them."""
    tables = []
    if "factorial" in content:
        rows = [
            (r["quantity"], r["contrast"], effect_entry(r, effect_text(r)), str(r["n"]), r["reason"])
            for r in content["factorial"]
        ]
        notes = (
            "ratio by sequence: gspo and luspo against grpo and grpo_sum; sum over tokens: grpo_sum and luspo against "
            "grpo and gspo; interaction: what the sum does by sequence beyond what it does by token.",
        )
        columns = ("quantity", "effect", "estimate", "seeds", "reason")
        tables.append(
            Table(f"factorial_{experiment}", f"The 2 x 2 on {experiment}", columns, tuple(rows), notes, labels=2)
        )
    if "attribution" in content:
        rows = [
            (r["part"], effect_entry(r, effect_text({**r, "unit": "ratio"})), str(r["n"]))
            for r in content["attribution"]
        ]
        notes = (
            "The parts multiply to the whole, seed by seed. The losses compared differ in 1/|y| alone: the last part "
            "is no effect of ratio and clip by themselves, but what 1/|y| does more where they are of sequences.",
        )
        title = f"What LUSPO's length over GSPO's is made of on {experiment}"
        tables.append(Table(f"attribution_{experiment}", title, ("part", "estimate", "seeds"), tuple(rows), notes))
    return tables
