"""``mini_images``: the sums of ``mini_dense`` in pictures, and a model that sees; ``mini_images_text`` mixes both.

A prompt is a picture and ``=``: the picture shows what ``mini_dense`` writes (``pictures.py``), the responses are
those of ``mini_dense``. In the mixed data half of the prompts are ``mini_dense``'s, in words behind a blank picture, as
in the paper's mixture of ViRL39K and DAPO-Math-17K. One base model, trained on both kinds, is that of both data sets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.tasks import supervised
from harness.tasks.cache import ensure
from harness.tasks.mini import pictures
from harness.tasks.mini import task as mini
from harness.tasks.mini.asset import TRAINED
from harness.tasks.mini.task import EQUALS, LAST, Items, Phase, Recipe
from harness.tasks.supervised import Schedule, Shape
from harness.tasks.vision import END, IMAGE, MEDIA, START, Tower

if TYPE_CHECKING:
    import torch

NAME = "mini_images"
# One item first: what is read is what is said. Reading is not learnt for long where the first thing to say is a sum.
LEARNING_TO_READ_AND_ADD = (Phase(0.08, 1, 1), Phase(0.22, 2, 2), Phase(0.34, 2, 6))
IN_WORDS = 8 ** len(mini.LETTERS)  # added to the index of a prompt that is asked in words


@dataclass(frozen=True)
class SeeingRecipe(Recipe):
    """Every number that the folder depends on."""

    tower: Tower = field(default_factory=Tower)
    in_words: float = 0.5  # share of the base model's examples, and of the mixed prompts
    drawings: int = 32  # of each letter with each digit, in the base model's training


@dataclass(frozen=True)
class Shown:
    """A supervised example with its picture; unpacks into the words of prompt and response."""

    prompt: Sequence[str]
    response: Sequence[str]
    pixels: "torch.Tensor"  # (patches, numbers of a patch)
    rows: int  # of patches

    def __iter__(self) -> "Iterable[Sequence[str]]":
        return iter((self.prompt, self.response))


def recipe(seed: int) -> SeeingRecipe:
    """The recipe of the base model of ``seed``."""
    shape = Shape(vocabulary=len(tokens()), mlp_width=192, rope_theta=100.0)
    phases = (*LEARNING_TO_READ_AND_ADD, LAST)
    return SeeingRecipe(NAME, seed, phases, shape, Schedule(steps=1300, batch=64), train_prompts=2048)


def asset(seed: int = 0) -> Path:
    """The folder with ``model/``, ``train.parquet`` and ``heldout.parquet`` of pictures, and the same of the mixture as
    ``mixed_train.parquet`` and ``mixed_heldout.parquet``."""
    wanted = recipe(seed)
    return ensure(NAME, asdict(wanted), partial(write, wanted), TRAINED)


def tokens() -> list[str]:
    """The tokens by id: those of ``mini_dense``, then those around and in place of a picture."""
    return [*mini.vocabulary(96), *MEDIA]


def rows(split: str, shown: Iterable[Items], written: Iterable[Items], seed: int) -> list[dict[str, Any]]:
    """Rows in verl's columns: prompts that a picture shows, then prompts in words behind a blank one."""
    from harness.tasks.hub.images import BLANK, blank

    rng = np.random.default_rng(seed)
    found = []
    for items in shown:
        cards = [pictures.card(letter, digit, rng) for letter, digit in items]
        image = {"bytes": pictures.png(pictures.strip(cards)), "path": f"{mini.index_of(items)}.png"}
        found.append((items, NAME, 0, f" {EQUALS}", image))
    for items in written:
        found.append((items, "mini_dense", IN_WORDS, mini.prompt(items), {"bytes": blank(), "path": BLANK}))
    made = []
    for items, source, offset, text, image in found:
        index = mini.index_of(items) + offset
        row = supervised.row(source, split, index, f"<image>{text}", mini.answer_of(items))
        row["extra_info"] |= {"question": mini.prompt(items).strip(), "row_id": str(index)}
        made.append({**row, "images": [image]})
    return made


class Drawings:
    """Pictures of the base model's training as the model reads them: cards that were drawn and processed once.

    What the processor makes of a strip is what it makes of its cards, one after the other, because a card is a visual
    token and none is resized.
    """

    def __init__(self, recipe: SeeingRecipe, rng: np.random.Generator):
        from PIL import Image

        from harness.tasks.hub.images import BLANK_SIDE
        from harness.tasks.vision import make_image_processor

        processor = make_image_processor()

        def read(image: Image.Image) -> "torch.Tensor":
            return processor([image], return_tensors="pt")["pixel_values"]

        self.recipe = recipe
        self.cards = {}
        for letter in mini.LETTERS:
            for digit in range(mini.MODULUS):
                drawn = [pictures.card(letter, digit, rng) for _ in range(recipe.drawings)]
                self.cards[f"{letter}{digit}"] = read(pictures.strip(drawn)).unflatten(0, (recipe.drawings, -1))
        self.blank = read(Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), "white"))

    def show(self, example: supervised.Example, rng: np.random.Generator) -> Shown:
        """An example of ``mini_dense`` with its items in a picture, or with a blank one."""
        import torch

        (*items, equals), response = example
        if rng.random() < self.recipe.in_words:
            return Shown([START, *[IMAGE] * 4, END, *items, equals], response, self.blank, 4)
        drawn = [self.cards[item][rng.integers(self.recipe.drawings)] for item in items]
        return Shown([START, *[IMAGE] * len(items), END, equals], response, torch.cat(drawn), 2)


def pixels(examples: Sequence[Shown], ids: "torch.Tensor") -> "dict[str, torch.Tensor]":
    """What the model reads of the pictures; ids: (batch, longest)."""
    import torch

    grids = [[1, one.rows, len(one.pixels) // one.rows] for one in examples]
    return {
        "pixel_values": torch.cat([one.pixels for one in examples]),
        "image_grid_thw": torch.tensor(grids),
        "mm_token_type_ids": (ids == tokens().index(IMAGE)).int(),
    }


def write(recipe: SeeingRecipe, folder: Path) -> None:
    """Write what ``asset`` names into ``folder``; the same recipe on the same machine gives the same bytes."""
    import pandas as pd
    from transformers.utils import logging

    from harness.tasks import vision
    from harness.tasks.mini.base_model import examples, split_prompts

    logging.disable_progress_bar()  # the caller says what is built
    splits = split_prompts(recipe)
    for number, split in enumerate(("train", "heldout")):
        prompts = splits[split]
        written = round(len(prompts) * recipe.in_words)
        mixed = prompts[written:], prompts[:written]
        for name, parts in (split, (prompts, ())), (f"mixed_{split}", mixed):
            made = rows(split, *parts, seed=recipe.data_seed + number)
            pd.DataFrame(made).to_parquet(folder / f"{name}.parquet", index=False)
    vision.save_processor(tokens(), folder / "model")
    hidden = {items for split, prompts in splits.items() if split != "train" for items in prompts}
    rng = np.random.default_rng(recipe.seed)
    drawings = Drawings(recipe, rng)
    model = vision.make_model(recipe.shape, recipe.tower, tokens(), recipe.seed)

    def draw(step: int, rng: np.random.Generator) -> list[Shown]:
        return [drawings.show(example, rng) for example in examples(recipe, step, hidden, rng)]

    supervised.train(model, recipe.schedule, tokens(), draw, rng, pixels)
    model.save_pretrained(folder / "model")
