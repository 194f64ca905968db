"""Small base models of the tasks that are built here: one token a word, few layers, supervised training."""

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch
    from transformers import PreTrainedModel, Qwen2Tokenizer

PAD, EOS = 0, 1  # ids: in every list of tokens padding comes first, then the end of a response
ENDS: dict[str, Any] = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
IGNORED = -100  # cross_entropy's label of a position without loss
Example = tuple[Sequence[str], Sequence[str]]  # the words of a prompt and of its response, EOS included


@dataclass(frozen=True)
class Shape:
    """The numbers of a model: a Qwen2, or with ``experts`` a Qwen3-MoE, whose every layer routes each token."""

    vocabulary: int
    layers: int = 2
    width: int = 64
    heads: int = 4
    mlp_width: int = 128  # of each expert, if there are any
    rope_theta: float = 10000.0
    positions: int = 128
    initializer_range: float = 0.1  # 0.02, made for wide models, learns too slowly at this width
    experts: int = 0
    experts_per_token: int = 0


@dataclass(frozen=True)
class Schedule:
    """The supervised training: AdamW with a linear warm-up, then a cosine."""

    steps: int = 1000
    batch: int = 32  # responses a step
    learning_rate: float = 4e-3
    final_learning_rate: float = 0.05  # of learning_rate, where the cosine ends
    warmup_steps: int = 50
    weight_decay: float = 0.01
    gradient_clip: float = 1.0


def row(source: str, split: str, index: int, prompt: str, answer: int) -> dict[str, Any]:
    """One row in verl's columns; ``index`` is unique over all splits of a task."""
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": str(answer)},
        "extra_info": {"index": index, "split": split},
    }


def make_tokenizer(tokens: Sequence[str]) -> "Qwen2Tokenizer":
    """One token a word, and a chat template that renders the content of a message and nothing else.

    transformers 5 rebuilds the tokenizer of any qwen2 folder as a byte-level BPE with Qwen's own splitting, from
    vocabulary, merges and added tokens. Added tokens are found before that splitting, the longest first: so all are.
    """
    from tokenizers import AddedToken
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[],
        eos_token=tokens[EOS],
        pad_token=tokens[PAD],
        unk_token=tokens[PAD],
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
    special = (tokens[PAD], tokens[EOS])
    added = [AddedToken(token, normalized=False) for token in tokens if token not in special]
    tokenizer.add_tokens(added)  # pyright: ignore[reportArgumentType]  (list is invariant, the method only reads it)
    return tokenizer


def make_model(shape: Shape, seed: int) -> "PreTrainedModel":
    """The untrained model; its weights are a function of the arguments alone, torch's own generator stays as it was."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    common = {**text_fields(shape), "dtype": "float32"}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if shape.experts:
            routed = {
                "head_dim": shape.width // shape.heads,
                "moe_intermediate_size": shape.mlp_width,
                "num_experts": shape.experts,
                "num_experts_per_tok": shape.experts_per_token,
                "norm_topk_prob": True,
            }
            model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**common, **routed))
        else:
            model = Qwen2ForCausalLM(Qwen2Config(**common))
    model.generation_config = GenerationConfig(**ENDS)
    return model


def text_fields(shape: Shape) -> dict[str, Any]:
    """What the configuration of any language model in this shape says, in transformers' words."""
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.positions,
        "initializer_range": shape.initializer_range,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "tie_word_embeddings": True,
        **ENDS,
    }


def train(
    model: "PreTrainedModel",
    schedule: Schedule,
    tokens: Sequence[str],
    draw: "Callable[[int, np.random.Generator], Sequence[Any]]",
    rng: "np.random.Generator",
    beside: "Callable[[Sequence[Any], torch.Tensor], dict[str, torch.Tensor]] | None" = None,
) -> "PreTrainedModel":
    """Supervised training on the fresh examples ``draw(step, rng)``; the loss is a mean over the responses' tokens.

    An example unpacks into an ``Example``. beside: what the model reads beside the token ids (batch, longest) of a
    step's examples, such as pixels.
    """
    import torch
    from torch.nn.functional import cross_entropy

    ids = {token.strip(): i for i, token in enumerate(tokens)}
    with _one_thread():
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(schedule, step))
        for step in range(schedule.steps):
            examples = draw(step, rng)
            inputs, labels = _batch(examples, ids)
            more = beside(examples, inputs) if beside else {}
            logits = model(input_ids=inputs, use_cache=False, **more).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.gradient_clip)
            optimizer.step()
            rates.step()
    return model.eval()


def learning_rate_factor(schedule: Schedule, step: int) -> float:
    """The learning rate of a step over its peak: linear warm-up, then a cosine down to ``final_learning_rate``."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    return schedule.final_learning_rate + (1 - schedule.final_learning_rate) * (1 + math.cos(math.pi * progress)) / 2


def _batch(examples: Sequence[Example], ids: dict[str, int]) -> "tuple[torch.Tensor, torch.Tensor]":
    """Token ids and labels, both [batch, longest], padded on the right; labels only where a response is."""
    import torch

    rows = [(len(question), [ids[word] for word in (*question, *response)]) for question, response in examples]
    longest = max(len(row) for _, row in rows)
    tokens = torch.full((len(rows), longest), PAD)
    labels = torch.full((len(rows), longest), IGNORED)
    for i, (start, row) in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = tokens[i, start : len(row)]
    return tokens, labels


@contextmanager
def _one_thread() -> "Iterator[None]":
    """More threads would sum in another order, and are slower for matrices this small."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
