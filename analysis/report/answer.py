"""The answer first: what was compared and what came out, in two or three full sentences for each two losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.report.numbers import Report
from analysis.statistics.arms import MIN_T_RUNS, named
from analysis.statistics.claim_file import three_digits
from analysis.statistics.comparison import AT_EQUAL, LESS, MARGINS, MORE, OUTCOMES, SAME, UNTESTED

EQUAL = {  # the bases of a comparison, in the words of a reader
    "config-matched": "equal numbers of steps",
    "token-matched": "equal numbers of tokens",
    "movement-matched": "equal movement of the policy (summed KL)",
}
CLAIMED = {  # (outcome, basis) -> the quantity and window of a claim about the same number
    (outcome, basis): (quantity + suffix, window)
    for outcome, (quantity, window, _) in OUTCOMES.items()
    for basis, suffix in AT_EQUAL.items()
}
BASIS = {basis: f"after {words}" for basis, words in EQUAL.items()}
REPEATED = (
    "Seeds were added until this was decided, so these are repeated confidence intervals: wider, so that those of all "
    "looks hold together."
)
NOT_ADJUSTED = "Seeds were added until a comparison was decided; {} not adjusted for that."
UNPROVED = (
    "Imported runs are among these, and nothing proves that they are matched: a difference may come from anything else "
    "that differs between them."
)
Records = Mapping[str, Report]  # the comparisons of one outcome, by basis


def answer(report: Report, experiment: str) -> list[str]:
    """Sentences about every pair of arms that was compared, the first pair at length; [] where nothing was."""
    pairs = compared(report["experiments"][experiment])
    if not pairs:
        return []
    (first, second), records = next(iter(pairs.items()))
    repeated = bool(report["experiments"][experiment].get("repeated"))
    unproved = [UNPROVED] * bool(report["experiments"][experiment].get("comparability", {}).get("imported"))
    holm = {key: _corrected(report, experiment, (first, second), quantity) for key, quantity in CLAIMED.items()}
    said = [_length(first, second, records["response length"], 100 * report["level"], repeated, holm)]
    if _first(records["response length"])["verdict"] == UNTESTED:  # nothing else is worth a word
        return said + unproved
    said += [_accuracy(first, second, records["accuracy"], holm), *_others(dict(list(pairs.items())[1:]))]
    return [*said, *[REPEATED] * repeated, *unproved]


def intervals(report: Report, experiment: str) -> str:
    """What the intervals of the answer and its picture are."""
    level, content = f"{100 * report['level']:g} %", report["experiments"][experiment]
    if content.get("repeated"):
        return f"{NOT_ADJUSTED.format('bands of curves and intervals of single losses are')} Those are {level} each."
    text = f"Each interval is {level}, Student's t over seeds, not corrected for several tests"
    if any(result["primary"] and result["experiment"] == experiment for result in report["claims"]):
        text += " unless it is called Holm's; the primary claims below have both"
    return f"{text}."


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
        if content["comparability"].get("imported"):
            return f"{text} That they are matched {content['comparability']['why_not'].removeprefix('not matched: ')}."
        return f"{text} Not matched: {content['comparability']['why_not']}."
    declared = content["comparability"]["varies"]
    but = f"but the loss and {', '.join(declared)} " if declared else "but the loss "
    start = (
        f" and the first responses are the same in {same['equal']} of {same['pairs']} pairs of runs"
        if same["pairs"]
        else ""
    )
    return f"{text} Matched: nothing {but}differs{start}."


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


def _corrected(report: Report, experiment: str, pair: tuple[str, str], quantity: tuple[str, str]) -> Report:
    """The primary claim about the same number, which has another interval of it: Holm's; {} without one.

    Nor where intervals are repeated ones: Holm's does not allow for the looks, and is wider or not by chance.
    """
    if report["experiments"][experiment].get("repeated"):
        return {}
    for result in report["claims"]:
        same = result["experiment"] == experiment and (result["quantity"], result["window"]) == quantity
        corrected = result["low"] is not None and result["level"] != report["level"]
        if same and corrected and tuple(result["arms"]) == pair and result["n"] and not result["against"]:
            return result
    return {}


def _holm(claim: Report, text: Callable[[float], str]) -> str:
    return f"; Holm's for claim {claim['id']} {text(claim['low'])} to {text(claim['high'])}" if claim else ""


def _length(
    first: str, second: str, records: Records, level: float, repeated: bool, holm: Mapping[tuple[str, str], Report]
) -> str:
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
    between += _holm(holm["response length", record["basis"]], three_digits)
    return f"{head}: at the end of training they are {times} times as long ({between})."


def _accuracy(first: str, second: str, records: Records, holm: Mapping[tuple[str, str], Report]) -> str:
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
    text = ", ".join(
        f"{shown(one, points)} {BASIS[basis]}" + _holm(holm["accuracy", basis], points).replace("; ", " (", 1)
        + ")" * bool(holm["accuracy", basis]) for basis, one in tested.items()
    )  # fmt: skip
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
