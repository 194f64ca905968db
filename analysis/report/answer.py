"""The answer first: what was compared and what came out, in two or three full sentences for each two losses."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.report.numbers import Report
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.claims import three_digits
from analysis.statistics.comparison import LESS, MARGINS, MORE, SAME, UNTESTED

KNOWN = ("grpo", "gspo", "luspo", "gmpo", "sapo", "cispo", "fspo")  # written in capitals in their papers
EQUAL = {  # the bases of a comparison, in the words of a reader
    "config-matched": "equal numbers of steps",
    "token-matched": "equal numbers of tokens",
    "movement-matched": "equal movement of the policy (summed KL)",
}
BASIS = {basis: f"after {words}" for basis, words in EQUAL.items()}
REPEATED = (
    "Seeds were added until this was decided, so these are repeated confidence intervals: wider, so that those of all "
    "looks hold together. The intervals of claims, arms and curves are not adjusted for the looks."
)
Records = Mapping[str, Report]  # the comparisons of one outcome, by basis


def answer(report: Report, experiment: str) -> list[str]:
    """Sentences about every pair of arms that was compared, the first pair at length; [] where nothing was."""
    pairs = compared(report["experiments"][experiment])
    if not pairs:
        return []
    (first, second), records = next(iter(pairs.items()))
    repeated = bool(report["experiments"][experiment].get("repeated"))
    said = [_length(first, second, records["response length"], 100 * report["level"], repeated)]
    if _first(records["response length"])["verdict"] == UNTESTED:  # nothing else is worth a word
        return said
    said += [_accuracy(first, second, records["accuracy"]), *_others(dict(list(pairs.items())[1:]))]
    return [*said, REPEATED] if repeated else said


def compared(content: Report) -> dict[tuple[str, str], dict[str, dict[str, Report]]]:
    """Pair of arms -> outcome -> basis -> record, of the pairs whose lengths have a value."""
    found: dict[tuple[str, str], dict[str, dict[str, Report]]] = {}
    for record in content.get("comparisons", ()):
        if record["n"]:
            of = found.setdefault(tuple(record["arms"]), {"response length": {}, "accuracy": {}})
            of[record["quantity"]][record["basis"]] = record
    return {pair: of for pair, of in found.items() if of["response length"]}


def conditions(report: Report, experiment: str) -> str:
    """What was compared: arms, seeds, steps and device, and whether nothing but the loss differs."""
    content = report["experiments"][experiment]
    arms = [f"{named(arm['arm'])} ({arm['n']})" for arm in content["arms"]]
    steps = " or ".join(map(str, content["steps"]))
    where = " and ".join(content["devices"]) or "device not recorded"
    text = f"{_listed(arms)}, finished runs in brackets; {steps} steps, {where}."
    same, matched = content["comparability"]["same_start"], content["comparability"]["matched"]
    if not matched:
        return f"{text} Not matched: {content['comparability']['why_not']}."
    declared = content["comparability"]["varies"]
    but = f"but the loss and {', '.join(declared)} " if declared else "but the loss "
    start = (
        f" and the first responses are the same in {same['equal']} of {same['pairs']} pairs of runs"
        if same["pairs"]
        else ""
    )
    return f"{text} Matched: nothing {but}differs{start}."


def named(arm: str) -> str:
    """An arm as a reader knows it: LUSPO; what is no name of a paper stays as it was typed."""
    return arm.upper() if arm in KNOWN else arm


def shown(record: Report, text: Any) -> str:
    """Estimate and interval; without an interval the estimate alone."""
    if record["low"] is None:
        return str(text(record["estimate"]))
    return f"{text(record['estimate'])} [{text(record['low'])}, {text(record['high'])}]"


def points(value: float) -> str:
    return f"{value:+.1f}"


def _first(records: Records) -> Report:
    """At equal steps, where that could be compared."""
    return records.get("config-matched") or next(iter(records.values()))


def _length(first: str, second: str, records: Records, level: float, repeated: bool = False) -> str:
    record = _first(records)
    times, n = three_digits(record["estimate"]), record["n"]
    if record["verdict"] == UNTESTED and repeated:
        return (
            f"{n} seeds of each loss are too few for an interval that is adjusted for looking after every seed. So far "
            f"{named(first)}'s responses ended {times} times as long as {named(second)}'s."
        )
    if record["verdict"] == UNTESTED:
        few = "One run of each loss says" if n == 1 else f"{n} runs of each loss say"
        return (
            f"{few} nothing about the loss: runs of one loss differ, too. Here {named(first)}'s responses ended "
            f"{times} times as long as {named(second)}'s. "
            f"An interval needs {MIN_T_RUNS} seeds of each, a verdict on a claim 5."
        )
    one, other, verdict = named(first), named(second), record["verdict"]
    head = {
        MORE: f"{one}'s responses are longer than {other}'s",
        LESS: f"{one}'s responses are shorter than {other}'s",
        SAME: f"{one}'s and {other}'s responses are equally long, within {100 * (MARGINS['ratio'] - 1):.0f} %",
    }.get(verdict, f"Whether {one}'s responses are longer than {other}'s is undecided")
    kind = "repeated interval" if repeated else "interval"
    between = f"{level:g} % {kind} {three_digits(record['low'])} to {three_digits(record['high'])}, {n} seeds"
    return f"{head}: at the end of training they are {times} times as long ({between})."


def _accuracy(first: str, second: str, records: Records) -> str:
    """On every basis, headed by what they agree or disagree on."""
    tested = {basis: one for basis, one in records.items() if one["verdict"] != UNTESTED}
    if not tested:
        return "Accuracy was not compared: too few runs recorded it."
    verdicts = {one["verdict"] for one in tested.values()}
    if verdicts == {SAME}:
        head = f"Accuracy does not differ by more than {MARGINS['points']:g} point"
    elif {MORE, LESS} <= verdicts:
        head = "Which is more accurate depends on what is held equal"
    elif verdicts & {MORE, LESS}:
        always = "" if len(verdicts) == 1 else ", but not on every basis of comparison"
        head = f"{named(first)} is {'more' if MORE in verdicts else 'less'} accurate{always}"
    else:
        head = "These runs do not decide which is more accurate"
    text = ", ".join(f"{shown(one, points)} {BASIS[basis]}" for basis, one in tested.items())
    return f"{head}. {named(first)}'s training accuracy minus {named(second)}'s, in percentage points: {text}."


def _others(pairs: Mapping[tuple[str, str], Mapping[str, Records]]) -> list[str]:
    """The other pairs' lengths in one sentence."""
    parts = [
        f"{named(first)} {shown(record, three_digits)} times {named(second)}"
        for (first, second), of in pairs.items()
        if (record := of["response length"].get("config-matched"))
    ]
    return [f"Length at the end of the others: {'; '.join(parts)}."] if parts else []


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
