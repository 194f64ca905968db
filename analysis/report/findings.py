"""What the runs say, in full sentences: the README's findings and its short table of claims, every number computed."""

import textwrap
from collections.abc import Callable

from analysis.report.numbers import Report
from analysis.statistics.claims import three_digits

WIDTH = 120  # characters
EXPERIMENT, SEEDS_EXPERIMENT = "tiny", "smollm2"
PAIR = "luspo - gspo"
NOT_RUN = "*Nothing yet: the runs of the experiment `{}` are not among those that were read.*"
BASIS = {  # the bases of a comparison, in the words of a reader
    "config-matched": "after equal numbers of steps",
    "token-matched": "after equal numbers of tokens",
    "movement-matched": "after equal movement of the policy (summed KL)",
}
VERDICTS = {"undecided": "inconclusive", "negligible": "no difference"}


def findings(report: Report) -> str:
    """Up to three sentences as a Markdown list: length, accuracy, and what a single seed is worth."""
    content = report["experiments"].get(EXPERIMENT, {})
    said = [_length(content), _accuracy(content), _seeds(report)]
    return "\n".join(wrapped(f"- {text}", "  ") for text in said if text) or NOT_RUN.format(EXPERIMENT)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of the README's width."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def tested_claims(report: Report) -> str:
    """The claims that were decided, one line each: what the paper says, on which task, the verdict, the estimate."""
    lines = ["| what the paper claims | tried on | verdict | estimate |", "|---|---|---|---|"]
    for result in report["claims"]:
        if not result["n"] or result["verdict"] == "not tested":
            continue
        claim = result["claim"].partition(" (")[0] + (f": {result['row']}" if result["row"] else "")
        verdict = VERDICTS.get(result["verdict"], result["verdict"])
        estimate = result["text"].replace(" x", "", 1) if result["unit"] == "ratio" else result["text"]
        lines.append(f"| {claim} ({result['id']}) | {result['experiment']} | {verdict} | {estimate} |")
    if len(lines) == 2:
        return NOT_RUN.format(EXPERIMENT)
    note = (
        "A ratio is the first loss over the second. In brackets: Student-t interval over runs paired by seed, 95 %, "
        "and wider for the primary claims, by Holm's correction. `inconclusive`: the runs allow both. The rules were "
        "written before the runs: `results/paper/claims.yaml`."
    )
    return "\n".join(lines) + f"\n\n{wrapped(note)}"


def _length(content: Report) -> str:
    """LUSPO's length over GSPO's, and its two factors from the 2 x 2 of losses where that was run."""
    whole = _fair(content, "response length").get("config-matched")
    if not whole:
        return ""
    times = f"{_ratio(whole)} times as long as GSPO's"
    text = f"**LUSPO's responses end {times}**, at equal settings, {whole['n']} seeds each."
    parts = {part["part"]: part for part in content.get("attribution", ()) if part["n"]}
    alone, rest = parts.get("of it 1/|y|"), parts.get("of it ratio and clip by sequence")
    if alone and rest:
        text += (
            f" Dropping the factor 1/|y| alone, as between GRPO and GRPO summed over tokens, gives {_ratio(alone)}. "
            f"The other {_ratio(rest)} appear only where ratio and clip are of whole sequences."
        )
    return text


def _accuracy(content: Report) -> str:
    """The difference of training accuracy on each basis of comparison; the headline follows from the intervals."""
    on = {name: one for name, one in _fair(content, "accuracy").items() if one["low"] is not None}
    if not on:
        return ""
    above, below = all(one["low"] > 0 for one in on.values()), all(one["high"] < 0 for one in on.values())
    first = (
        "LUSPO is more accurate"
        if above
        else "LUSPO is less accurate"
        if below
        else "Whether the longer responses are better depends on what is held equal"
    )
    text = ", ".join(f"{_points(one)} {BASIS[name]}" for name, one in on.items())
    return f"**{first}.** LUSPO's training accuracy minus GSPO's, in percentage points: {text}."


def _seeds(report: Report) -> str:
    """How far single seeds of one contrast lie apart, where there are too few for a verdict."""
    for one in report["claims"]:
        if (one["id"], one["experiment"]) == ("C1", SEEDS_EXPERIMENT) and one["n"] > 1 and one["low"] is not None:
            values = [three_digits(value) for value in one["values"].values()]
            steps = report["experiments"][SEEDS_EXPERIMENT]["steps"][-1]
            return (
                f"**One seed says nothing.** On the real model SmolLM2-135M, {steps} steps, the same ratio of lengths "
                f"is {', '.join(values[:-1])} and {values[-1]} for {len(values)} seeds: together anything from "
                f"{three_digits(one['low'])} to {three_digits(one['high'])}."
            )
    return ""


def _fair(content: Report, quantity: str) -> dict[str, Report]:
    records = [r for r in content.get("fair", ()) if r["contrast"] == PAIR and r["quantity"] == quantity and r["n"]]
    return {record["notion"]: record for record in records}


def _ratio(record: Report) -> str:
    return _between(record, three_digits)


def _points(record: Report) -> str:
    return _between(record, lambda value: f"{value:+.1f}")


def _between(record: Report, shown: Callable[[float], str]) -> str:
    if record["low"] is None:
        return shown(record["estimate"])
    return f"{shown(record['estimate'])} [{shown(record['low'])}, {shown(record['high'])}]"
