"""The benchmarks of mini_dense: held out, in the same format, and as far out of order as their names say."""

import re
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from harness.evaluate.benchmark import load_benchmark
from harness.tasks.mini import benchmarks
from harness.tasks.mini import task as mini
from harness.tasks.mini.asset import asset as of_variant
from harness.tasks.registry import asset_path


def by_force(letters: str) -> int:
    """The least number of letters to take away until the rest rises."""
    return next(
        count
        for count in range(len(letters))
        if any("".join(sorted(kept)) == "".join(kept) for kept in combinations(letters, len(letters) - count))
    )


@pytest.mark.parametrize("letters", ["abc", "bac", "cab", "cba", "bdaechgf", "hgfedcba", "a"])
def test_out_of_order_is_what_must_be_moved(letters: str) -> None:
    assert benchmarks.out_of_order([(letter, 0) for letter in letters]) == by_force(letters)


@pytest.mark.parametrize("count", range(5))
def test_moving_changes_the_order_alone(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(50):
        items = mini.draw_items(8, 8, rng)
        moved = benchmarks.move(items, count, rng)
        assert sorted(moved) == list(items)
        assert by_force("".join(letter for letter, _ in moved)) == count


@pytest.mark.parametrize("count", benchmarks.MOVED)
def test_a_benchmark_is_what_its_name_says(count: int) -> None:
    benchmark = load_benchmark(f"mini_moved_{count}")
    frame = pd.read_parquet(asset_path("file", benchmark.file, 3))  # one for the base models of all seeds
    assert len(frame) == 64
    texts = frame["prompt"].map(lambda messages: messages[0]["content"])
    assert texts.is_unique
    assert frame["extra_info"].map(lambda extra: extra["index"]).is_unique
    for text, truth in zip(texts, frame["reward_model"], strict=True):
        assert re.fullmatch(r"(?: [a-j][0-6]){8} =", text)
        letters = "".join(re.findall(r"[a-j]", text))
        assert len(set(letters)) == 8
        assert by_force(letters) == count
        assert int(truth["ground_truth"]) == sum(map(int, re.findall(r"\d", text))) % 7
    known = pd.concat(pd.read_parquet(of_variant("mini_dense") / f"{split}.parquet") for split in ("train", "heldout"))
    assert not set(texts) & set(known["prompt"].map(lambda messages: messages[0]["content"]))


@pytest.mark.parametrize("count", benchmarks.SHOWN)
def test_a_benchmark_in_pictures_is_what_its_name_says(count: int) -> None:
    """What a picture shows is in ``question``; tests of ``mini_images`` read it back from the pixels."""
    benchmark = load_benchmark(f"mini_shown_{count}")
    frame = pd.read_parquet(asset_path("file", benchmark.file, 3))
    assert len(frame) == 64
    assert frame["extra_info"].map(lambda extra: extra["index"]).is_unique
    assert frame["images"].map(lambda images: images[0]["bytes"]).is_unique
    for extra, truth in zip(frame["extra_info"], frame["reward_model"], strict=True):
        letters = "".join(re.findall(r"[a-j]", extra["question"]))
        assert len(set(letters)) == 8
        assert by_force(letters) == count
        assert int(truth["ground_truth"]) == sum(map(int, re.findall(r"\d", extra["question"]))) % 7
    folder = asset_path("file", "asset:mini_images", 0)
    known = pd.concat(
        pd.read_parquet(f"{folder}/{mixed}{split}.parquet", columns=["extra_info"])
        for split in ("train", "heldout")
        for mixed in ("", "mixed_")
    )
    assert len(known) > 4000
    asked, trained = ({extra["question"] for extra in rows["extra_info"]} for rows in (frame, known))
    assert not asked & trained


def test_benchmarks_in_words_and_in_pictures_ask_the_same_first_sums() -> None:
    words = pd.read_parquet(asset_path("file", "asset:mini_benchmarks/moved_2.parquet", 0))
    shown = pd.read_parquet(asset_path("file", "asset:mini_shown/shown_2.parquet", 0))
    asked = [messages[0]["content"].strip() for messages in words["prompt"]]
    assert asked == [extra["question"] for extra in shown["extra_info"]]
