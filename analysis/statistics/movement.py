"""How far a policy went in a step, from its recorded responses: a better estimate than the metric ``ppo_kl``."""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.runs.load import Runs

MOVEMENT = "movement"  # the column of ``Runs.metrics`` that ``with_movement`` adds
COLUMNS = ("step", "tokens", "log_ratio")
LARGEST = 20.0  # log-ratios are cut here, as in verl's losses


def with_movement(runs: Runs) -> Runs:
    """The same with a metric ``movement``: KL of the policy that sampled to the one that is updated, nats per token.

    Estimated for each step as the sum over responses of r - 1 - ln r over the sum of their tokens, r the ratio of the
    whole response: without bias and never negative (k3 of Schulman 2020, http://joschu.net/blog/kl-approx.html).
    ``ppo_kl`` is the mean of -ln r over tokens, of the same expectation, but of either sign: on small steps mostly
    noise, which a sum of absolute values counts as movement. Unchanged where a trained step of any run has no recorded
    responses, so that all runs are measured alike. Raises ``AnalysisError`` as ``Runs.responses``.
    """
    if unasked := [run for run in runs.runs["run"] if run not in runs.moved]:
        for run, rows in runs.select(run=unasked).responses(COLUMNS):
            runs.moved[run["run"]] = _by_step(rows).assign(run=run["run"])
    parts = [runs.moved[run] for run in runs.runs["run"] if run in runs.moved]
    if not parts:
        return runs
    keys = runs.metrics[["run", "step"]]
    found = keys.merge(pd.concat(parts), on=["run", "step"], how="left")[MOVEMENT].to_numpy()
    if np.isnan(found[runs.metrics["response_length"].notna()]).any():
        return runs
    return replace(runs, metrics=runs.metrics.assign(**{MOVEMENT: found}))


def _by_step(rows: pd.DataFrame) -> pd.DataFrame:
    """step, movement; rows: ``COLUMNS`` of one run."""
    tokens = rows["tokens"].to_numpy(float)
    log_ratio = np.minimum(tokens * rows["log_ratio"].to_numpy(float), LARGEST)
    sums = pd.DataFrame({"step": rows["step"], "tokens": tokens, MOVEMENT: np.expm1(log_ratio) - log_ratio})
    sums = sums.groupby("step", as_index=False).sum()
    return sums.assign(**{MOVEMENT: sums[MOVEMENT] / sums.pop("tokens")})
