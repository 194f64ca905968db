"""Every number that a report or the README shows, from run directories, as JSON would hold it: ``report.json``."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.paper.factorial import attribution, effects_frame, factorial
from analysis.report.comparability import comparability
from analysis.runs.load import Runs
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.attrition import attrition
from analysis.statistics.claim_file import Claims
from analysis.statistics.claims import Result, evaluate
from analysis.statistics.comparison import chosen_pairs, comparisons, tuning
from analysis.statistics.fork import fork_effects, fork_frame, is_fork
from analysis.statistics.intervals import t_interval
from analysis.statistics.pairs import experiment_runs
from analysis.statistics.power import to_decide
from analysis.statistics.quantities import clip_counts
from analysis.statistics.repeated import plans_of, repeated_interval
from analysis.statistics.rounding import remarks
from analysis.statistics.verification import counted, verify
from analysis.statistics.windows import MissingError, Run, series, validations

Report = dict[str, Any]


def _clipped(run: Run) -> float:
    clipped, of = clip_counts(run, "run")
    return 100 * clipped / of


ARM_COLUMNS: dict[str, Callable[[Run], float]] = {
    "length at end (tokens)": lambda run: float(series(run, "response_length", "end").mean()),
    "clipped tokens (%)": _clipped,
    "accuracy over the run (%)": lambda run: 100 * float(series(run, "accuracy", "run").mean()),
    "validation accuracy at end (%)": lambda run: 100 * float(validations([run], "val_accuracy", 1)[0].iloc[0]),
}


def build_report(runs: Runs, claims: Claims, varies: Sequence[str] = (), contrasts: Sequence[str] = ()) -> Report:
    """The whole report: level, claims (``Result.record``; to_decide: ``power.to_decide``, None unless undecided),
    claims_of (file and whose they are, "" for none), experiments, runs (one row each, failed ones included), left_out
    (run -> why it is not among them).

    Of each experiment: steps, devices, minutes, note, rules (``_rules``), verification (``counted``), attrition, arms,
    comparability, and where there is what they need: comparisons and tuning (``analysis.statistics.comparison``),
    repeated (plans of the sweeps that trained seeds until it was decided: then the intervals of the comparisons are
    repeated ones, ``analysis.statistics.sequential``), factorial, attribution and fork. contrasts: the pairs of arms to
    compare (``comparison.chosen_pairs``).
    An arm's quantities are over its finished runs: mean, and low to high, the t interval at the level of the claims
    for 3 or more runs, minimum and maximum of 2, the value of 1.
    Raises ``AnalysisError`` where a contrast would be between runs that are not matched.
    """
    present = set(runs.runs["experiment"])
    listed = [name for name in claims.experiments if name in present]
    report: Report = {
        "level": claims.level,
        "claims_of": {"file": claims.file, "of": claims.of},
        "claims": [result.record() | {"to_decide": _to_decide(result, runs)} for result in evaluate(runs, claims)],
        "experiments": {},
        "left_out": dict(runs.left_out),
        "runs": runs.runs.drop(columns="path").sort_values(["experiment", "arm", "seed"]).to_dict("records"),
    }
    verified = verify(runs)
    for experiment in (*listed, *sorted(present.difference(listed))):
        rules = claims.rules_of(experiment)
        part = runs.select(experiment=experiment).trained()
        report["experiments"][experiment] = {
            **_conditions(part),
            "note": claims.note_of(experiment),
            "rules": _rules(part, claims, experiment),
            "verification": counted([one for one in verified if one.experiment == experiment]),
            "attrition": attrition(experiment_runs(part, rules), runs, experiment),
            "arms": _arms(part, rules, claims.level),
            "comparability": comparability(part, varies),
            **_contrasts(part, claims, experiment, contrasts),
        }
    return json_ready(report)


def _to_decide(result: Result, runs: Runs) -> Report | None:
    return to_decide(result, runs) if result.verdict == "undecided" else None


def json_ready(content: Any) -> Any:
    """The same with None for NaN and infinity, lists for tuples and text for the keys of mappings."""
    if isinstance(content, dict):
        return {str(key): json_ready(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [json_ready(value) for value in content]
    if hasattr(content, "item"):  # numpy's own numbers
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _conditions(runs: Runs) -> Report:
    """Planned steps, devices, and the minutes of the finished runs."""
    done = runs.runs[runs.runs["state"] == "done"]
    hardware = [runs.manifests[run].get("hardware", {}) for run in done["run"]]
    devices = {h.get("device") or f"{h['cores']} cores ({_processor(h)})" for h in hardware if "cores" in h}
    minutes = done["minutes"].dropna()
    return {
        "steps": sorted({int(steps) for steps in runs.runs["planned_steps"]}),
        "devices": sorted(devices),
        "minutes": [float(minutes.min()), float(minutes.max())] if len(minutes) else [],
    }


def _rules(runs: Runs, claims: Claims, experiment: str) -> Report:
    """Runs that began with these rules, with others, or before that was recorded."""
    found = {run: runs.manifests[run].get("claims") for run in runs.runs["run"]}
    same = {run for run, version in found.items() if version and claims.has_rules_of(version, experiment)}
    return {
        "same": len(same),
        "other": [run for run, version in found.items() if version and run not in same],
        "unknown": sum(not version for version in found.values()),
    }


def _arms(runs: Runs, rules: Mapping[str, Any], level: float) -> list[Report]:
    members = [run for run in experiment_runs(runs, rules) if run.state == "done"]
    arms = []
    for arm, rows in runs.runs.groupby("arm"):
        of_arm = [run for run in members if run.arm == arm]
        cells = {name: _cell([_value(measure, run) for run in of_arm], level) for name, measure in ARM_COLUMNS.items()}
        said = remarks(of_arm)
        arms.append({"arm": arm, "n": len(of_arm), "not_done": len(rows) - len(of_arm), "remark": said, **cells})
    return arms


def _contrasts(runs: Runs, claims: Claims, experiment: str, asked: Sequence[str]) -> Report:
    """What needs certain arms or certain runs, where they are."""
    rules, level, arms = claims.rules_of(experiment), claims.level, set(runs.runs["arm"])
    first = claims.pairs if claims.decides(experiment) else ()
    if is_fork(runs):
        pairs = claims.forks or chosen_pairs(arms, asked, first, claims.baselines)
        return {"fork": fork_effects(fork_frame(runs), pairs, level).to_dict("records")}
    plans = plans_of(runs)
    pairs = chosen_pairs(arms, asked, first, claims.baselines)
    found: Report = {
        "comparisons": comparisons(runs, rules, pairs, level, repeated_interval(plans, level)),
        "tuning": tuning(runs),
        "repeated": [plan.record() for plan in plans],
    }
    if effects := factorial(runs, rules, level):
        found["factorial"] = effects_frame(effects).to_dict("records")
        found["attribution"] = attribution(effects).to_dict("records")
    return found


def _processor(hardware: Mapping[str, Any]) -> str:
    return hardware.get("processor") or hardware.get("machine") or "processor not recorded"


def _value(measure: Callable[[Run], float], run: Run) -> float:
    try:
        return measure(run)
    except MissingError:
        return math.nan


def _cell(values: Sequence[float], level: float) -> Report:
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return {"n": 0}
    found = t_interval(values, level)
    low, high = (found.low, found.high) if found.n >= MIN_T_RUNS else (min(values), max(values))
    return {"n": found.n, "mean": found.estimate, "low": low, "high": high, "values": values}
