"""Models of a few thousand parameters, and requests to them."""

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config, Qwen3MoeConfig

from harness.plugin.sampling import SamplingParams, response_seed

VOCABULARY = 40
EOS = frozenset({1, 7})
PARAMS = SamplingParams(max_tokens=20)


def small_model(kind: str, tied: bool = False) -> Any:
    """A random model of two layers whose distributions are neither flat nor certain."""
    special: dict[str, Any] = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "tie_word_embeddings": tied, **special}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    rotary = {**common, **sizes, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = {
        "qwen2": lambda: Qwen2Config(**rotary),
        "llama": lambda: LlamaConfig(**rotary),
        "qwen3_moe": lambda: Qwen3MoeConfig(
            num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, head_dim=8, **rotary
        ),
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **common),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def requests(count: int = 24) -> tuple[list[list[int]], list[int]]:
    """Prompts of 1 to 9 tokens, and seeds."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(8, VOCABULARY, 1 + i % 9).tolist() for i in range(count)]
    return prompts, [response_seed(0, 1, i, 0) for i in range(count)]
