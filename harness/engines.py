"""What evaluation samples with: a model folder and an engine, one response for each (prompt, seed)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.plugin.sampling import SamplingParams, eos_token_ids, sample

# (prompts as token ids, one seed each) -> responses as token ids
Generate = Callable[[list[list[int]], list[int]], list[list[int]]]
BATCH = 256  # responses that the transformers engine samples at once


def transformers_engine(model: Path, params: SamplingParams, dtype: str, batch: int = BATCH) -> Generate:
    """The training rollout's own sampling (``harness.plugin.sampling``) on CUDA where there is one, else on CPU."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    policy = policy.to(device).eval()
    eos = eos_token_ids(str(model), AutoTokenizer.from_pretrained(model))

    def generate(prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        responses = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            responses += [tokens for tokens, _ in sample(policy, prompts[part], seeds[part], params, eos)]
        return responses

    return generate


def vllm_engine(model: Path, params: SamplingParams, dtype: str) -> Generate:
    """vLLM with a seed for every response; needs a GPU and the extra ``gpu``."""
    from vllm import LLM  # pyright: ignore[reportMissingImports]
    from vllm import SamplingParams as VllmParams  # pyright: ignore[reportMissingImports]

    engine = LLM(model=str(model), dtype=dtype)

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


ENGINES: dict[str, Callable[[Path, SamplingParams, str], Generate]] = {
    "transformers": transformers_engine,
    "vllm": vllm_engine,
}


def default_engine() -> str:
    """vLLM where it is installed and a GPU is there, else transformers."""
    import importlib.util

    import torch

    return "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "transformers"
