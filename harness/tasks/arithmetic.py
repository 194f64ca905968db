"""Arithmetic problems from reasoning-gym: two parquet files in verl's schema, and their grading.

The default, sums and differences of two digits, is what SmolLM2-135M can just about do; more terms or more digits
bring its accuracy to 0. Such a space is small (200 problems), so training prompts repeat; see ``build``.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from importlib import metadata
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from harness.tasks.cache import ensure

# SmolLM2-135M untrained at temperature 1, chain_sum by the defaults, 472 samples of at most 96 tokens: 18 % right,
# mean 48 tokens (right 30, wrong 52; median 40), 20 % cut off. At most 48 tokens: 14 % right, mean 34, 42 % cut off.
# So most groups of 8 differ in reward, and length has room both ways. Terms of two digits, or three terms: 0 to 4 %.
PROMPT = 'What is {}? Explain briefly, then finish with "The answer is" and the number.'
VERSION = 1  # raise it whenever build() would write something else for the same arguments
TWO_DIGITS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
DEFAULTS: dict[str, dict[str, Any]] = {
    "chain_sum": TWO_DIGITS,
    "basic_arithmetic": TWO_DIGITS | {"allow_parentheses": False},
}
PATIENCE = 10_000  # draws without a new problem after which the space counts as exhausted
SEED_STRIDE = 2**32  # reasoning-gym seeds problem i with seed + i: neighbouring seeds would share their problems

# A minus is a sign only where it touches the number and nothing that could be subtracted from stands before it.
NUMBER = re.compile(r"(?:(?<![\w.)\]}])[-\u2212])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?", re.ASCII)


def asset(dataset: str = "chain_sum", seed: int = 0, train: int = 2048, heldout: int = 64, **options: Any) -> Path:
    """The folder with ``train.parquet`` and ``heldout.parquet``, of ``train`` and ``heldout`` rows; built if missing.

    ``dataset`` is chain_sum (+ -) or basic_arithmetic (+ - * /); ``options`` are fields of reasoning-gym's config of
    that data set (``max_terms``, ``max_digits`` ...), over ``DEFAULTS``. Raises ValueError for another data set, for
    fewer than one training row, and if no more than ``heldout`` distinct problems exist; for bad options
    reasoning-gym's own TypeError or AssertionError.
    """
    if dataset not in DEFAULTS:
        raise ValueError(f"dataset must be one of {', '.join(DEFAULTS)}, not {dataset!r}")
    if train < 1 or heldout < 0:
        raise ValueError(f"train must be at least 1 and heldout at least 0, not {train} and {heldout}")
    sizes = {"dataset": dataset, "seed": seed, "train": train, "heldout": heldout}
    options = DEFAULTS[dataset] | options
    recipe = sizes | {
        "options": options,
        "prompt": PROMPT,
        "reasoning_gym": metadata.version("reasoning_gym"),
        "version": VERSION,
    }
    return ensure(f"arithmetic-{dataset}", recipe, partial(build, **sizes, options=options))


def build(folder: Path, dataset: str, seed: int, train: int, heldout: int, options: dict[str, Any]) -> None:
    """Draw distinct problems; the first ``heldout`` are held out, all others are for training only.

    Where the space has fewer than ``train`` + ``heldout`` problems, the training problems repeat in rounds, so that
    each occurs equally often, give or take one. ``extra_info.index`` is unique over both files all the same.
    "3 + 4" and "4 + 3" are two problems.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = distinct(problems(dataset, seed, options), train + heldout)
    if len(found) <= heldout:
        raise ValueError(f"{dataset} with {options} has {len(found)} problems: none is left beside heldout={heldout}")
    splits = {"train": list(islice(cycle(found[heldout:]), train)), "heldout": found[:heldout]}
    index = 0
    for split, chosen in splits.items():
        rows = []
        for expression, answer in chosen:
            rows.append(
                {
                    "data_source": f"reasoning_gym/{dataset}",
                    "prompt": [{"role": "user", "content": PROMPT.format(expression)}],
                    "ability": "arithmetic",
                    "reward_model": {"style": "rule", "ground_truth": answer},
                    "extra_info": {"index": index, "split": split},
                }
            )
            index += 1
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), folder / f"{split}.parquet")


def problems(dataset: str, seed: int, options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """An endless stream of (expression, answer), repeats included.

    Problems whose stated answer is not the expression's exact value are left out: basic_arithmetic without
    parentheses may print a division where it computed a product (reasoning-gym 0.1.25: "7 / 4", answer 28).
    """
    import reasoning_gym

    source = reasoning_gym.create_dataset(dataset, seed=seed * SEED_STRIDE, size=1, **options)
    index = 0
    while True:
        problem = source[index]  # a problem is a function of seed + index; size is not a bound
        expression, answer = problem["metadata"]["expression"], problem["answer"]
        if _value(expression) == int(answer):
            yield expression, answer
        index += 1


def distinct(stream: Iterator[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """The first ``most`` different items of an endless stream; fewer if ``PATIENCE`` draws bring nothing new."""
    found: dict[tuple[str, str], None] = {}
    idle = 0
    while len(found) < most and idle < PATIENCE:
        item = next(stream)
        idle = idle + 1 if item in found else 0
        found[item] = None
    return list(found)


def answer(response: str, finished: bool) -> str:
    """The last number of a finished response, in one spelling: 7 for 07 and 7.0; empty without one."""
    number = _last_number(response) if finished else None
    return "" if number is None else f"{number.normalize():f}"


def grade(response: str, ground_truth: str, finished: bool) -> dict[str, float]:
    """The parts of the reward: ``{"accuracy": 1.0}`` if the response is finished and its last number is right, else 0.

    ``response`` is decoded text, special tokens and all; ``finished`` says that its last token is EOS. A response cut
    off by the token limit is wrong whatever it says: its last number is where the text broke off, not an answer.
    The last number: ASCII digits, with commas between groups of three or none, and decimals if any. "-" (or U+2212)
    right before it is its sign, unless a letter, digit, "_", "." or closing bracket stands before that ("7-4" ends in
    4, "=-3" in -3, "- 3" in 3). Equal by value, exactly: 7, 07 and 7.0 are one. Words ("seven") and boxes mean nothing.
    Takes time linear in the text and raises for no string.
    """
    answer = _last_number(response) if finished else None
    return {"accuracy": float(answer is not None and answer == _last_number(ground_truth))}


def _value(expression: str) -> float | None:
    try:
        return eval(expression, {"__builtins__": {}})  # digits, operators and parentheses from our own generator
    except ZeroDivisionError:
        return None


def _last_number(text: str) -> Decimal | None:
    numbers = NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "").replace("\u2212", "-")) if numbers else None


def _schema() -> Any:
    """Stated, not inferred, so that an empty held-out file has the same columns."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "data_source": text,
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct({"index": pa.int64(), "split": text}),
        }
    )
