"""mini_images: what its pictures show, read from their pixels, and that data, base model and verl read them alike."""

import dataclasses
import re
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from harness.tasks.cache import nothing_built
from harness.tasks.hub.contamination import overlap
from harness.tasks.hub.prepare import asked_in
from harness.tasks.mini import base_model, images, pictures
from harness.tasks.mini import task as mini
from harness.tasks.mini.measure import sample, summary

FILES = {"train": 2048, "heldout": 128, "mixed_train": 2048, "mixed_heldout": 128}
CARD = 28


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written after a few steps of training."""
    recipe = images.recipe(0)
    schedule = dataclasses.replace(recipe.schedule, steps=3, warmup_steps=2, batch=4)
    folder = tmp_path_factory.mktemp("images")
    images.write(dataclasses.replace(recipe, schedule=schedule, drawings=2), folder)
    return folder


@pytest.fixture(scope="module")
def frames(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in FILES}


def glyph(half: np.ndarray) -> np.ndarray:
    """The dots of the one sign on half a card, cut out by its ink; no size or place of the drawing is used but the
    size of a dot."""
    paper = half[0, 0]
    ink = (half != paper).any(-1)
    down, across = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return ink[down[0] : down[-1] + 1, across[0] : across[-1] + 1][::2, ::2]


def trimmed(drawn: str) -> np.ndarray:
    dots = np.array([[dot == "#" for dot in row] for row in drawn.split()])
    return dots[:, np.flatnonzero(dots.any(0))[0] : np.flatnonzero(dots.any(0))[-1] + 1]


def read(image: Image.Image) -> list[str]:
    """The signs of a strip, two a card."""
    pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] == CARD
    assert pixels.shape[1] % CARD == 0
    shapes = {sign: trimmed(drawn) for sign, drawn in pictures.GLYPHS.items()}
    signs = []
    for left in range(0, pixels.shape[1], CARD // 2):
        seen = glyph(pixels[:, left : left + CARD // 2])
        (found,) = [sign for sign, dots in shapes.items() if dots.shape == seen.shape and (dots == seen).all()]
        signs.append(found)
    return signs


def test_pictures_show_what_their_answer_adds_up(frames: dict[str, pd.DataFrame]) -> None:
    for name, count in {"train": 200, "heldout": 128, "mixed_heldout": 64}.items():
        for _, row in frames[name].head(count).iterrows():
            (message,), (image,) = row["prompt"], row["images"]
            assert message["content"] == "<image> ="
            signs = read(Image.open(BytesIO(image["bytes"])))
            letters, digits = signs[::2], [int(digit) for digit in signs[1::2]]
            assert letters == sorted(set(letters))
            assert 4 <= len(letters) <= 10
            assert row["reward_model"]["ground_truth"] == str(sum(digits) % 7)
            assert row["extra_info"]["question"] == " ".join(map("{}{}".format, letters, digits)) + " ="
            assert row["data_source"] == "mini_images"


def test_half_of_the_mixed_prompts_are_in_words_behind_a_blank_picture(frames: dict[str, pd.DataFrame]) -> None:
    for name in ("mixed_train", "mixed_heldout"):
        frame = frames[name]
        written = frame[frame["data_source"] == "mini_dense"]
        assert len(written) == len(frame) // 2
        for _, row in written.head(100).iterrows():
            (message,), (image,) = row["prompt"], row["images"]
            assert re.fullmatch(r"<image>(?: [a-j][0-6]){4,10} =", message["content"])
            digits = [int(digit) for digit in re.findall(r"\d", message["content"])]
            assert row["reward_model"]["ground_truth"] == str(sum(digits) % 7)
            blank = np.asarray(Image.open(BytesIO(image["bytes"])))
            assert blank.shape == (56, 56, 3)
            assert (blank == 255).all()


def test_no_question_is_asked_twice_or_in_training_and_validation(folder: Path) -> None:
    """By the check of the hub's data sets; in the mixture a sum in words is not one that a picture asks elsewhere."""
    asked = {name: asked_in(folder / f"{name}.parquet") for name in FILES}
    for name, size in FILES.items():
        assert len(asked[name]) == size
        assert len(set(asked[name].values())) == size
    for train in ("train", "mixed_train"):
        for heldout in ("heldout", "mixed_heldout"):
            assert overlap(asked[train], asked[heldout])["same"] == 0
    assert overlap(asked["mixed_train"], asked["train"])["same"] == FILES["train"]  # the same sums, asked otherwise


