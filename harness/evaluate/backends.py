"""What evaluation samples with: a model folder and an engine, one response for each (prompt, seed)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plugin.sampling import SamplingParams, eos_token_ids, sample

# (prompts as token ids, one seed each) -> responses as token ids
Generate = Callable[[list[list[int]], list[int]], list[list[int]]]
BATCH = 256  # responses that the transformers engine samples at once


@dataclass(frozen=True)
class Policy:
    """A transformers folder and how it is held. longest: tokens of the longest prompt and response together.

    gpus: that share the model, under vLLM; the transformers engine takes one.
    """

    folder: Path
    dtype: str
    longest: int
    gpus: int = 1


def transformers_engine(policy: Policy, params: SamplingParams, batch: int = BATCH) -> Generate:
    """The training rollout's own sampling (``harness.plugin.sampling``) on CUDA where there is one, else on CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the evaluation shows its own
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, policy.dtype)
    model: Any = AutoModelForCausalLM.from_pretrained(policy.folder, dtype=dtype, attn_implementation="sdpa")
    model = model.to(device).eval()
    eos = eos_token_ids(str(policy.folder), AutoTokenizer.from_pretrained(policy.folder))

    def generate(prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        responses = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            responses += [one.tokens for one in sample(model, prompts[part], seeds[part], params, eos)]
        return responses

    return generate


def vllm_engine(policy: Policy, params: SamplingParams) -> Generate:
    """vLLM with a seed for every response; needs a GPU and the extra ``gpu``."""
    from vllm import LLM  # pyright: ignore[reportMissingImports]
    from vllm import SamplingParams as VllmParams  # pyright: ignore[reportMissingImports]

    # Without a length vLLM reserves room for the model's whole context, which may be more than a card has.
    engine = LLM(
        model=str(policy.folder),
        dtype=policy.dtype,
        max_model_len=policy.longest,
        tensor_parallel_size=policy.gpus,
    )

    def generate(prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        settings = [
            VllmParams(
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
                max_tokens=params.max_tokens,
                seed=seed % 2**63,
            )
            for seed in seeds
        ]
        answers = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    return generate


ENGINES: dict[str, Callable[[Policy, SamplingParams], Generate]] = {
    "transformers": transformers_engine,
    "vllm": vllm_engine,
}


def default_engine() -> str:
    """vLLM where it is installed and a GPU is there, else transformers."""
    import importlib.util

    import torch

    return "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "transformers"
