"""Which published loss is it, and the first term in which it differs: two passports compared, term by term."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from harness.passport.clipping import SIDES
from harness.passport.formulas import FORMULAS, Formula
from harness.passport.measure import Passport, deviation, measure, parameters_of
from harness.passport.update import Loss, close

EXACT = 1e-5  # relative residual of a gradient that is the formula's


@dataclass(frozen=True)
class Difference:
    """One term in which a loss differs from a formula. weight: how far apart that alone puts the two."""

    term: str
    sentence: str
    weight: int


@dataclass(frozen=True)
class Verdict:
    """The formula that is nearest, and what differs, the first term first; nothing: it is that loss."""

    formula: Formula
    differences: tuple[Difference, ...]

    @property
    def is_it(self) -> bool:
        return not self.differences

    @property
    def up_to_a_constant(self) -> bool:
        """It is that loss but for one factor, the same in every update: a step of another size."""
        return [difference.term for difference in self.differences] == ["scale"]

    @property
    def sentence(self) -> str:
        name = self.formula.title
        if self.is_it:
            return f"It is {name}."
        if self.up_to_a_constant:
            return f"It is {name} up to a constant: {self.differences[0].sentence}."
        return f"Closest to {name}, but {self.differences[0].sentence}."


@cache
def passport_of(key: str) -> Passport:
    return measure(FORMULAS[key])


def judge(loss: Loss, passport: Passport, key: str) -> Verdict:
    """How the loss differs from the published loss ``key``."""
    formula = FORMULAS[key]
    found = list(differences(passport, passport_of(key), formula))
    if not found:
        factor, residual = deviation(loss, formula, parameters_of(passport))
        if residual > EXACT:
            found.append(
                Difference("rest", f"its gradient on a batch on all sides of the range deviates by {residual:.2g}", 3)
            )
        elif not formula.free_constant and not close(factor, 1):
            found.append(_scale(factor, formula, passport))
    return Verdict(formula, tuple(found))


def nearest(loss: Loss, passport: Passport) -> Verdict:
    """The published loss with the fewest and lightest differences; of equals the first in ``FORMULAS``."""
    verdicts = [judge(loss, passport, key) for key in FORMULAS]
    return min(verdicts, key=lambda verdict: sum(difference.weight for difference in verdict.differences))


def _scale(factor: float, formula: Formula, passport: Passport) -> Difference:
    """Alike up to a constant: a step of another size, with a hint where a known mistake makes that very factor."""
    hint = ""
    if close(factor, 2) and passport.clipping.level.startswith("sequence"):
        hint = "; a sequence's ratio that is not detached beside the token's own term does that"
    return Difference("scale", f"every gradient is {factor:.6g} times its, in every batch{hint}", 1)


def differences(mine: Passport, theirs: Passport, formula: Formula) -> Iterator[Difference]:
    """From what breaks a loss to what shades it."""
    name = formula.title
    a, b = mine.weighting, theirs.weighting
    if a.level != b.level:
        yield Difference(
            "level",
            "its gradient depends on how large log_prob is, not only on log_prob - old_log_prob: "
            "a factor that should be detached is not",
            4,
        )
    if a.sign != b.sign:
        yield Difference("sign", "its sign is wrong: a step makes responses with positive advantage less likely", 5)
    if a.advantage != b.advantage:
        yield Difference("advantage", f"a response's gradient depends on the advantages wrongly: {a.advantage}", 5)
    if a.padding_gradient:
        yield Difference(
            "padding",
            f"it has a gradient on padding, {a.padding_gradient:.2g} times that of a token: a mask is missing",
            4,
        )
    if a.padding_content:
        yield Difference("padding", "its gradient changes with what stands under the padding: a mask is missing", 4)
    if a.padding_factor is None or not close(a.padding_factor, 1):
        yield Difference("padding", _padded(a.padding_factor), 4)
    if a.power != b.power:
        apart = 5 if a.power is None or b.power is None else abs(a.power - b.power)
        yield Difference("power", _power(a.power, b.power, name), 2 + math.ceil(apart))
    elif not a.uniform:
        yield Difference("tokens", "tokens of one response weigh differently on-policy", 3)
    yield from _ratios(mine, theirs, name)
    if a.micro_error or a.micro is None or not close(a.micro, 1):
        yield Difference("micro", _micro(a.micro, a.micro_error, a.divisor), 2)
    if a.ranks_error or a.ranks is None or not close(a.ranks, 1):
        yield Difference("ranks", f"on two ranks the gradient is {_times(a.ranks, a.ranks_error)} that of one rank", 2)
    padded = a.padding_factor is None or not close(a.padding_factor, 1)
    if a.divisor != b.divisor and not padded and a.power == b.power:
        yield Difference("divisor", _divisor(a.divisor, b.divisor, name), 2)
    elif extra := [what for what in a.others if what not in b.others and not (what == "lengths" and padded)]:
        yield Difference("others", f"a response's gradient depends on the {' and '.join(extra)} of the others", 2)
    t = mine.terms
    if t.kl and (t.kl != formula.kl or t.coefficient is None):
        size = " that weighs lengths otherwise than the policy's term does"
        if t.coefficient is not None:
            size = f" with coefficient {t.coefficient:.4g}"
        yield Difference("kl", f"it has a KL term ({t.kl}){size}", 1)
    if t.without_advantage != theirs.terms.without_advantage:
        has = "a" if t.without_advantage else "no"
        yield Difference("other term", f"it has {has} gradient where all advantages are 0", 2)


def _ratios(mine: Passport, theirs: Passport, name: str) -> Iterator[Difference]:
    """Differences in the importance ratio and its range."""
    a, b = mine.clipping, theirs.clipping
    if a.level != b.level:
        over = {"none": "there is no importance ratio", "mixed": "its importance ratio is none that is known"}
        text = over.get(a.level, f"its importance ratio is over the {_unit(a.level)}")
        yield Difference("ratio", f"{text}, {name}'s {_over(b.level)}", 4)
    for sign, way in SIDES:
        one, other = a.sides[sign, way], b.sides[sign, way]
        where = f"for {sign} advantage and ratios that go {way}"
        if one.kind == "zero" and other.kind != "zero":
            what = f"{where} its gradient vanishes at {one.bound:.6g}, {name}'s does not"
            if (sign, way) == ("negative", "up"):
                what = f"it has a dual clip: {what}"
            elif (sign, way) == ("positive", "down"):
                what = f"it clips on the wrong side: {what}"
            yield Difference("dual clip" if (sign, way) == ("negative", "up") else "clip", what, 2)
        elif other.kind == "zero" and one.kind != "zero":
            yield Difference("clip", f"{where} its gradient never vanishes, {name}'s does", 4)
        elif one.kind != other.kind:
            yield Difference("clip", f"{where} its gradient {_shape(one.kind)}, {name}'s {_shape(other.kind)}", 3)
        elif one.unit != other.unit:
            yield Difference("clip unit", f"it clips by {one.unit}, {name} by {other.unit}", 4)
        elif abs(one.growth - other.growth) > 0.02:
            yield Difference("clip range", f"its clip range changes with |y| as |y|^{one.growth:g}", 3)


def _shape(kind: str) -> str:
    return {
        "ratio": "goes on with the ratio",
        "constant": "stops changing at a bound",
        "constant from the start": "does not depend on the ratio",
        "fades": "fades away",
        "not finite": "is not finite",
    }.get(kind, "takes another course")


def _unit(level: str) -> str:
    return {"token": "token", "sequence mean": "mean of a response's log-ratios"}.get(level, "whole sequence")


def _over(level: str) -> str:
    return "has none" if level == "none" else f"is over the {_unit(level)}"


def _padded(factor: float | None) -> str:
    if factor is None:
        return "its gradient changes with the padded width"
    if close(factor, 0.5):
        return "it averages over the padded width: twice the padding halves the gradient"
    return f"twice the padded width makes its gradient {factor:.4g} times as large"


def _power(mine: float | None, theirs: float | None, name: str) -> str:
    if mine is None:
        return f"the weight of a response is no power of its length |y|, {name}'s is |y|^{theirs:g}"
    return f"a response weighs as |y|^{mine:g}, {name}'s as |y|^{theirs:g}"


def _times(factor: float | None, error: str) -> str:
    if error:
        return f"not to be had ({error}) instead of"
    return "reweighted against" if factor is None else f"{factor:.4g} times"


def _micro(factor: float | None, error: str, divisor: str) -> str:
    if error:
        return f"the update cannot be split into micro-batches ({error})"
    if factor is None:
        unit = "tokens" if "tokens" in divisor else "size"
        return (
            f"splitting the update into micro-batches weighs its responses anew: the divisor is the {unit} of the "
            "micro-batch, not of the update"
        )
    return (
        f"split into two micro-batches its gradient is {factor:.4g} times as large: the divisor is that of the "
        "micro-batch, not of the update"
    )


def _divisor(mine: str, theirs: str, name: str) -> str:
    words = {
        "tokens": "the tokens of the whole update",
        "responses": "the number of responses",
        "1": "a constant alone",
    }
    said = [words.get(one, "a size that is not known" if one == "unknown" else one) for one in (mine, theirs)]
    return f"it divides by {said[0]}, {name} by {said[1]}: the same up to a factor that each update has of its own"
