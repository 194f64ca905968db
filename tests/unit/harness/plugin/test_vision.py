"""Prompts with pictures: what verl makes of them, and that the rollout samples what the model's own forward says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.estimate import architecture
from harness.plugin import sampling, vision
from harness.plugin.prompts import Prompt, Reader
from harness.plugin.sampling import SamplingParams
from harness.plugin.server import TransformersServer, to_wire
from harness.tasks.supervised import EOS, Shape
from harness.tasks.vision import MEDIA, Tower, make_model, register_processor, save_processor

TOKENS = ["<|endoftext|>", "<|im_end|>", "\n", *(f" w{i}" for i in range(20)), *MEDIA]
IMAGE = TOKENS.index("<|image_pad|>")
PARAMS = SamplingParams(max_tokens=12)


@pytest.fixture(scope="module")
def model() -> Any:
    shape = Shape(vocabulary=len(TOKENS), mlp_width=48, initializer_range=0.2)
    return make_model(shape, Tower(width=16, mlp_width=24), TOKENS, seed=5).eval()


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sees")
    model.save_pretrained(folder)
    save_processor(TOKENS, folder)
    return str(folder)


@pytest.fixture(scope="module")
def processor(folder: str) -> Any:
    from verl.utils.tokenizer import hf_processor

    register_processor()
    return hf_processor(folder)


@pytest.fixture(scope="module")
def reader(folder: str, processor: Any) -> Reader:
    from verl.utils.tokenizer import hf_tokenizer

    return Reader(hf_tokenizer(folder), processor, "qwen2_5_vl", {})


def picture(seed: int, width: int, height: int = 28) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def asked(seed: int, *sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """A message with pictures of these sizes, each after a word, then two words."""
    content: list[dict[str, Any]] = []
    for number, size in enumerate(sizes):
        content += [{"type": "text", "text": f" w{number}"}]
        content += [{"type": "image", "image": picture(seed + number, *size)}]
    return [{"role": "user", "content": [*content, {"type": "text", "text": f" w{seed % 20} w3"}]}]


MESSAGES = [
    asked(0, (112, 28)),
    asked(1, (56, 56), (140, 28)),
    [{"role": "user", "content": " w4 w5 w6"}],
    asked(2, (28, 28)),
    asked(3, (84, 56)),
]


@pytest.fixture(scope="module")
def prompts(reader: Reader) -> list[Prompt]:
    return [reader.read(messages) for messages in MESSAGES]


def test_the_estimate_counts_the_parameters_of_a_model_that_sees(model: Any) -> None:
    assert architecture.Shape.of(model.config.to_dict()).parameters == model.num_parameters()


def test_a_picture_takes_one_token_for_28_pixels_each_way(prompts: list[Prompt]) -> None:
    assert [prompt.ids.count(IMAGE) for prompt in prompts] == [4, 4 + 5, 0, 1, 6]
    assert [prompt.pictures is None for prompt in prompts] == [False, False, True, False, False]


@pytest.mark.parametrize("response", [0, 5])
def test_positions_and_inputs_are_those_of_verls_agent_loop(
    prompts: list[Prompt], processor: Any, reader: Reader, response: int
) -> None:
    """Of whole sequences, where this project extends a prompt's positions by the response's."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker

    worker: Any = AgentLoopWorker.__ray_metadata__.modified_class if hasattr(
        AgentLoopWorker, "__ray_metadata__"
    ) else AgentLoopWorker  # fmt: skip
    for prompt, messages in zip(prompts, MESSAGES, strict=True):
        images = [part["image"] for part in messages[0]["content"] if isinstance(part, dict) and "image" in part]
        ids = torch.tensor([*prompt.ids, *range(5, 5 + response)])
        stub = SimpleNamespace(
            processor=processor, tokenizer=reader.builder.tokenizer, _get_mm_processor_kwargs=lambda _: {}
        )
        output = SimpleNamespace(multi_modal_data={"images": images or None}, mm_processor_kwargs={})
        inputs = worker._compute_multi_modal_inputs(stub, output, ids)
        theirs = worker._compute_position_ids(stub, ids[None], torch.ones_like(ids)[None], inputs)
        ours = prompt.fields(response)
        assert torch.equal(ours["position_ids"], theirs[0])
        for name in vision.INPUTS:
            assert (name in inputs) == (name in ours["multi_modal_inputs"])
            if name in inputs:
                assert torch.equal(inputs[name], ours["multi_modal_inputs"][name])


