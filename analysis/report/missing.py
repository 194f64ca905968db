"""What is missing for a verdict, and the command that gets it: at the end of every report and of an undecided claim."""

from analysis.report.numbers import Report
from analysis.statistics.claim_file import Claims
from analysis.statistics.power import MAX_SEEDS
from analysis.statistics.windows import N_MIN


def missing_for_verdicts(report: Report, claims: Claims) -> list[str]:
    """One line for each experiment in which claims wait for more seeds of arms that are there: how many, what to type.

    The seeds to train are those of the runs and then the smallest others: a sweep passes over finished runs.
    """
    lines = []
    for experiment in report["experiments"]:
        if not claims.decides(experiment):
            continue
        needed = claims.rules_of(experiment)[N_MIN]
        waiting = [
            result
            for result in report["claims"]
            if result["experiment"] == experiment
            and result["verdict"] == "not tested"
            and len(result["n_runs"]) == 2
            and 0 < min(result["n_runs"].values()) < needed
        ]
        if not waiting:
            continue
        least = min(min(result["n_runs"].values()) for result in waiting)
        members = {name for result in waiting for name in result["runs"]}
        there = sorted({run["seed"] for run in report["runs"] if run["run"] in members})
        seeds = (there + [seed for seed in range(needed) if seed not in there])[:needed]
        ids = ", ".join(dict.fromkeys(result["id"] for result in waiting))
        lines.append(
            f"{experiment}: {least} of the {needed} seeds that a verdict needs, so these claims wait: {ids}. Train the "
            f"others: make sweep EXPERIMENT={experiment} SEEDS={','.join(map(str, seeds))}"
        )
    return lines


def more_seeds(result: Report) -> str:
    """How many more seeds would probably decide an undecided claim, and what to type; "" for any other.

    result: one of ``report["claims"]``; its ``to_decide`` has infinity as None.
    """
    if not (found := result["to_decide"]):
        return ""
    if found["why_not"]:
        return str(found["why_not"])
    if found["more"] is None:
        return f"even {MAX_SEEDS} seeds would probably not decide it: the effect is close to where two verdicts meet"
    more = "1 more seed" if found["more"] == 1 else f"{found['more']} more seeds"
    high = f"more than {MAX_SEEDS - result['n']}" if found["more_high"] is None else found["more_high"]
    return (
        f"{more} ({found['more_low']} to {high}, as {result['n']} seeds do not show their own spread well) would "
        f"decide it at 80 % power, as {found['verdict']}, if the effect stays what it is: {found['command']}"
    )
