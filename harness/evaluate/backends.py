"""What evaluation samples with: a model folder and an engine, one response for each (prompt, seed)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.plugin.sampling import SamplingParams, eos_token_ids, sample
from harness.plugin.vision import Pictures, auto_model

BATCH = 256  # responses that the transformers engine samples at once


@dataclass(frozen=True)
class Asked:
    """One prompt. ids: its tokens, with a placeholder for each visual token; pictures: what a model of transformers
    reads beside them; images: the same as Pillow's, and short: the ids with one placeholder for each, as vLLM wants."""

    ids: list[int]
    pictures: Pictures | None = None
    images: list[Any] = field(default_factory=list)
    short: list[int] = field(default_factory=list)


# (prompts, one seed each) -> responses as token ids
Generate = Callable[[list[Asked], list[int]], list[list[int]]]


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
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # the evaluation shows its own
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, policy.dtype)
    kind = auto_model(AutoConfig.from_pretrained(policy.folder))
    model: Any = kind.from_pretrained(policy.folder, dtype=dtype, attn_implementation="sdpa")
    model = model.to(device).eval()
    eos = eos_token_ids(str(policy.folder), AutoTokenizer.from_pretrained(policy.folder))

    def generate(prompts: list[Asked], seeds: list[int]) -> list[list[int]]:
        responses = []
        for start in range(0, len(prompts), batch):
            part, its_seeds = prompts[start : start + batch], seeds[start : start + batch]
            seen = [prompt.pictures for prompt in part]
            found = sample(model, [prompt.ids for prompt in part], its_seeds, params, eos, pictures=seen)
            responses += [one.tokens for one in found]
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

    def generate(prompts: list[Asked], seeds: list[int]) -> list[list[int]]:
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
        asked = [
            {"prompt_token_ids": prompt.short, "multi_modal_data": {"image": prompt.images}}
            if prompt.images
            else {"prompt_token_ids": prompt.ids}
            for prompt in prompts
        ]
        answers = engine.generate(asked, settings, use_tqdm=False)
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
