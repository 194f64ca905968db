"""What a run of ``mini_dense`` reads: training, held-out and benchmark prompts, and the base model of a variant."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from transformers.utils import logging

from harness.tasks import supervised
from harness.tasks.mini import task as mini
from harness.tasks.mini.task import Items, Recipe
from harness.tasks.supervised import Example


def write(folder: Path, recipe: Recipe) -> None:
    """Write ``model/`` and a Parquet file for each of ``split_prompts`` into ``folder``.

    The same recipe on the same machine gives the same bytes.
    """
    logging.disable_progress_bar()  # the caller says what is built
    splits = split_prompts(recipe)
    for split, prompts in splits.items():
        # one data_source for all variants: the prompts are the same
        rows = [
            supervised.row("mini_dense", split, mini.index_of(items), mini.prompt(items), mini.answer_of(items))
            for items in prompts
        ]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet", index=False)
    tokens = mini.vocabulary(recipe.shape.vocabulary)
    supervised.make_tokenizer(tokens).save_pretrained(folder / "model")
    hidden = {items for split, prompts in splits.items() if split != "train" for items in prompts}
    model = supervised.make_model(recipe.shape, recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    supervised.train(model, recipe.schedule, tokens, lambda step, rng: examples(recipe, step, hidden, rng), rng)
    model.save_pretrained(folder / "model")


def split_prompts(recipe: Recipe) -> dict[str, list[Items]]:
    """The prompts of ``train``, ``heldout`` and ``items_<k>`` (one benchmark for each k); none is in two of them."""
    rng = np.random.default_rng(recipe.data_seed)
    wanted = {f"items_{count}": (count, count, recipe.benchmark_prompts) for count in recipe.benchmark_items}
    wanted["heldout"] = (recipe.fewest, recipe.most, recipe.heldout_prompts)
    wanted["train"] = (recipe.fewest, recipe.most, recipe.train_prompts)
    seen: set[Items] = set()
    splits: dict[str, list[Items]] = {}
    for split, (fewest, most, number) in wanted.items():
        splits[split] = []
        while len(splits[split]) < number:
            items = mini.draw_items(fewest, most, rng)
            if items not in seen:
                seen.add(items)
                splits[split].append(items)
    return splits


def examples(recipe: Recipe, step: int, hidden: set[Items], rng: np.random.Generator) -> Sequence[Example]:
    """The supervised examples of a step: fresh prompts, none of them ``hidden``."""
    phase = next(phase for phase in recipe.phases if step < phase.until * recipe.schedule.steps)
    found: list[Example] = []
    while len(found) < recipe.schedule.batch:
        items = mini.draw_items(phase.fewest, phase.most, rng)
        if items not in hidden:
            found.append((mini.prompt(items).split(), mini.sample_response(phase, items, rng)))
    return found
