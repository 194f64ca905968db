"""The grader against verdicts given by hand (corpus/answers.csv), against the tests of math-verify
(corpus/math_verify.csv), and against answers that were made to break it.

A row's ``verdict`` is what is right. Where the grader says something else, ``known`` says what, and the test holds it
to that, so that a change of version shows either way. ``expected`` is what math-verify's own tests say; where the
verdict is another, ``why`` says why.
"""

import csv
import subprocess
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from harness.grading import mathematics
from harness.grading.extraction import final_answer, last_box
from harness.grading.mathematics import choice
from harness.grading.notation import without_sentence, words
from harness.grading.pool import GradingPool
from harness.grading.units import split, unit

CORPUS = Path(__file__).parent / "corpus"


def table(name: str) -> list[dict[str, str]]:
    with (CORPUS / name).open(newline="") as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("# ")))


ROWS = table("answers.csv")
LIBRARY = table("math_verify.csv")


def test_corpus() -> None:
    with GradingPool(workers=2, seconds=20) as pool:
        verdicts = pool.grade_many([(row["answer"], row["truth"], True) for row in ROWS])
    different = [
        (row["answer"], row["truth"], row["why"], verdict)
        for row, verdict in zip(ROWS, verdicts, strict=True)
        if verdict.outcome != (row["known"] or row["verdict"])
    ]
    assert different == []


def test_corpus_is_worth_its_name() -> None:
    assert len({(row["answer"], row["truth"]) for row in ROWS}) == len(ROWS) >= 120
    counts = Counter(row["verdict"] for row in ROWS)
    assert set(counts) == {"right", "wrong"}
    assert min(counts.values()) >= 60
    known = [row for row in ROWS if row["known"]]
    assert all(row["known"] != row["verdict"] for row in known)
    assert len(known) < len(ROWS) / 10
    assert all(row["why"] for row in ROWS)


def test_the_tests_of_math_verify() -> None:
    with GradingPool(workers=2, seconds=20) as pool:
        verdicts = pool.grade_many([(row["answer"], row["truth"], True) for row in LIBRARY])
    different = [
        (row["source"], row["answer"], row["truth"], verdict)
        for row, verdict in zip(LIBRARY, verdicts, strict=True)
        if verdict.outcome != row["verdict"]
    ]
    assert different == []


def test_a_verdict_against_math_verify_has_its_reason() -> None:
    assert len(LIBRARY) == 269
    assert all(row["why"] for row in LIBRARY if row["verdict"] != row["expected"])
    assert sum(row["verdict"] != row["expected"] for row in LIBRARY) <= 13


EXTRACTED = [
    (r"\boxed{1} \boxed{2}", "2"),
    (r"\boxed{\boxed{5}}", "5"),
    (r"\boxed{\frac{1}{2}} and } a stray brace", r"\frac{1}{2}"),
    (r"{ a stray brace \boxed{7}", "7"),
    (r"\boxed{\{1\}}", r"\{1\}"),
    (r"\boxed{1} \boxed{2", "1"),
    ("<answer>\\boxed{1}</answer> \\boxed{2}", "1"),
    ("\\boxed{2} <answer>1</answer>", None),
    ("<answer>\\boxed{1}</answer><answer>Answer: 3</answer>", "3"),
    ("</answer>\\boxed{1}<answer>", "1"),
    ("Answer:\n\n  **12** \nmore", "12"),
    ("Answer: 12</s>", "12"),
    ("Answer: 12<end_of_turn>\n<start_of_turn>user\nAnswer", "12"),
    ("Answer: 12<\uff5cend\u2581of\u2581sentence\uff5c>", "12"),
    ("Answer: x<|y|", "x<|y|"),
    ("**Answer**: 12", "12"),
    (r"\textbf{Answer:} \frac{1}{2}", r"\frac{1}{2}"),
    ("Answer:\n$$\n12\n$$\n", "12"),
    (r"\boxed{1} and \boxed{2}", "1, 2"),
    (r"$x=\boxed{1}$, $y=\boxed{2}$", "1, 2"),
    (r"\boxed{1}, so \boxed{2}", "2"),
    (r"\boxed{1} and so \boxed{2}", "2"),
    (r"\boxed{0}. \boxed{1} or \boxed{2}", "1, 2"),
    (r"\\boxed{3}", "3"),
    ("Answer:", None),
    ("12", None),
]


@pytest.mark.parametrize(("response", "answer"), EXTRACTED)
def test_extraction(response: str, answer: str | None) -> None:
    assert final_answer(response) == answer


def test_a_box_knows_its_place() -> None:
    text = r"so $\boxed {4}$."
    box = last_box(text)
    assert box
    assert (text[box.start : box.end], box.content) == (r"\boxed {4}", "4")


