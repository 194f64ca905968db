"""What is asked of vLLM, which needs a GPU: a stand-in that takes what vLLM 0.24's own signatures take."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from harness.evaluate.backends import Asked, Policy, vllm_engine
from harness.plugin.sampling import SamplingParams


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the engine was made with; an answer is its prompt's last token, its seed, and its budget."""
    made: dict[str, Any] = {}

    class LLM:
        def __init__(self, model: str, *, dtype: str, max_model_len: int, tensor_parallel_size: int):
            made.update(model=model, dtype=dtype, max_model_len=max_model_len, gpus=tensor_parallel_size)

        def generate(self, prompts: list[dict[str, Any]], sampling_params: list[Any], *, use_tqdm: bool) -> list[Any]:
            made.update(asked=sampling_params, prompts=prompts)
            return [
                SimpleNamespace(
                    outputs=[SimpleNamespace(token_ids=(prompt["prompt_token_ids"][-1], asked.seed, asked.max_tokens))]
                )
                for prompt, asked in zip(prompts, sampling_params, strict=True)
            ]

    module: Any = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SimpleNamespace
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


def test_vllm_answers_each_prompt_with_a_seed_of_its_own(vllm: dict[str, Any], tmp_path: Path) -> None:
    policy = Policy(tmp_path, "bfloat16", longest=2048 + 32768, gpus=4)
    generate = vllm_engine(policy, SamplingParams(0.6, 0.7, -1, max_tokens=9))
    assert vllm == {"model": str(tmp_path), "dtype": "bfloat16", "max_model_len": 34816, "gpus": 4}
    prompts = [Asked([1, 2]), Asked([3])]
    assert generate(prompts, [5, 2**63 + 7]) == [[2, 5, 9], [3, 7, 9]]  # vLLM's seeds are signed
    assert {(asked.temperature, asked.top_p, asked.top_k) for asked in vllm["asked"]} == {(0.6, 0.7, -1)}


def test_vllm_gets_a_picture_and_one_placeholder_for_it(vllm: dict[str, Any], tmp_path: Path) -> None:
    """vLLM's own processor repeats the placeholder, as verl's rollout has it."""
    generate = vllm_engine(Policy(tmp_path, "bfloat16", longest=99), SamplingParams(max_tokens=9))
    image = object()
    generate([Asked([7, 8, 8, 8, 9], images=[image], short=[7, 8, 9]), Asked([1, 2], short=[1, 2])], [0, 1])
    assert vllm["prompts"] == [
        {"prompt_token_ids": [7, 8, 9], "multi_modal_data": {"image": [image]}},
        {"prompt_token_ids": [1, 2]},
    ]
