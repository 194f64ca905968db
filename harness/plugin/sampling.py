"""Sampling from a causal language model, one uniform number per token: pure torch, no verl, no Ray.

A response is a function of (weights, prompt, its own uniforms), whatever else is in the batch: inverse-CDF sampling
leaves no shared random stream, so step-1 responses agree between algorithms, ranks and nodes.
"""

import contextlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from harness.plugin.routing import Routers
from harness.plugin.vision import Pictures, first_inputs, placeholders

COMPACT_AT = 0.75  # drop finished rows from the batch once fewer than this share of them is still running


@dataclass(frozen=True)
class SamplingParams:
    """verl's sampling parameters: temperature 0 is greedy, top_k -1 and top_p 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int = 512


class Sampled(NamedTuple):
    """One response: its tokens, the log-probability of each, and the entropy (nats) of the distribution that each was
    drawn from; of a mixture of experts also which ones prompt and response went to, (tokens - 1, layers, k)."""

    tokens: list[int]
    log_probs: list[float]
    entropies: list[float]
    experts: np.ndarray | None = None


def response_seed(seed: int, step: int | str, prompt_id: int, sample: int) -> int:
    """The 63-bit seed of one response: a hash of what identifies it. The algorithm is deliberately no part of it, so
    matched runs draw the same step-1 responses; ``prompt_id`` is unique within a data file."""
    text = f"{seed}/{step}/{prompt_id}/{sample}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def eos_token_ids(model_path: str, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token ids that end a response: the tokenizer's EOS and those of the model's generation_config.json."""
    found: list[Any] = [tokenizer.eos_token_id]
    with contextlib.suppress(OSError):  # a model folder need not have one
        more = GenerationConfig.from_pretrained(model_path).eos_token_id
        found += more if isinstance(more, list) else [more]
    return frozenset(int(i) for i in found if i is not None)


def uniforms(seed: int, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) of the response with this seed, float64; a prefix for a smaller count."""
    return np.random.Generator(np.random.Philox(seed)).random(count)


def processed_log_probs(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Log-probabilities that are sampled from, (batch, vocabulary), float32, after temperature, top-k and top-p.

    The order and the rule for top-p (keep the smallest set of most probable tokens that reaches ``top_p``) are
    vLLM's, whose ``processed_logprobs`` verl asks for.
    """
    logits = logits.float() / max(params.temperature, 1e-6)
    if 0 < params.top_k < logits.shape[-1]:
        kth = logits.topk(params.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if params.top_p < 1:
        ascending, order = logits.sort(dim=-1)
        below = ascending.softmax(-1).cumsum(-1) <= 1 - params.top_p
        below[:, -1] = False  # the most probable token always stays
        logits = logits.masked_fill(below.scatter(-1, order, below), -torch.inf)
    return logits.log_softmax(-1)


def draw(log_probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds ``uniform``; shapes (B, V), (B)."""
    cumulative = log_probs.double().exp().cumsum(-1)
    target = (uniform.double() * cumulative[:, -1]).unsqueeze(-1)
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=log_probs.shape[-1] - 1)
    # Rounding of the sum must not select a token of probability 0 at the end of the vocabulary.
    forbidden = log_probs.gather(-1, token.unsqueeze(-1)).squeeze(-1).isneginf()
    return torch.where(forbidden, log_probs.argmax(-1), token)


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    prompts: list[list[int]],
    seeds: list[int],
    params: SamplingParams,
    eos_token_ids: frozenset[int],
    routers: Routers | None = None,
    pictures: list[Pictures | None] | None = None,
) -> list[Sampled]:
    """Sample one response for each prompt, at most ``params.max_tokens`` long, ended by EOS where the model ended it.

    Log-probabilities and entropies are those of the processed distribution. routers: the model's, if the experts that
    they choose are wanted. pictures: of each prompt, where the model sees (``harness.plugin.vision``).
    """
    device = model.device
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for row, prompt in enumerate(prompts):  # left padding: every row's next token is in the last column
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    numbers = torch.from_numpy(np.stack([uniforms(seed, params.max_tokens) for seed in seeds])).to(device)
    eos = torch.tensor(sorted(eos_token_ids), device=device)

    tokens = torch.zeros(len(prompts), params.max_tokens, dtype=torch.long, device=device)
    log_probs = torch.zeros(len(prompts), params.max_tokens, device=device)
    entropies = torch.zeros_like(log_probs)
    lengths = torch.full((len(prompts),), params.max_tokens, device=device)
    rows = torch.arange(len(prompts), device=device)  # which responses the rows of the running batch are
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    cache = DynamicCache(config=model.config)
    never = placeholders(model.config)
    positions, pixels = first_inputs(model, ids, mask, pictures)
    experts: torch.Tensor | None = None  # (batch, prompt and response, layers, k)

    for t in range(params.max_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            logits_to_keep=1,
            **pixels,
        ).logits[:, -1]
        if routers:
            chosen_experts = routers.chosen().unflatten(0, ids.shape)
            if experts is None:
                experts = chosen_experts.new_zeros(len(prompts), width + params.max_tokens, *chosen_experts.shape[2:])
            experts[rows, mask.shape[1] - ids.shape[1] : mask.shape[1]] = chosen_experts
        if never:
            logits[:, never] = -torch.inf
        processed = processed_log_probs(logits, params)
        chosen = processed.argmax(-1) if params.temperature == 0 else draw(processed, numbers[rows, t])
        tokens[rows, t] = chosen
        log_probs[rows, t] = processed.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        entropies[rows, t] = torch.special.entr(processed.exp()).sum(-1)
        ended = torch.isin(chosen, eos) & running
        lengths[rows[ended]] = t + 1
        running &= ~ended
        still = int(running.sum())
        if still == 0:
            break
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        if still < COMPACT_AT * len(rows):
            cache.batch_select_indices(running.nonzero().squeeze(-1))
            rows, mask, chosen, positions = rows[running], mask[running], chosen[running], positions[..., running, :]
            running = running[running]
        ids, positions, pixels = chosen.unsqueeze(-1), positions[..., -1:] + 1, {}

    return [
        Sampled(
            tokens[i, :length].tolist(),
            log_probs[i, :length].tolist(),
            entropies[i, :length].tolist(),
            None if experts is None else experts[i, width - len(prompts[i]) : width + length - 1].cpu().numpy(),
        )
        for i, length in enumerate(lengths.tolist())
    ]
