r"""Is the answer of a response mathematically equal to the ground truth? Ours to extract, math-verify's to compare.

Runs in the pool's worker processes only (``harness.grading.pool``): math-verify's own time limits are off here.

Known to be wrong (rows of the tests' ``corpus/answers.csv`` with an entry in ``known``). Taken for wrong: 2e3, the
decimal comma, ``0.\overline{3}``, a unit of plain text with a power ("5 cm^2"), converted units, a column vector for a
tuple, ``e^{i\pi}`` for -1, numbers in words, synonyms, a sentence in the box, digits and signs of Unicode such as a
full-width 5, one half or a root. Taken for right: a number with another unit, the same digits in another base.
"""

import re
from functools import cache
from importlib import metadata
from typing import Any

from harness.grading.extraction import final_answer, last_box

VERSION = 1  # raise it whenever a verdict may change: extraction, normalisation, choices
PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime")
MAX_RESPONSE = 200_000  # characters from the end that are searched for the answer
MAX_ANSWER = 1000  # characters that are parsed; the longest answer of MATH500 has 159

INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
GROUPED = re.compile(r"[+-]?\d{1,3}(?:(?:\\[,!; ]|\{,\}| |~)\d{3})+", re.ASCII)  # 12\,345 is no product
MIXED = re.compile(r"(-?\d+) (\d+)/(\d+)", re.ASCII)  # nor is 3 1/2
WORD = re.compile(r"[A-Za-z]{4,}")  # compared as text: for math-verify a word is a product of its letters, east = seat
STYLE = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")
DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
CHOICE = re.compile(r"(?:\(([A-J])\)|([A-J])(?=[.:)]|$))[.:)]?(.*)", re.DOTALL)
ANOTHER_CHOICE = re.compile(r"\s*(?:,|/|&|and\b|or\b)\s*\(?[A-J]\b")

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

    ``finished`` does not matter: an answer counts wherever it stands, as in verl's and DAPO's graders. Raises
    ValueError for a ground truth that is empty, too long or not to be parsed, and what math-verify raises.
    """
    answer = final_answer(response[-MAX_RESPONSE:])
    return {"accuracy": float(answer is not None and equal(answer, ground_truth))}


def equal(answer: str, truth: str) -> bool:
    r"""Whether two pieces of LaTeX or plain text mean the same, for math-verify up to 6 decimals.

    Before math-verify: equal text, integers by value, words of four letters or more as text in any case, a choice by
    its letter ("(B)", "B. 7 cm", ``\text{B}``). A percentage equals both its number and its value: 50 % is 50 and 0.5.
    """
    box = last_box(truth)
    truth = clean(box.content if box else truth)
    answer = clean(answer)
    if not 0 < len(truth) <= MAX_ANSWER:
        raise ValueError(f"a ground truth of {len(truth)} characters; 1 to {MAX_ANSWER} can be graded")
    if not 0 < len(answer) <= MAX_ANSWER:
        return False
    if answer == truth:
        return True
    if INTEGER.fullmatch(answer) and INTEGER.fullmatch(truth):
        return int(answer) == int(truth)
    if WORD.fullmatch(answer) and WORD.fullmatch(truth):
        return answer.casefold() == truth.casefold()
    letter = choice(truth)
    if letter:
        return choice(answer.upper() if len(answer.strip("()")) == 1 else answer) == letter
    from math_verify import verify
    from sympy.core.random import seed

    seed(0)  # sympy tests some equalities at random points
    gold = parse(truth)
    if not gold:
        raise ValueError(f"ground truth {truth!r} cannot be parsed")
    return bool(verify(gold, parse(answer), timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True))


def clean(text: str) -> str:
    r"""``text`` without what surrounds an answer (delimiters, ``\text{}``, a full stop), plain 12345 for 12\,345."""
    text = " ".join(text.split())
    before = None
    while text != before:
        before = text
        text = text.lstrip(" ;").rstrip(" .;")
        for left, right in DELIMITERS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner and left not in inner:
                text = inner
        styled = STYLE.fullmatch(text)
        text = styled[1] if styled else text
    if GROUPED.fullmatch(text):
        return re.sub(r"[^\d+-]", "", text)
    return MIXED.sub(r"\1\\frac{\2}{\3}", text) if MIXED.fullmatch(text) else text


def choice(text: str) -> str | None:
    """The letter A to J of an answer to a multiple-choice question; None if it is none, or names more than one."""
    match = CHOICE.fullmatch(STYLE.sub(r"\1", text))
    if not match or ANOTHER_CHOICE.match(match[3]):
        return None
    return match[1] or match[2]


def parse(text: str) -> list[Any]:
    """math-verify's reading of one answer: a sympy object and the text itself, or less."""
    from math_verify import parse as read

    inner = re.sub(r"\\?%$", "", text)
    percent = r"\%" if inner != text else ""  # math-verify knows a percent sign outside of the dollars only
    return read(f"${inner}${percent}", _latex(), parsing_timeout=None, raise_on_error=True)


@cache
def _latex() -> list[Any]:
    from math_verify import LatexExtractionConfig

    return [LatexExtractionConfig()]


def versions() -> dict[str, str]:
    """What a verdict depends on: our version and those of the packages that parse and compare."""
    return {"grading": str(VERSION)} | {name: metadata.version(name) for name in PACKAGES}
