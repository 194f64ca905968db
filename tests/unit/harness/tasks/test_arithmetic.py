"""The data against arithmetic done another way; the grader against verdicts given by hand."""

import ast
import json
import operator
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.tasks import arithmetic

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def exact(node: ast.AST) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -exact(inner)
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](exact(left), exact(right))
    raise AssertionError(ast.dump(node))


def rows(folder: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{split}.parquet").to_pylist()


def content(row: dict[str, Any]) -> str:
    (message,) = row["prompt"]
    assert message["role"] == "user"
    return message["content"]


@pytest.fixture(autouse=True)
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_ASSETS", str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"dataset": "basic_arithmetic", "train": 300},
        {"dataset": "basic_arithmetic", "train": 300, "max_terms": 4, "allow_parentheses": True},
        {"train": 300, "max_terms": 5, "max_digits": 4},
    ],
)
def test_answers_splits_and_indices(arguments: dict[str, Any]) -> None:
    folder = arithmetic.asset(**arguments)
    splits = {split: rows(folder, split) for split in ("train", "heldout")}
    assert len(splits["train"]) == arguments.get("train", 2048)
    assert len(splits["heldout"]) == 64
    everything = splits["train"] + splits["heldout"]
    assert len({row["extra_info"]["index"] for row in everything}) == len(everything)
    for row in everything:
        found = re.match(r"What is (.+?)\?", content(row))
        assert found
        truth = row["reward_model"]["ground_truth"]
        assert exact(ast.parse(found[1], mode="eval").body) == int(truth), found[1]
        assert (row["reward_model"]["style"], row["ability"]) == ("rule", "arithmetic")
        assert arithmetic.grade(f"The answer is {truth}.<|im_end|>", truth, True) == {"accuracy": 1.0}
    for split, them in splits.items():
        assert {row["extra_info"]["split"] for row in them} == {split}
    assert not {content(row) for row in splits["train"]} & {content(row) for row in splits["heldout"]}
    assert len({content(row) for row in splits["heldout"]}) == 64


def test_the_small_space_repeats_evenly_and_a_large_one_not_at_all() -> None:
    # 0..9, + or -, 0..9: 200 problems, of which 64 are held out
    counts = Counter(content(row) for row in rows(arithmetic.asset(), "train"))
    assert len(counts) == 200 - 64
    assert set(counts.values()) == {2048 // 136, 2048 // 136 + 1}
    counts = Counter(content(row) for row in rows(arithmetic.asset(max_terms=3), "train"))
    assert len(counts) == 2048


def test_seeds() -> None:
    prompts = {
        seed: [content(row) for row in rows(arithmetic.asset(seed=seed, train=100, heldout=0, max_digits=4), "train")]
        for seed in (0, 1)
    }
    assert len(set(prompts[0]) & set(prompts[1])) < 50  # seeds that are one apart share 99 % in reasoning-gym itself


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = arithmetic.asset(train=50)
    monkeypatch.setenv("HARNESS_ASSETS", str(tmp_path / "elsewhere"))
    second = arithmetic.asset(train=50)
    assert first != second
    for split in ("train", "heldout"):
        assert (first / f"{split}.parquet").read_bytes() == (second / f"{split}.parquet").read_bytes()


def test_no_held_out_rows_keep_the_columns() -> None:
    folder = arithmetic.asset(train=5, heldout=0)
    tables = [pq.read_table(folder / f"{split}.parquet") for split in ("train", "heldout")]
    assert tables[0].schema == tables[1].schema
    assert [table.num_rows for table in tables] == [5, 0]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="has 200 problems"):
        arithmetic.asset(heldout=200)
    with pytest.raises(ValueError, match="one of chain_sum, basic_arithmetic"):
        arithmetic.asset("gsm8k")
    with pytest.raises(ValueError, match="at least 1"):
        arithmetic.asset(train=0)
    with pytest.raises(TypeError):
        arithmetic.asset(digits=3)


