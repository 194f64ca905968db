"""What the runs say, in full sentences: the README's findings and its short table of claims, every number computed."""

import textwrap

from analysis.paper.claims import MAIN
from analysis.paper.factorial import INTERACTION
from analysis.report.answer import BASIS, points, shown
from analysis.report.numbers import Report
from analysis.statistics.claim_file import three_digits

WIDTH = 120  # characters
EXPERIMENT, SEEDS_EXPERIMENT = "tiny", "smollm2"
NEUTRAL, EXPERTS, IN_PICTURES = "mini_dense", "mini_moe", "mini_images"
ELSEWHERE = (SEEDS_EXPERIMENT, EXPERTS, IN_PICTURES, "mini_images_text")  # whose claims are in docs/results.md alone
PAIR = " - ".join(MAIN)
NOT_RUN = "*Nothing yet: the runs of the experiment `{}` are not among those that were read.*"
UNITS = (" x", " times"), (" sd of length", " sd")  # what a claim's text calls them, what the table does


def findings(report: Report) -> str:
    """Three findings as a Markdown list: length, accuracy, and what a single seed is worth.

    What the runs that were read cannot say is said to be missing, so that a README of fewer runs is no less true.
    """
    content = report["experiments"].get(EXPERIMENT, {})
    said = [_length(content) + _elsewhere(report), _accuracy(content), _seeds(report)]
    return "\n".join(wrapped(f"- {text}", "  ") for text in dict.fromkeys(said))


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of the README's width."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def tested_claims(report: Report) -> str:
    """The claims that were decided, a line each in words that need no other page and a column for each task; those not
    tested are left out."""
    decided = [r for r in report["claims"] if r["n"] and r["verdict"] != "not tested"]
    decided = [r for r in decided if r["experiment"] not in ELSEWHERE]
    if not decided:
        return NOT_RUN.format(EXPERIMENT)
    tasks = list(dict.fromkeys(r["experiment"] for r in sorted(decided, key=lambda r: r["experiment"] != EXPERIMENT)))
    lines = [
        f"| what the paper claims | {' | '.join(f'`{task}`' for task in tasks)} |",
        "|---" * (len(tasks) + 1) + "|",
    ]
    for told in dict.fromkeys(f"{r['sentence']} ({r['id']})" for r in decided):
        cells = {r["experiment"]: _cell(r) for r in decided if told == f"{r['sentence']} ({r['id']})"}
        lines.append(f"| {told} | {' | '.join(cells.get(task, '-') for task in tasks)} |")
    note = (
        "*undecided*: the runs allow both. *negligible*: smaller than the size that the claim's rule asks for. An "
        "estimate in *times* is a ratio, in *points* a difference in percentage points, in *sd* one of mean length in "
        "standard deviations of length. The intervals are Student's t over runs paired by seed, 95 %; the primary "
        f"claims ({', '.join(_primary(report))}) have another one, Holm's, which is corrected for several tests and "
        "decides."
    )
    return "\n".join(lines) + f"\n\n{wrapped(note)}"


def _cell(result: Report) -> str:
    estimate = result["stated"]
    for long, short in UNITS:
        estimate = estimate.replace(long, short, 1)
    return f"*{result['verdict']}*: {estimate}"


def _primary(report: Report) -> list[str]:
    return list(dict.fromkeys(result["id"] for result in report["claims"] if result["primary"]))


def _length(content: Report) -> str:
    """LUSPO's length over GSPO's, and its two factors from the 2 x 2 of losses where that was run."""
    whole = _comparisons(content, "response length").get("config-matched")
    if not whole:
        return NOT_RUN.format(EXPERIMENT)
    times = f"{shown(whole, three_digits)} times as long as GSPO's"
    text = f"**LUSPO's responses end {times}** on `{EXPERIMENT}`, at equal settings, {whole['n']} seeds each."
    parts = {part["part"]: part for part in content.get("attribution", ()) if part["n"]}
    alone, rest = parts.get("of it 1/|y|"), parts.get(INTERACTION)
    if not alone or not rest:
        return f"{text} What part of the loss does it was not tried: that needs also the losses `grpo` and `grpo_sum`."
    left, interaction = shown(alone, three_digits), shown(rest, three_digits)
    return (
        f"{text} Dropping the factor 1/|y| alone, as from GRPO to GRPO summed over tokens, gives {left}. The remaining "
        f"factor of {interaction} is an interaction: what the same change does beyond that where ratio and clip are of "
        "whole sequences."
    )


def _elsewhere(report: Report) -> str:
    """The same ratio on the task that was not chosen by what losses do, in those of its forms that were run."""
    said = {
        NEUTRAL: f"on `{NEUTRAL}`, a task that was chosen by rules that name no loss,",
        EXPERTS: f"with a mixture of experts (`{EXPERTS}`)",
        IN_PICTURES: f"in pictures (`{IN_PICTURES}`)",
    }
    parts = []
    for task, where in said.items():
        whole = _comparisons(report["experiments"].get(task, {}), "response length").get("config-matched")
        if whole:
            times = shown(whole, three_digits)
            parts.append(f"{where} {times}" if parts else f"{where} they end {times} times as long")
    text = ", ".join(parts)
    return f" **{text[0].upper()}{text[1:]}.**" if parts else ""


def _accuracy(content: Report) -> str:
    """The difference of training accuracy on each basis of comparison; the headline follows from the intervals."""
    on = {name: one for name, one in _comparisons(content, "accuracy").items() if one["low"] is not None}
    if not on:
        return NOT_RUN.format(EXPERIMENT)
    above, below = ([one["low"] > 0 for one in on.values()], [one["high"] < 0 for one in on.values()])
    if all(above) or all(below):
        first = f"LUSPO is {'more' if all(above) else 'less'} accurate"
    elif any(above) or any(below):
        first = "Whether the longer responses are better depends on what is held equal"
    else:
        first = "These runs show no difference in accuracy"
    text = ", ".join(f"{shown(one, points)} {BASIS[name]}" for name, one in on.items())
    return f"**{first}.** On `{EXPERIMENT}` LUSPO's training accuracy minus GSPO's, in percentage points: {text}."


def _seeds(report: Report) -> str:
    """How far single seeds of one contrast lie apart, where there are too few for a verdict."""
    (one,) = [r for r in report["claims"] if (r["id"], r["experiment"]) == ("C1", SEEDS_EXPERIMENT)] or [{"n": 0}]
    if not one["n"]:
        return NOT_RUN.format(SEEDS_EXPERIMENT)
    values = [three_digits(value) for value in one["values"].values()]
    steps = report["experiments"][SEEDS_EXPERIMENT]["steps"][-1]
    text = f"**One seed says nothing.** On the real model SmolLM2-135M, {steps} steps, the same ratio of lengths is "
    if one["low"] is None:
        return f"{text}{' and '.join(values)} for {_counted(values)}, too few for an interval."
    plain = f"{three_digits(one['low_plain'])} to {three_digits(one['high_plain'])}"
    holm = f" at 95 %, by Holm's correction {three_digits(one['low'])} to {three_digits(one['high'])}"
    return (
        f"{text}{', '.join(values[:-1])} and {values[-1]} for {_counted(values)}: together anything from {plain}"
        f"{holm * (one['level'] != report['level'])}."
    )


def _counted(values: list[str]) -> str:
    return "1 seed" if len(values) == 1 else f"{len(values)} seeds"


def _comparisons(content: Report, quantity: str) -> dict[str, Report]:
    records = [
        r for r in content.get("comparisons", ()) if r["contrast"] == PAIR and r["quantity"] == quantity and r["n"]
    ]
    return {record["basis"]: record for record in records}