def test_signs_are_told_apart_and_drawn_anew() -> None:
    for one, other in combinations(pictures.GLYPHS, 2):
        assert (pictures.dots(one) != pictures.dots(other)).sum() >= 3, (one, other)
    rng = np.random.default_rng(0)
    drawn = [pictures.card("b", 3, rng) for _ in range(200)]
    assert len({card.tobytes() for card in drawn}) == len(drawn)
    tops = {int(np.flatnonzero((card[:, :14] != card[0, 0]).any((1, 2)))[0]) for card in drawn}
    assert tops == {6, 7, 8}


def test_the_base_model_reads_in_training_what_the_processor_makes_of_a_prompt(folder: Path) -> None:
    """Ids, pixels and grid of a supervised example are those of verl's reading of the same cards."""
    from verl.utils.tokenizer import hf_processor, hf_tokenizer

    from harness.plugin.prompts import Reader
    from harness.tasks.vision import register_processor

    register_processor()
    model = str(folder / "model")
    processor = hf_processor(model)
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    reader = Reader(hf_tokenizer(model), processor, "qwen2_5_vl", {})

    recipe = dataclasses.replace(images.recipe(0), drawings=1)
    drawings = images.Drawings(recipe, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    cards = {f"{x}{y}": pictures.card(x, y, rng) for x in mini.LETTERS for y in range(7)}  # drawn in the same order
    names = images.tokens()
    ids = {token.strip(): i for i, token in enumerate(names)}
    kinds = set()
    for seed in range(8):
        items = mini.draw_items(4, 10, np.random.default_rng(seed))
        shown = drawings.show((mini.prompt(items).split(), ["#"]), np.random.default_rng(seed))
        in_words = shown.prompt[-2] != "<|vision_end|>"
        kinds.add(in_words)
        strip = pictures.strip([cards[f"{x}{y}"] for x, y in items])
        image = Image.new("RGB", (56, 56), "white") if in_words else strip
        text = mini.prompt(items) if in_words else " ="
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        read_by_verl = reader.read([{"role": "user", "content": content}])
        assert read_by_verl.ids == [ids[word] for word in shown.prompt]
        batch = images.pixels([shown], torch.tensor([read_by_verl.ids]))
        assert read_by_verl.pictures is not None
        assert torch.equal(read_by_verl.pictures["pixel_values"], batch["pixel_values"])
        assert torch.equal(read_by_verl.pictures["image_grid_thw"], batch["image_grid_thw"])
    assert kinds == {True, False}


def test_half_of_the_base_models_examples_are_in_pictures() -> None:
    recipe = dataclasses.replace(images.recipe(0), drawings=1)
    rng = np.random.default_rng(0)
    drawings = images.Drawings(recipe, rng)
    examples = base_model.examples(recipe, 1000, set(), rng)
    shown = [drawings.show(example, rng) for example in [*examples] * 8]
    written = [one for one in shown if one.prompt[-2] != "<|vision_end|>"]
    assert 0.4 < len(written) / len(shown) < 0.6
    for one in shown:
        assert one.prompt.count("<|image_pad|>") == len(one.pixels) // 4
        assert one.prompt[-1] == "="


def test_the_same_recipe_gives_the_same_pictures(folder: Path) -> None:
    splits = base_model.split_prompts(images.recipe(0))
    again = images.rows("heldout", splits["heldout"], (), seed=images.recipe(0).data_seed + 1)
    stored = pd.read_parquet(folder / "heldout.parquet")
    assert [row["images"][0]["bytes"] for row in again] == [image["bytes"] for (image,) in stored["images"]]


def test_the_base_model_that_comes_with_the_project_obeys_the_rules_of_its_choice() -> None:
    """In both forms of a prompt; the first rule with room for 1,024 and 512 responses in place of 4,096."""
    with nothing_built():
        folder = images.asset()
    pictured = sample(folder, samples=8)
    mixed = sample(folder, "mixed_heldout", samples=8)
    for frame in (pictured, mixed[mixed["source"] == "mini_dense"]):
        found = summary(frame)
        assert 0.22 < found["accuracy"] < 0.6
        assert found["distinct_lengths"] >= 20
        assert found["sd_length"] > 0.3 * found["mean_length"]
        assert found["right_longer"] > found["right_shorter"] + 0.1
        assert 3 * found["mean_length"] < 96