def test_a_wrong_answer_of_the_generator_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = [("7 / 4", "28"), ("5 / 0", "0"), ("7 / 7", "7"), ("6 / 3", "2"), ("2 - 9", "-7")]
    source = [{"metadata": {"expression": expression}, "answer": answer} for expression, answer in stated]
    monkeypatch.setattr("reasoning_gym.create_dataset", lambda *_, **__: source)
    stream = arithmetic.problems("basic_arithmetic", 0, {})
    assert [next(stream), next(stream)] == [("6 / 3", "2"), ("2 - 9", "-7")]


def test_distinct_gives_up_on_an_exhausted_stream() -> None:
    assert arithmetic.distinct(chain([("1", "1"), ("2", "2")], repeat(("1", "1"))), 3) == [("1", "1"), ("2", "2")]


RIGHT = [
    ("7", "7"),
    ("The answer is 7.<|im_end|>", "7"),
    ("3 + 4 = 7<|im_end|>", "7"),
    ("3 + 4 = 8, no: 7", "7"),
    ("**7**", "7"),
    (r"\boxed{7}", "7"),
    (r"\boxed{-5}", "-5"),
    ("$-5$", "-5"),
    ("3-8=-5", "-5"),
    ("it is \u22125", "-5"),  # a typographic minus
    ("7.0", "7"),
    ("007", "7"),
    ("-0", "0"),
    ("so 9-2", "2"),  # a difference, not a negative number
    ("f(x)-2", "2"),
    ("sum: 1,234<|im_end|>", "1234"),
    ("-12,345,678.00", "-12345678"),
    ("3, 4,7", "7"),
    ("1,2345", "2345"),  # not groups of three: 1 and 2345
    ("answer\n\n\n7 apples", "7"),
    ("x7", "7"),
    ("- 5", "5"),
]
WRONG = [
    ("", "7"),
    ("<|im_end|>", "7"),
    ("seven", "7"),
    ("7 or 8", "7"),
    ("The answer is 7 because 3 < 4", "7"),  # the last number is 4
    ("-7", "7"),
    ("7", "-7"),
    ("7.5", "7"),
    ("17", "7"),
    ("77", "7"),
    ("- 5", "-5"),
    ("7e2", "7"),
    ("\u0667", "7"),  # an Arabic digit
    ("\u00b2", "2"),  # superscript
    ("NaN inf Infinity", "7"),
]


@pytest.mark.parametrize(("response", "truth"), RIGHT)
def test_right(response: str, truth: str) -> None:
    assert arithmetic.grade(response, truth, True) == {"accuracy": 1.0}
    assert arithmetic.grade(response, truth, False) == {"accuracy": 0.0}  # cut off


@pytest.mark.parametrize(("response", "truth"), WRONG)
def test_wrong(response: str, truth: str) -> None:
    assert arithmetic.grade(response, truth, True) == {"accuracy": 0.0}


HOSTILE = [
    "9" * 10**5,  # int() refuses 4,300 digits
    "-" * 10**5,
    "-1" * 10**5,
    "1" + ",111" * 10**5 + "1",
    ",1" * 10**5,
    "1." * 10**5,
    "0." + "0" * 10**5,
    "\x00\ud800\U0010ffff<|im_start|>" * 10**4,
    "(" * 10**5 + "[{.",
]


def python(script: str, stdin: str = "") -> str:
    return subprocess.run(
        [sys.executable, "-c", script], input=stdin, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_hostile_strings_are_graded_and_do_not_hang() -> None:
    script = """
import json, sys
from harness.tasks.arithmetic import grade
texts = json.load(sys.stdin)
print([grade(text, "7", True)["accuracy"] + grade("7", text, True)["accuracy"] for text in texts])
"""
    # in a process that can be killed; anything quadratic would take minutes
    assert python(script, json.dumps(HOSTILE)) == str([0.0] * len(HOSTILE))


def test_grading_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'reasoning_gym', 'pyarrow', 'pandas', 'numpy'}"
    assert python(f"import sys, harness.tasks.arithmetic; print({heavy} & set(sys.modules))") == "set()"


def test_the_answer_has_one_spelling() -> None:
    assert {arithmetic.answer(text, True) for text in ("it is 07", "7.0", "so 7")} == {"7"}
    assert [arithmetic.answer("1,200", True), arithmetic.answer("12", False), arithmetic.answer("none", True)] == [
        "1200", "", "",
    ]  # fmt: skip
