"""Passports as tables: on the terminal, as Markdown and as JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.passport.clipping import (
    LARGEST,
    RESPONSE_SPREAD,
    RESPONSES,
    SHORTEST,
    TOKEN_SPREAD,
    WIDTH,
    Clipping,
    Side,
)
from harness.passport.measure import Passport
from harness.passport.naming import Verdict
from harness.passport.update import close
from harness.passport.weighting import Weighting

CLIPPED = (
    f"clipped: share without gradient among {RESPONSES} synthetic responses of {SHORTEST} to {WIDTH} tokens, half of "
    f"them with advantage 1, half with -1; log-ratios normal, {TOKEN_SPREAD} a token plus {RESPONSE_SPREAD} that a "
    "response shares"
)


@dataclass(frozen=True)
class Entry:
    """One loss that was asked for: its passport and its name, or the line that says why there is none."""

    word: str
    passport: Passport | None = None
    verdict: Verdict | None = None
    error: str = ""


def facts(passport: Passport) -> dict[str, str]:
    """The rows of the table on the terminal: what was measured -> its value in words."""
    w, c, t = passport.weighting, passport.clipping, passport.terms
    return {
        "version": passport.version + (f" ({passport.note})" if passport.note else ""),
        "weight of a response": power(w),
        "weight of a token": per_token(w),
        "divisor": divisor(w),
        "padding": padding(w),
        "micro-batches": split(w.micro, w.micro_error),
        "ranks": split(w.ranks, w.ranks_error),
        "other responses": ", ".join(f"their {what}" for what in w.others) or "no influence",
        "importance ratio": ratio(c),
        "clip, advantage > 0": clip(c.sides["positive", "up"], c.sides["positive", "down"]),
        "clip, advantage < 0": clip(c.sides["negative", "down"], c.sides["negative", "up"]),
        "dual clip": dual(c.sides["negative", "up"]),
        "clipped (see below)": f"{share(c.tokens)} of tokens, {share(c.sequences)} of responses",
        "KL": kl(passport),
        "importance weights": {"": "none taken", "multiply": "multiply the gradient", "ignored": "ignored"}.get(
            t.weights, "change the gradient in another way"
        ),
    }


def power(w: Weighting) -> str:
    if w.power is None:
        return "no power of |y|"
    words = {0.0: "|y|^0: each response the same", 1.0: "|y|^1: in proportion to length"}
    return words.get(w.power, f"|y|^{w.power:g}")


def per_token(w: Weighting) -> str:
    if w.power is None:
        return "no power of |y|"
    text = "the same in each response" if w.power == 1 else f"|y|^{w.power - 1:g}"
    return text if w.uniform else f"{text} on average; tokens of one response differ"


def divisor(w: Weighting) -> str:
    if w.constant is None or w.divisor == "unknown":
        return "not identified"
    constant = "" if close(w.constant, 1) else f", times {w.constant:.6g}"
    words = {"1": "none", "tokens": "tokens of the update", "width": "padded width"}
    return words.get(w.divisor, w.divisor.replace("width", "padded width")) + constant


def padding(w: Weighting) -> str:
    found = []
    if w.padding_factor is None:
        found.append("changes with the width")
    elif not close(w.padding_factor, 1):
        found.append(f"gradient times {w.padding_factor:.4g} at twice the width")
    if w.padding_gradient:
        found.append(f"gradient on padding, {w.padding_gradient:.2g} times a token's")
    if w.padding_content:
        found.append("changes with its content")
    return "; ".join(found) or "no influence"


def split(factor: float | None, error: str) -> str:
    if error:
        return f"cannot be split: {error}"
    if factor is None:
        return "two of them weigh responses otherwise than one"
    return "no influence" if close(factor, 1) else f"gradient times {factor:.4g} with two of them"


def ratio(c: Clipping) -> str:
    known = {"none": "none", "token": "of tokens", "sequence mean": "of sequences, root of order |y| (geometric mean)"}
    if c.level == "mixed":
        return f"no known one (slopes {c.own:.3g} own token, {c.cross:.3g} another, |y| = 12)"
    return known.get(c.level, "of whole sequences (product)")


def clip(right: Side, wrong: Side) -> str:
    """The course of the gradient where the step would go on, and a word on the other side if it clips there too."""
    text = course(right)
    if wrong.kind == "zero" and right.kind != "zero":
        text += f"; on the wrong side {course(wrong)}"
    return text


def course(side: Side) -> str:
    if side.kind == "zero" and side.bound is not None:
        where = f"0 beyond a ratio of {side.bound:.6g}, by {side.unit}"
        return where + (
            f" (at |y| = 12; the range in nats per token goes as |y|^{side.growth:g})" if side.growth else ""
        )
    if side.kind == "constant" and side.bound is not None:
        return f"never 0; constant at {side.bound:.6g} times its on-policy value"
    return {
        "fades": "never 0 at once; fades away",
        "ratio": "never 0; in proportion to the ratio",
        "constant from the start": "never 0; does not depend on the ratio",
        "not finite": "not finite",
    }.get(side.kind, "never 0")


def dual(side: Side) -> str:
    if side.kind == "zero" and side.bound is not None:
        return f"0 beyond a ratio of {side.bound:.6g}, by {side.unit}"
    return f"none up to a ratio of {math.exp(LARGEST):.0f}"


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.3g} %"


def kl(passport: Passport) -> str:
    t = passport.terms
    if t.kl:
        return t.kl + (", other weights of lengths" if t.coefficient is None else f", coefficient {t.coefficient:.4g}")
    return "none, but a gradient without advantages" if t.without_advantage else "none"


def terminal(entries: Sequence[Entry], console: Console) -> None:
    """A block for each loss: its name, then a table of facts."""
    for entry in entries:
        console.print(f"\n{entry.word}", style="bold", markup=False, highlight=False)
        if entry.passport is None or entry.verdict is None:
            console.print(f"error: {entry.error}", style="red", markup=False, highlight=False, soft_wrap=True)
            continue
        console.print(entry.verdict.sentence, markup=False, highlight=False, soft_wrap=True)
        for more in entry.verdict.differences[1:]:
            console.print(f"  also: {more.sentence}", markup=False, highlight=False, soft_wrap=True)
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name, value in facts(entry.passport).items():
            table.add_row(name, value)
        console.print(table)
    if entries:
        console.print(f"\n{CLIPPED}", markup=False, highlight=False)


COLUMNS = (
    "loss",
    "it is",
    "first difference",
    "p",
    "ratio",
    "zero beyond (A > 0; A < 0)",
    "clipped tokens, responses",
    "what else it depends on",
)


def markdown(entries: Sequence[Entry]) -> str:
    """One row a loss, without those that could not be measured."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for entry in entries:
        if entry.passport is not None and entry.verdict is not None:
            cells = (cell.replace("|", r"\|") for cell in summary(entry.word, entry.passport, entry.verdict))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(word: str, passport: Passport, verdict: Verdict) -> list[str]:
    w, c = passport.weighting, passport.clipping
    bounds = [c.sides[key] for key in (("positive", "up"), ("negative", "down"), ("negative", "up"))]
    ends = [f"{side.bound:.6g}" if side.kind == "zero" and side.bound is not None else "-" for side in bounds]
    others = {
        "padding": padding(w), "micro-batches": split(w.micro, w.micro_error), "ranks": split(w.ranks, w.ranks_error),
        "KL": kl(passport) if passport.terms.kl else "no influence",
    }  # fmt: skip
    influences = [f"{name}: {text}" for name, text in others.items() if text != "no influence"]
    if w.others:
        influences.append(f"{' and '.join(w.others)} of the other responses")
    title = verdict.formula.title
    name = title if verdict.is_it else f"{title} times a constant" if verdict.up_to_a_constant else f"like {title}"
    version = "" if passport.version in word else f" ({passport.version})"
    return [
        f"`{word}`{version}",
        name,
        verdict.differences[0].sentence if verdict.differences else "none",
        "-" if w.power is None else f"{w.power:g}",
        {"sequence mean": "sequence", "sequence sum": "whole sequence"}.get(c.level, c.level),
        f"{ends[0]}; {ends[1]}" + (f", {ends[2]}" if ends[2] != "-" else ""),
        f"{share(c.tokens)}, {share(c.sequences)}",
        "; ".join(influences) or "nothing",
    ]


def plain(entry: Entry) -> dict[str, Any]:
    """For JSON: every measured number, the nearest formula and all differences."""
    if entry.passport is None or entry.verdict is None:
        return {"loss": entry.word, "error": entry.error}
    content = asdict(entry.passport)
    content["clipping"]["sides"] = {
        f"advantage {sign}, ratio {way}": side for (sign, way), side in content["clipping"]["sides"].items()
    }
    verdict = entry.verdict
    named = {
        "nearest": verdict.formula.key,
        "is_it": verdict.is_it,
        "sentence": verdict.sentence,
        "differences": [asdict(difference) for difference in verdict.differences],
    }
    return _finite({"loss": entry.word, **named, **content})


def _finite(value: Any) -> Any:
    """JSON has no NaN: None instead."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
