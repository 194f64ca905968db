"""The fork test: how the length on probe prompts changed by one update of each loss, from one checkpoint and batch."""

from collections.abc import Sequence

import pandas as pd

from analysis.runs.load import KEYS, AnalysisError, Runs
from analysis.statistics.intervals import t_interval

COLUMNS = ("step", "before", "after", "change")


def is_fork(runs: Runs) -> bool:
    """Whether every run trained exactly one step and validated before and after it."""
    trained = runs.metrics[runs.metrics["response_length"].notna()].groupby("run").size()
    probed = runs.metrics[runs.metrics["val_response_length"].notna()].groupby("run").size()
    return set(trained) == {1} and set(probed) == {2} and set(trained.index) == set(probed.index)


def fork_frame(runs: Runs) -> pd.DataFrame:
    """One row per finished fork: ``KEYS``, step (of the update), mean response length on the probes in tokens before
    and after, change. Raises ``AnalysisError`` for a run that is no fork (``is_fork``)."""
    rows = []
    for run, metrics in runs.select(state="done").metrics.groupby("run"):
        if not is_fork(runs.select(run=run)):
            raise AnalysisError(f"{run} is no fork: it has other than one trained step between two validations")
        probes = metrics.dropna(subset="val_response_length").sort_values("step")
        before, after = probes["val_response_length"]
        keys = {key: probes[key].iloc[0] for key in KEYS}
        rows.append(
            {**keys, "step": probes["step"].iloc[-1], "before": before, "after": after, "change": after - before}
        )
    return pd.DataFrame(rows, columns=[*KEYS, *COLUMNS])


def fork_effects(frame: pd.DataFrame, pairs: Sequence[tuple[str, str]] = (), level: float = 0.95) -> pd.DataFrame:
    """Mean change per arm in tokens with its t interval over parents: experiment, arm, estimate, low, high, n, p.

    Below the arms the differences of ``pairs`` of them, paired by parent: what all losses share of one batch is gone.
    """
    rows = []
    for experiment, group in frame.groupby("experiment"):
        changes = group.pivot(index="seed", columns="arm", values="change")
        columns = {str(arm): changes[arm] for arm in changes}
        columns |= {f"{a} - {b}": changes[a] - changes[b] for a, b in pairs if {a, b} <= set(changes)}
        for name, values in columns.items():
            found = t_interval(values.dropna().to_numpy(), level)
            effect = {key: getattr(found, key) for key in ("estimate", "low", "high", "n", "p")}
            rows.append({"experiment": experiment, "arm": name, **effect})
    return pd.DataFrame(rows, columns=["experiment", "arm", "estimate", "low", "high", "n", "p"])
