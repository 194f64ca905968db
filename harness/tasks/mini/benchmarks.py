"""Benchmarks of ``mini_dense`` from easy to hard: the same sums, with ever more digits out of order.

Every prompt of the base models' training, of RL and of validation names its letters in alphabetical order. A prompt of
``moved_<k>`` has eight digits of which ``k`` stand elsewhere: so many would have to be moved, and no fewer, until the
letters were in order. What is asked, how it is answered and graded stay the same; a model has to find the next
digit where it never looked for it. The rule names no loss, and no length.
"""

from bisect import bisect_left
from pathlib import Path

import numpy as np

from harness.tasks import supervised
from harness.tasks.cache import ensure
from harness.tasks.mini import task as mini
from harness.tasks.mini.asset import asset as of_variant
from harness.tasks.mini.task import Items

MOVED = (0, 1, 2, 3)  # digits out of order: a benchmark each, as many as the paper's table of text models has
DIGITS = 8
VERSION = 1  # raise it whenever a build would write something else


def asset() -> Path:
    """The folder with ``moved_<k>.parquet``: held-out sums of all variants of ``mini_dense`` and all of their seeds.

    Those in order are ``items_8`` of the base models, which were trained without them. The others need no holding out:
    nothing that is out of order is ever trained on.
    """
    recipe = mini.recipe("mini_dense", 0)
    ordered = of_variant("mini_dense", 0) / f"items_{DIGITS}.parquet"

    def build(folder: Path) -> None:
        import pandas as pd

        rng = np.random.default_rng(recipe.data_seed)
        for count in MOVED[1:]:
            prompts = draw_moved(count, recipe.benchmark_prompts, rng)
            rows = [
                supervised.row(
                    "mini_dense", f"moved_{count}", mini.index_of(items), mini.prompt(items), mini.answer_of(items)
                )
                for items in prompts
            ]
            pd.DataFrame(rows).to_parquet(folder / f"moved_{count}.parquet", index=False)
        (folder / "moved_0.parquet").write_bytes(ordered.read_bytes())

    source = ordered.parent.name
    content = {"source": source, "moved": MOVED, "digits": DIGITS, "prompts": recipe.benchmark_prompts}
    return ensure("mini-benchmarks", {**content, "version": VERSION}, build)


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
