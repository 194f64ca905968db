"""The grader against verdicts given by hand (corpus/answers.csv), and against answers that were made to break it.

A row's ``verdict`` is what is right. Where the grader says something else, ``known`` says what, and the test holds it
to that, so that a change of version shows either way.
"""

import csv
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.grading import mathematics
from harness.grading.extraction import final_answer, last_box
from harness.grading.pool import GradingPool

ROWS = list(csv.DictReader((Path(__file__).parent / "corpus" / "answers.csv").open(newline="")))


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
]


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_extraction_takes_linear_time(text: str) -> None:
    began = time.process_time()
    final_answer(text)
    assert time.process_time() - began < 2  # anything quadratic takes minutes


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
