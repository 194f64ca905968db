"""The base model of ``tiny``: tokenizer, a Qwen2 of 94,720 parameters, its supervised training, and the data files."""

from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, Qwen2Tokenizer
from transformers.utils import logging

from harness.tasks import supervised
from harness.tasks.supervised import Example, Schedule, Shape
from harness.tasks.tiny import task as tiny
from harness.tasks.tiny.task import Recipe

Part = TypeVar("Part", Shape, Schedule)


def build(folder: Path, variant: str, seed: int) -> None:
    """Train the base model of ``variant`` and write everything that a run of the task reads into ``folder``.

    ``model/``: for AutoModelForCausalLM and AutoTokenizer; ``train.parquet`` and ``heldout.parquet``: verl's columns,
    one prompt a row. The same seed on the same machine gives the same bytes. ValueError for an unknown variant.
    """
    write(folder, tiny.recipe(variant, seed))


def write(folder: Path, recipe: Recipe) -> None:
    """As build, for any recipe."""
    logging.disable_progress_bar()  # the caller says what is built
    heldout, train, rest = split_prompts(recipe)
    _frame(recipe.variant, "train", train).to_parquet(folder / "train.parquet", index=False)
    _frame(recipe.variant, "heldout", heldout).to_parquet(folder / "heldout.parquet", index=False)
    make_tokenizer(recipe).save_pretrained(folder / "model")
    # the base model never sees a held-out prompt
    train_base(recipe, np.concatenate([train, rest])).save_pretrained(folder / "model")


def split_prompts(recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The indices of all prompts, shuffled and cut into held-out, training and remaining ones."""
    order = np.random.default_rng(recipe.data_seed).permutation(tiny.PROMPTS)
    heldout, train, rest = np.split(order, np.cumsum([recipe.heldout_prompts, recipe.train_prompts]))
    return heldout, train, rest


def _frame(variant: str, split: str, indices: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame([_row(variant, split, int(index)) for index in indices])


def _row(variant: str, split: str, index: int) -> dict[str, Any]:
    digits = tiny.digits_of(index)
    return supervised.row(variant, split, index, tiny.prompt(digits), sum(digits))


def make_tokenizer(recipe: Recipe) -> Qwen2Tokenizer:
    """The tokenizer of a variant."""
    return supervised.make_tokenizer(tiny.vocabulary(recipe.vocabulary))


def train_base(recipe: Recipe, prompts: np.ndarray) -> PreTrainedModel:
    """Supervised training on fresh responses to random ``prompts`` (indices)."""
    tokens = tiny.vocabulary(recipe.vocabulary)
    schedule = _part(Schedule, recipe)

    def draw(step: int, rng: np.random.Generator) -> list[Example]:
        phase = next(phase for phase in recipe.phases if step < phase.until * recipe.steps)
        chosen = [tiny.digits_of(int(index)) for index in rng.choice(prompts, recipe.batch)]
        return [(tiny.prompt(digits).split(), tiny.sample_response(phase, digits, rng)) for digits in chosen]

    model = supervised.make_model(_part(Shape, recipe), recipe.seed)
    return supervised.train(model, schedule, tokens, draw, np.random.default_rng(recipe.seed))


def _part(kind: type[Part], recipe: Recipe) -> Part:
    """The fields of a Shape or a Schedule, which tiny's recipe keeps in one level."""
    names = {field.name for field in fields(kind)} & {field.name for field in fields(recipe)}  # tiny has no experts
    return kind(**{name: getattr(recipe, name) for name in names})
