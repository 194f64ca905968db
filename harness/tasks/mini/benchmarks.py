"""Benchmarks of ``mini_dense`` and ``mini_images`` from easy to hard: the same sums, ever more digits out of order.

Every prompt of the base models' training, of RL and of validation names its letters in alphabetical order. A prompt of
``moved_<k>`` has eight digits of which ``k`` stand elsewhere: so many would have to be moved, and no fewer, until the
letters were in order. What is asked, how it is answered and graded stay the same; a model has to find the next
digit where it never looked for it. The rule names no loss, and no length. In pictures (``shown_<k>``) the cards stand
in that order.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.tasks import supervised
from harness.tasks.cache import ensure
from harness.tasks.mini import images
from harness.tasks.mini import task as mini
from harness.tasks.mini.asset import asset as of_variant
from harness.tasks.mini.task import Items, Recipe

# Digits out of order: a benchmark each, as many as the paper's tables of text models and of images have.
MOVED, SHOWN = (0, 1, 2, 3), (0, 1, 2, 3, 5, 6)
DIGITS = 8
SEED_OF_PICTURES = 100  # added to the data's: other drawings than those of training and validation
VERSION = 1  # raise it whenever a build would write something else


def asset() -> Path:
    """The folder with ``moved_<k>.parquet``: held-out sums of all variants of ``mini_dense`` and all of their seeds.

    Those in order are ``items_8`` of the base models, which were trained without them. The others need no holding out:
    nothing that is out of order is ever trained on.
    """
    recipe = mini.recipe("mini_dense", 0)
    ordered = of_variant("mini_dense", 0) / f"items_{DIGITS}.parquet"

    def build(folder: Path) -> None:
        for count, prompts in moved_prompts(recipe, MOVED[1:]):
            _write(
                folder / f"moved_{count}.parquet",
                [
                    supervised.row(
                        "mini_dense", f"moved_{count}", mini.index_of(items), mini.prompt(items), mini.answer_of(items)
                    )
                    for items in prompts
                ],
            )
        (folder / "moved_0.parquet").write_bytes(ordered.read_bytes())

    source = ordered.parent.name
    content = {"source": source, "moved": MOVED, "digits": DIGITS, "prompts": recipe.benchmark_prompts}
    return ensure("mini-benchmarks", {**content, "version": VERSION}, build)


def shown_asset() -> Path:
    """The folder with ``shown_<k>.parquet``: the sums of ``moved_<k>`` in pictures, held out of ``mini_images`` too."""
    recipe = images.recipe(0)

    def build(folder: Path) -> None:
        from harness.tasks.mini.base_model import split_prompts

        ordered = split_prompts(recipe)[f"items_{DIGITS}"]
        for count, prompts in ((0, ordered), *moved_prompts(recipe, SHOWN[1:])):
            rows = images.rows(f"shown_{count}", prompts, (), seed=recipe.data_seed + SEED_OF_PICTURES + count)
            _write(folder / f"shown_{count}.parquet", rows)

    content = {"shown": SHOWN, "digits": DIGITS, "prompts": recipe.benchmark_prompts, "seed": recipe.data_seed}
    return ensure("mini-shown-benchmarks", {**content, "version": VERSION}, build)


def moved_prompts(recipe: Recipe, counts: Sequence[int]) -> Iterator[tuple[int, list[Items]]]:
    """``benchmark_prompts`` prompts for each number of digits out of order, 1 and the numbers after it."""
    rng = np.random.default_rng(recipe.data_seed)
    for count in counts:
        yield count, draw_moved(count, recipe.benchmark_prompts, rng)


def draw_moved(count: int, number: int, rng: np.random.Generator) -> list[Items]:
    """``number`` prompts of ``DIGITS`` digits, ``count`` of them out of order; no two have the same digits."""
    found: dict[int, Items] = {}
    while len(found) < number:
        items = mini.draw_items(DIGITS, DIGITS, rng)
        found.setdefault(mini.index_of(items), move(items, count, rng))  # a number for a set of digits, in any order
    return list(found.values())


def move(items: Items, count: int, rng: np.random.Generator) -> Items:
    """``count`` digits taken out of their alphabetical order and put elsewhere, at random, until that many are."""
    while True:
        moved = list(items)
        for _ in range(count):
            item = moved.pop(int(rng.integers(len(moved))))
            moved.insert(int(rng.integers(len(moved) + 1)), item)
        if out_of_order(moved) == count:
            return tuple(moved)


def out_of_order(items: "Items | list[tuple[str, int]]") -> int:
    """The least number of digits that must be moved to put the letters in order: all but a longest rising sequence."""
    ends: list[str] = []  # of rising sequences, by their length the one that ends in the earliest letter
    for letter, _ in items:
        place = bisect_left(ends, letter)
        ends[place : place + 1] = [letter]
    return len(items) - len(ends)


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    pd.DataFrame(rows).to_parquet(file, index=False)