LONG = [
    r"\boxed{" * 10**5,
    "}" * 10**6,
    r"\boxed{" * 10**5 + "}" * 10**5,
    "answer   " * 10**5,
    "answer:" * 10**5,
    "<answer>" * 10**5 + "</answer>" * 10**5,
    "\\" * 10**6,
    r"\boxed" + " " * 10**6,
    "*\n" * 10**6,
    "answer" + "*" * 10**6,
    "answer:" + "<|" * 10**5,
    "answer:" + "<|im_" * 10**5,
    r"\boxed{1}" + "," * 10**6 + r"\boxed{2}",
    r"\boxed{1} and " * 10**5,
    r"\boxed{1}" + (" " * 50 + r"\boxed{1}") * 10**4,
]


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_extraction_takes_linear_time(text: str) -> None:
    began = time.process_time()
    final_answer(text)
    assert time.process_time() - began < 2  # anything quadratic takes minutes


SLOW = [
    "$" * 5000,
    " is " * 1200,
    "a is " + ". x" * 1600 + "1",
    "so $" + "x" * 4900,
    r"\text{" * 800 + "5" + "}" * 800,
    r"\," * 2400 + "5",
    "5" + r"\ " * 2400 + "x",
    r"\text{cm}" * 500 + "/",
    "(" * 2500 + "B" + ")" * 2400,
    "1" + r"\,000" * 800 + "x",
    "0." + "1" * 4000 + r"\overline{3}",
    "**" * 2400 + "5",
    "²" * 5000,
    "A, " * 1600,
    "square " * 700,
    "5 " + "per " * 1200,
]


@pytest.mark.parametrize("text", SLOW, ids=range(len(SLOW)))
def test_what_is_done_before_math_verify_is_fast(text: str) -> None:
    began = time.process_time()
    for part in (text, text[: mathematics.MAX_ANSWER]):
        plain = without_sentence(part)
        choice(words(plain))
        split(plain[: mathematics.MAX_ANSWER])
    assert time.process_time() - began < 2


def test_a_ground_truth_with_two_boxes_means_both() -> None:
    truth = r"$\boxed{1}$ and $\boxed{2}$"
    assert mathematics.grade(r"\boxed{2}", truth, True)["accuracy"] == 0
    assert mathematics.grade(r"\boxed{2, 1}", truth, True)["accuracy"] == 1
    with pytest.raises(ValueError, match="2 different boxes; give the answer alone"):
        mathematics.grade(r"\boxed{2}", r"\boxed{1}" + 100 * " " + r"\boxed{2}", True)


@pytest.mark.parametrize(
    ("name", "dimension", "factor"),
    [
        ("km/h", (("metre", 1), ("second", -1)), Fraction(1000, 3600)),
        ("square feet", (("metre", 2),), Fraction("0.3048") ** 2),
        ("mL", (("metre", 3),), Fraction(1, 10**6)),
        ("cm^{3}", (("metre", 3),), Fraction(1, 10**6)),
        ("Minutes", (("second", 1),), Fraction(60)),
    ],
)
def test_units(name: str, dimension: tuple[tuple[str, int], ...], factor: Fraction) -> None:
    assert unit(name) == (dimension, factor)


def test_a_word_is_no_unit_of_measure() -> None:
    assert unit("apples") is unit("t") is unit("") is unit("m/t") is None


def test_a_ground_truth_that_cannot_be_graded_is_an_error() -> None:
    for truth in ("", "  ", "$$", "x" * 2000):
        with pytest.raises(ValueError, match="ground truth"):
            mathematics.grade(r"\boxed{1}", truth, True)
    assert mathematics.grade("no answer", "", True) == {"accuracy": 0.0}


def test_an_answer_that_is_too_long_is_wrong_unread() -> None:
    digits = "1" * mathematics.MAX_ANSWER
    assert mathematics.grade(rf"\boxed{{{digits}}}", digits, True)["accuracy"] == 1
    assert mathematics.grade(rf"\boxed{{0{digits}}}", digits, True)["accuracy"] == 0


def test_versions_name_everything_that_a_verdict_depends_on() -> None:
    versions = mathematics.versions()
    assert versions["math-verify"] == "0.9.0"
    assert versions["grading"] == str(mathematics.VERSION)
    assert {"sympy", "latex2sympy2_extended", "antlr4-python3-runtime"} < set(versions)


def test_importing_the_grader_is_cheap() -> None:
    script = "import sys, harness.grading.mathematics; print({'sympy', 'math_verify', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"so it is \boxed{007}", "7"),
        (r"\boxed{5} and \boxed{6}", "5, 6"),
        (r"\boxed{ \frac{1}{2} }", r"\frac{1}{2}"),
        ("Answer: 12", "12"),
        ("I do not know", ""),
    ],
)
def test_the_answer_as_text_by_which_votes_are_counted(response: str, expected: str) -> None:
    assert mathematics.answer(response, True) == expected
