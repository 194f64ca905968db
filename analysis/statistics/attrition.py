"""What became of every run that was started, by arm: a difference between arms in what is lost is a result too."""

from collections.abc import Sequence
from typing import Any

from analysis.runs.load import Runs
from analysis.statistics.windows import DIVERGENCE, Run

OUTCOMES = ("finished", "failed", "diverged", "stopped by the machine", "not finished", "left out")


def outcome(run: Run) -> str:
    """One of ``OUTCOMES``, but the last."""
    if run.stopped_by_machine:
        return "finished" if run.last_step >= run.planned else "stopped by the machine"
    if run.state == "failed":
        return "failed"
    if run.state != "done":
        return "not finished"
    return "diverged" if run.diverged else "finished"


def attrition(members: Sequence[Run], runs: Runs, experiment: str) -> list[dict[str, Any]]:
    """One row an arm: started, and how many of ``OUTCOMES``; why: what became of those that did not finish.

    members: the runs of the experiment; what ``runs`` left out is counted by its name or path. no_norm: runs without a
    recorded gradient norm, of which nobody knows whether they diverged.
    """
    left_out: dict[str, list[str]] = {}
    for name, reason in runs.left_out.items():
        of, arm, seed = ([""] * 3 + name.split("/"))[-3:]
        if of == experiment and reason not in ("not asked for", "excluded"):
            left_out.setdefault(arm, []).append(f"{seed}: {reason}")
    rows = []
    for arm in sorted({run.arm for run in members} | left_out.keys()):
        of_arm = [run for run in members if run.arm == arm]
        outcomes = [outcome(run) for run in of_arm]
        lost = [
            f"seed={run.seed}: {what}" + (f" ({run.cause})" if run.cause else "")
            for run, what in zip(of_arm, outcomes, strict=True)
            if what != "finished"
        ]
        counts: dict[str, int] = {name: outcomes.count(name) for name in OUTCOMES}
        counts["left out"] = len(left_out.get(arm, []))
        rows.append(
            {
                "arm": arm,
                "started": sum(counts.values()),
                **counts,
                "no_norm": sum(bool(run.metrics[DIVERGENCE].isna().all()) for run in of_arm),
                "why": [*lost, *left_out.get(arm, [])],
            }
        )
    return rows
