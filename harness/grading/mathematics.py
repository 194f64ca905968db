r"""Is the answer of a response mathematically equal to the ground truth? Ours to extract, math-verify's to compare.

Runs in the pool's worker processes only (``harness.grading.pool``): math-verify's own time limits are off here.

Known to be wrong (rows of the tests' ``corpus`` with an entry in ``known``). Taken for wrong: ``e^{i\pi}`` for -1, the
sine of degrees, "5 million", a unit in each entry of a list, ``[1;2]`` and ``[1,2[``, inequalities joined by "or" for
a union, unnamed pairs in another order than their names, "0.333...", "AC" for "A, C", synonyms, words after the
number. Taken for right: ``[2,\infty]``.
"""

import re
from functools import cache
from importlib import metadata
from typing import Any

from harness.grading import units
from harness.grading.extraction import final_answers, without_boxes
from harness.grading.notation import normal, without_sentence, words

VERSION = 2  # raise it whenever a verdict may change: extraction, normalisation, choices
PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
MAX_RESPONSE = 200_000  # characters from the end that are searched for the answer
MAX_RAW = 5000  # characters of an answer that are normalised
MAX_ANSWER = 1000  # characters that are parsed; the longest answer of MATH500 has 159

INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
DECIMAL = re.compile(r"[+-]?\d*\.\d+", re.ASCII)
DECIMAL_COMMA = re.compile(r"([+-]?(?:0,\d+|\d+,(?:\d{1,2}|\d{4,})))", re.ASCII)  # 1,234 has a thousands separator
BASED = re.compile(r"(\d[\dA-F]*)_\{?(\d{1,2})\}?", re.ASCII)
CLOCK = re.compile(r"0?(\d{1,2}):(0\d)", re.ASCII)  # no ratio, which math-verify would divide by 0
COLUMN = re.compile(r"\\begin\{([pb]?)matrix\}([^&]*)\\end\{\1matrix\}")
TUPLE = re.compile(r"(?:\\left)?\(.*,.*\)")
UNEQUAL = re.compile(r"!=|\\neq?(?![A-Za-z])|\\not\s*=")
# Compared as text: for math-verify a word is a product of its letters, east = seat.
LETTERS = re.compile(r"[A-Za-z][A-Za-z ,'-]*")
TEXT = re.compile(r".*[A-Za-z]{4}.*|yes|no|odd|all|dne", re.IGNORECASE)
LISTED = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|\band\b|\bor\b)\s*")
CHOICE = re.compile(
    r"(?:(?:option|choice|answer) )?(?:\(([A-J])\)|([A-J])(?=[.:)]\s|[.:)]?$))[.:)]?(.*)", re.DOTALL | re.IGNORECASE
)
ANOTHER_CHOICE = re.compile(r"\([A-J]\)|(?:,|;|/|&|\band\b|\bor\b)\s*\(?[A-J]\b")

# What the worker asks itself before it takes work: (response, ground truth, is it right).
SELF_TEST = (
    (r"so \boxed{42}", "42", True),
    (r"so \boxed{42}", "24", False),
    (r"\boxed{1} or rather \boxed{\frac{1}{2}}", "0.5", True),
    (r"<think>\boxed{3}</think><answer>\boxed{$(x+1)^2$}</answer>", "x^2+2x+1", True),
    (r"\boxed{x^2+1}", "(x+1)^2", False),
    (r"\boxed{(1,2)}", "(2,1)", False),
    (r"\boxed{(B) 7}", "B", True),
    (r"\boxed{B}", "A", False),
    ("Answer: 1,234", "1234", True),
    ("it is 42", "42", False),
)


def grade(response: str, ground_truth: str, finished: bool) -> dict[str, float]:
    """``{"accuracy": 1.0}`` if the response's answer equals the ground truth, else 0.

    Of several boxes joined to a list, the list must equal it, or each of them: ``\\boxed{0.5} or \\boxed{50\\%}``.
    ``finished`` does not matter: an answer counts wherever it stands, as in verl's and DAPO's graders. Raises
    ValueError for a ground truth that is empty, too long or not to be parsed, and what math-verify raises.
    """
    answers = final_answers(response[-MAX_RESPONSE:])
    right = bool(answers) and equal(", ".join(answers), ground_truth)
    if len(answers) > 1 and not right:
        right = all(equal(answer, ground_truth) for answer in answers)
    return {"accuracy": float(right)}


def answer(response: str, finished: bool) -> str:
    """The response's final answer as text after ``notation.normal``; integers in one spelling; empty without one.

    Two spellings of one value (1/2 and 0.5) stay two: telling them apart from unequal ones takes math-verify.
    """
    found = [without_sentence(one) for one in final_answers(response[-MAX_RESPONSE:]) if len(one) <= MAX_RAW]
    return ", ".join(str(int(one)) if INTEGER.fullmatch(one) else one for one in found)