def served(folder: str, model: Any, batch_size: int = 16) -> TransformersServer:
    server = TransformersServer(folder, "float32", "cpu", max_tokens=12, threads=1, batch_size=batch_size)
    server.load_weights([to_wire(name, tensor) for name, tensor in model.state_dict().items()], 1, last=True)
    return server


def test_log_probabilities_of_the_server_are_the_models_own(folder: str, model: Any, prompts: list[Prompt]) -> None:
    """Against transformers' forward of each whole sequence alone, which finds its positions itself; a response has no
    token that stands for pixels, and the probabilities are those of the others."""
    server = served(folder, model)
    requests = [prompt for prompt in prompts for _ in range(4)]
    shown = [prompt.pictures for prompt in requests]
    answers = server.sample_batch([prompt.ids for prompt in requests], list(range(len(requests))), {}, shown)
    assert {len(answer.tokens) for answer in answers} != {12}
    for prompt, answer in zip(requests, answers, strict=True):
        ids = torch.tensor([prompt.ids + answer.tokens])
        with torch.no_grad():
            more = {"mm_token_type_ids": (ids == IMAGE).int(), **(prompt.pictures or {})}
            logits = model(input_ids=ids, **more).logits[0]
        logits[:, [IMAGE, IMAGE + 1]] = -torch.inf
        expected = logits.log_softmax(-1)[torch.arange(len(prompt.ids) - 1, ids.shape[1] - 1), answer.tokens]
        torch.testing.assert_close(torch.tensor(answer.log_probs), expected, atol=2e-5, rtol=0)
        assert not {IMAGE, IMAGE + 1} & set(answer.tokens)


def test_a_response_does_not_depend_on_what_else_is_asked(folder: str, model: Any, prompts: list[Prompt]) -> None:
    server = served(folder, model, batch_size=3)
    together = server.sample_batch([p.ids for p in prompts], [9] * len(prompts), {}, [p.pictures for p in prompts])
    for prompt, expected in zip(prompts, together, strict=True):
        (alone,) = server.sample_batch([prompt.ids], [9], {}, [prompt.pictures])
        assert alone.tokens == expected.tokens
        assert alone.log_probs == pytest.approx(expected.log_probs, abs=1e-5)


def test_another_picture_is_another_prompt(folder: str, model: Any, reader: Reader) -> None:
    one, other = (reader.read(asked(seed, (112, 28))) for seed in (0, 20))
    assert one.ids == other.ids
    answers = [
        sampling.sample(
            model, [prompt.ids] * 8, list(range(8)), PARAMS, frozenset({EOS}), pictures=[prompt.pictures] * 8
        )
        for prompt in (one, other)
    ]
    assert answers[0] != answers[1]


def test_a_model_of_text_reads_as_before() -> None:
    prompt = Prompt([3, 4, 5], torch.arange(3))
    fields = prompt.fields(2)
    assert fields.keys() == {"position_ids"}
    assert fields["position_ids"].tolist() == [0, 1, 2, 3, 4]


def test_verls_rows_of_a_parquet_file_are_read(tmp_path: Path, processor: Any, reader: Reader) -> None:
    """From bytes of a PNG in the column ``images`` to the same prompt."""
    import pandas as pd
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from harness.tasks.mini.pictures import png

    image = picture(4, 112)
    row = {
        "prompt": [{"role": "user", "content": "<image> w7"}],
        "images": [{"bytes": png(image), "path": "a.png"}],
        "extra_info": {"index": 3},
    }
    file = tmp_path / "a.parquet"
    pd.DataFrame([row]).to_parquet(file)
    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "cache")})
    item = RLHFDataset([str(file)], reader.builder.tokenizer, config, processor)[0]
    content = [{"type": "image", "image": image}, {"type": "text", "text": " w7"}]
    expected = reader.read([{"role": "user", "content": content}])
    read = reader.read(item["raw_prompt"])
    assert read.ids == expected.ids
    assert read.pictures is not None
    assert expected.pictures is not None
    assert torch.equal(read.pictures["pixel_values"], expected.pictures["pixel_values"])
