"""The base model of ``tiny``: tokenizer, a Qwen2 of 94,720 parameters, its supervised training, and the data files."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import AddedToken
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils import logging

from harness.tasks.tiny import task as tiny
from harness.tasks.tiny.task import Phase, Recipe

IGNORED = -100  # cross_entropy's label of a position without loss


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
    """verl's columns; the index of a prompt is unique over all splits."""
    digits = tiny.digits_of(index)
    return {
        "data_source": variant,
        "prompt": [{"role": "user", "content": tiny.prompt(digits)}],
        "ability": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": str(sum(digits))},
        "extra_info": {"index": index, "split": split},
    }


def make_tokenizer(recipe: Recipe) -> Qwen2Tokenizer:
    """One token a word, and a chat template that renders the content of a message and nothing else.

    transformers 5 rebuilds the tokenizer of any qwen2 folder as a byte-level BPE with Qwen's own splitting, from
    vocabulary, merges and added tokens. Added tokens are found before that splitting, the longest first: so all are.
    """
    tokens = tiny.vocabulary(recipe.vocabulary)
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        eos_token=tiny.EOS,
        pad_token=tiny.PAD,
        unk_token=tiny.PAD,
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
    added = [AddedToken(token, normalized=False) for token in tokens if token not in (tiny.EOS, tiny.PAD)]
    tokenizer.add_tokens(added)  # pyright: ignore[reportArgumentType]  (list is invariant, the method only reads it)
    return tokenizer


def make_model(recipe: Recipe) -> Qwen2ForCausalLM:
    """The untrained model; its weights are a function of the recipe alone, torch's own generator stays as it was."""
    tokens = tiny.vocabulary(recipe.vocabulary)
    ids = {"eos_token_id": tokens.index(tiny.EOS), "pad_token_id": tokens.index(tiny.PAD), "bos_token_id": None}
    config = Qwen2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        initializer_range=recipe.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=True,
        dtype="float32",
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    return model


def train_base(recipe: Recipe, prompts: np.ndarray) -> Qwen2ForCausalLM:
    """Supervised training on fresh responses to random ``prompts`` (indices); the loss is a mean over tokens."""
    rng = np.random.default_rng(recipe.seed)
    ids = {token.strip(): i for i, token in enumerate(tiny.vocabulary(recipe.vocabulary))}
    with _one_thread():
        model = make_model(recipe).train()
        optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(recipe, step))
        for step in range(recipe.steps):
            phase = next(phase for phase in recipe.phases if step < phase.until * recipe.steps)
            tokens, labels = _batch(phase, rng.choice(prompts, recipe.batch), ids, rng)
            logits = model(input_ids=tokens, use_cache=False).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
            optimizer.step()
            schedule.step()
    return model.eval()


def learning_rate_factor(recipe: Recipe, step: int) -> float:
    """The learning rate of a step over its peak: linear warm-up, then a cosine down to ``final_learning_rate``."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    return recipe.final_learning_rate + (1 - recipe.final_learning_rate) * (1 + math.cos(math.pi * progress)) / 2


def _batch(
    phase: Phase, prompts: np.ndarray, ids: dict[str, int], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both [batch, longest], padded on the right; labels only where a response is."""
    rows = []
    for index in prompts:
        digits = tiny.digits_of(int(index))
        question = tiny.prompt(digits).split()
        words = [*question, *tiny.sample_response(phase, digits, rng)]
        rows.append((len(question), [ids[word] for word in words]))
    longest = max(len(row) for _, row in rows)
    tokens = torch.full((len(rows), longest), ids[tiny.PAD])
    labels = torch.full((len(rows), longest), IGNORED)
    for i, (start, row) in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = tokens[i, start : len(row)]
    return tokens, labels


@contextmanager
def _one_thread() -> Iterator[None]:
    """More threads would sum in another order, and are slower for matrices this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