def equal(answer: str, truth: str) -> bool:
    r"""Whether two pieces of LaTeX or plain text mean the same, for math-verify up to 6 decimals.

    Before math-verify: equal text, integers by value, words as text in any case, a choice by its letter ("(B)",
    "B. 7 cm", ``\text{B}``), known units of measure and bases of numbers. A percentage equals both its number and its
    value: 50 % is 50 and 0.5. Raises ValueError for a ground truth that cannot be graded.
    """
    truth = without_boxes(truth)
    truth = normal(truth) if len(truth) <= MAX_RAW else truth
    if not 0 < len(truth) <= MAX_ANSWER:
        raise ValueError(f"a ground truth of {len(truth)} characters; 1 to {MAX_ANSWER} can be graded")
    if len(answer) > MAX_RAW:
        return False
    answer = without_sentence(answer) if without_sentence(truth) == truth else normal(answer)
    if not 0 < len(answer) <= MAX_ANSWER:
        return False
    if answer == truth:
        return True
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(truth):
        return int(answer) == int(truth)
    said, wanted = words(answer), words(truth)
    if len(said) == len(wanted) == 1 and said.isalpha():
        return choice(said.upper()) == wanted if wanted.isupper() else said == wanted  # e is a number, E a choice
    letter = choice(wanted)
    if letter and letter in wanted:
        return choice(said) == letter
    if LETTERS.fullmatch(said + wanted) and (TEXT.fullmatch(said) or TEXT.fullmatch(wanted)):
        return sorted(LISTED.split(said.casefold())) == sorted(LISTED.split(wanted.casefold()))
    for pattern in (BASED, CLOCK):
        found, asked = pattern.fullmatch(answer), pattern.fullmatch(truth)
        if found and asked:
            return found.groups() == asked.groups()
    return _equal_values(answer, truth)


def _equal_values(answer: str, truth: str) -> bool:
    """The same once units are compared, converted and taken off."""
    from math_verify import verify
    from sympy.core.random import seed

    answer, measured = units.split(answer)
    truth, asked = units.split(truth)
    if measured and asked and not units.comparable(measured, asked):
        return False
    if DECIMAL.fullmatch(truth) and DECIMAL_COMMA.fullmatch(answer):
        answer = answer.replace(",", ".")
    if measured and asked and measured.factor != asked.factor:
        scale = measured.factor / asked.factor
        answer = rf"({answer}) \cdot \frac{{{scale.numerator}}}{{{scale.denominator}}}"
    answer, truth = _vector(answer, truth), _vector(truth, answer)
    if UNEQUAL.search(answer) and UNEQUAL.search(truth):  # of which math-verify compares no two that differ
        answer, truth = UNEQUAL.sub("=", answer), UNEQUAL.sub("=", truth)
    seed(0)  # sympy tests some equalities at random points
    gold = parse(truth)
    if not gold:
        raise ValueError(f"ground truth {truth!r} cannot be parsed")
    return bool(verify(gold, parse(answer), timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True))


def _vector(text: str, other: str) -> str:
    """A column vector as a tuple where the other side is a tuple."""
    column = COLUMN.fullmatch(text)
    if column and TUPLE.fullmatch(other):
        return "(" + ",".join(part for part in column[2].split("\\\\") if part.strip()) + ")"
    return text


def choice(text: str) -> str | None:
    """The letter A to J of an answer to a multiple-choice question; None if it is none, or names more than one."""
    match = CHOICE.fullmatch(text)
    if not match or ANOTHER_CHOICE.search(match[3]):
        return None
    letter = match[1] or match[2]
    return letter.upper() if letter.isupper() or not match[3] else None


def parse(text: str) -> list[Any]:
    """math-verify's reading of one answer: a sympy object and the text itself, or less."""
    from math_verify import parse as read

    inner = re.sub(r"\s*\\?%$", "", text)
    percent = r"\%" if inner != text else ""  # math-verify knows a percent sign outside of the dollars only
    return read(f"${inner}${percent}", _latex(), parsing_timeout=None, raise_on_error=True)


@cache
def _latex() -> list[Any]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig

    # units=False: math-verify would take the t of 3t for one
    config = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    return [LatexExtractionConfig(normalization_config=config)]


def versions() -> dict[str, str]:
    """What a verdict depends on: our version and those of the packages that parse and compare."""
    return {"grading": str(VERSION)} | {name: metadata.version(name) for name in PACKAGES}
