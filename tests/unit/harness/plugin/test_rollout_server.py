"""The server that holds the model: weights arrive whole, and its answers are the sampling function's."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import EOS, PARAMS, VOCABULARY, requests, small_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from harness.plugin import sampling
from harness.plugin.server import TransformersServer, from_wire, to_wire


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (), (1,)], ids=str)
def test_a_tensor_survives_the_wire(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (100 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    wire = to_wire("layer.weight", tensor)
    assert isinstance(wire[-1], np.ndarray)
    name, back = from_wire(wire)
    assert (name, back.dtype, back.shape) == ("layer.weight", dtype, tensor.shape)
    assert torch.equal(back, tensor)


def test_a_strided_tensor_that_wants_gradients_survives_the_wire_and_owns_its_memory() -> None:
    tensor = torch.randn(4, 6, requires_grad=True)
    wire = to_wire("a", tensor.t()[::2])
    wire[-1].setflags(write=False)  # as Ray's shared memory is
    _, back = from_wire(wire)
    assert torch.equal(back, tensor.t()[::2])
    before = wire[-1].copy()
    back.zero_()
    assert (wire[-1] == before).all()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """Model folders without and with tied embeddings; the server reads configuration and tokenizer from them."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = {}
    for tied in (False, True):
        folder = tmp_path_factory.mktemp("model")
        model = small_model("llama", tied)
        model.generation_config = GenerationConfig(eos_token_id=sorted(EOS))
        model.save_pretrained(folder)
        words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0").save_pretrained(folder)
        made[tied] = str(folder)
    return made


@pytest.fixture
def empty_server(folders: dict[bool, str]) -> TransformersServer:
    return TransformersServer(folders[False], "float32", "cpu", max_tokens=20, threads=1, batch_size=7)


def wires(model: Any, names: Callable[[str], bool] = lambda _: True) -> list[Any]:
    return [to_wire(name, tensor) for name, tensor in model.state_dict().items() if names(name)]


@pytest.fixture
def server(empty_server: TransformersServer) -> TransformersServer:
    empty_server.load_weights(wires(small_model("llama")), global_steps=3, last=True)
    return empty_server


def test_server_knows_the_eos_of_the_folder(empty_server: TransformersServer) -> None:
    assert empty_server.eos == EOS


def test_weights_arrive_in_buckets(empty_server: TransformersServer) -> None:
    model = small_model("llama")
    everything = wires(model)
    empty_server.load_weights(everything[:5], 7, last=False)
    assert empty_server.global_steps is None
    empty_server.load_weights(everything[5:], 7, last=True)
    assert empty_server.global_steps == 7
    assert all(torch.equal(model.state_dict()[name], value) for name, value in empty_server.model.state_dict().items())


def test_experts_arrive_one_by_one_as_verl_sends_them(folders: dict[bool, str], tmp_path: Path) -> None:
    """In buckets that cut a layer's experts apart; one that is held back is named."""
    from verl.workers.engine.fsdp.utils import unfuse_moe_params

    model = small_model("qwen3_moe")
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folders[False]).save_pretrained(tmp_path)
    server = TransformersServer(str(tmp_path), "float32", "cpu", max_tokens=20, threads=1, batch_size=7)
    sent = [to_wire(name, tensor) for name, tensor in unfuse_moe_params(iter(model.state_dict().items()))]
    assert len(sent) > len(model.state_dict())
    for start in range(0, len(sent), 7):
        server.load_weights(sent[start : start + 7], 1, last=start + 7 >= len(sent))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in server.model.state_dict().items())
    held = "model.layers.1.mlp.experts.2.up_proj.weight"
    with pytest.raises(ValueError, match=re.escape(held)):
        server.load_weights([wire for wire in sent if wire[0] != held], 2, last=True)
    name, dtype, shape, data = to_wire(held, torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"is \[1, 1\] at the trainer, \[16, 32\] here"):
        server.load_weights([(name, dtype, shape, data)], 3, last=False)


def test_a_server_of_lower_precision_samples_as_the_loaded_model_does(folders: dict[bool, str]) -> None:
    server = TransformersServer(folders[False], "bfloat16", "cpu", max_tokens=20, threads=1, batch_size=24)
    model = AutoModelForCausalLM.from_pretrained(folders[False], dtype=torch.bfloat16).eval()
    server.load_weights(wires(model), 1, last=True)
    assert server.model.dtype == torch.bfloat16
    assert all(torch.equal(model.state_dict()[name], value) for name, value in server.model.state_dict().items())
    prompts, seeds = requests()
    assert server.sample_batch(prompts, seeds, {}) == sampling.sample(model, prompts, seeds, PARAMS, EOS)


@pytest.mark.parametrize("with_head", [False, True])
def test_tied_embeddings_may_be_sent_once_or_twice(folders: dict[bool, str], with_head: bool) -> None:
    server = TransformersServer(folders[True], "float32", "cpu", max_tokens=4, threads=1, batch_size=8)
    model = small_model("llama", tied=True)
    server.load_weights(wires(model, lambda name: with_head or name != "lm_head.weight"), 1, last=True)
    assert torch.equal(server.model.lm_head.weight, model.model.embed_tokens.weight)


def test_weights_that_the_model_does_not_have_are_named(empty_server: TransformersServer) -> None:
    with pytest.raises(ValueError, match=r"does not have.*extra\.weight"):
        empty_server.load_weights([*wires(small_model("llama")), to_wire("extra.weight", torch.ones(1))], 1, last=True)


def test_weights_that_never_arrived_are_named(empty_server: TransformersServer) -> None:
    part = wires(small_model("llama"), lambda name: name != "model.norm.weight")
    empty_server.load_weights(part, 1, last=False)
    with pytest.raises(ValueError, match=r"never sent.*model\.norm\.weight"):
        empty_server.load_weights([], 1, last=True)


def test_every_synchronisation_must_be_whole_not_only_the_first(server: TransformersServer) -> None:
    """A weight that is left out later would stay as it was: the rollout would sample from a mixture of two steps."""
    with pytest.raises(ValueError, match=r"never sent.*model\.norm\.weight"):
        server.load_weights(wires(small_model("llama"), lambda name: name != "model.norm.weight"), 4, last=True)


def test_a_batch_is_refused_before_any_weights_arrived(empty_server: TransformersServer) -> None:
    with pytest.raises(RuntimeError, match="before any weights"):
        empty_server.sample_batch([[9]], [0], {})


def test_a_request_is_refused_before_any_weights_arrived(empty_server: TransformersServer) -> None:
    with pytest.raises(RuntimeError, match="before any weights"):
        asyncio.run(asyncio.wait_for(empty_server.generate("a", [9], {"seed": 0}), 5))


def test_server_samples_as_the_function_does_whatever_its_batch_size(server: TransformersServer) -> None:
    prompts, seeds = requests()
    answers = server.sample_batch(prompts, seeds, {"temperature": 1.0, "top_p": 1.0, "top_k": -1})
    expected = sampling.sample(small_model("llama"), prompts, seeds, PARAMS, EOS)
    assert [one.tokens for one in answers] == [one.tokens for one in expected]
    assert server.sample_batch([], [], {}) == []


def together(server: TransformersServer, calls: list[tuple[list[int], dict[str, Any]]]) -> list[Any]:
    """The answers of concurrent single requests, or the exceptions that their callers saw."""

    async def ask() -> list[Any]:
        waiting = [server.generate(f"id-{i}", prompt, params) for i, (prompt, params) in enumerate(calls)]
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)

    return asyncio.run(ask())


def test_concurrent_requests_are_answered_as_a_batch_is(server: TransformersServer) -> None:
    prompts, seeds = requests()
    outputs = together(server, [(p, {"seed": s, "temperature": 1.0}) for p, s in zip(prompts, seeds, strict=True)])
    expected = server.sample_batch(prompts, seeds, {})
    assert [output.token_ids for output in outputs] == [one.tokens for one in expected]
    for output, (_, log_probs, *_) in zip(outputs, expected, strict=True):
        assert output.log_probs == pytest.approx(log_probs, abs=1e-5)
        assert output.extra_fields == {"global_steps": 3}


def test_requests_with_other_settings_are_not_mixed(server: TransformersServer) -> None:
    prompts, seeds = requests()
    kinds = [{"temperature": 1.0}, {"temperature": 0.0}, {"top_k": 2, "max_tokens": 5}]
    outputs = together(server, [(p, {**kinds[i % 3], "seed": seeds[i]}) for i, p in enumerate(prompts)])
    for i, prompt in enumerate(prompts):
        ((tokens, *_),) = server.sample_batch([prompt], [seeds[i]], kinds[i % 3])
        assert outputs[i].token_ids == tokens


def test_without_a_seed_the_request_id_is_the_seed(server: TransformersServer) -> None:
    first, again = (together(server, [([9, 10], {})] * 6) for _ in range(2))
    assert [output.token_ids for output in first] == [output.token_ids for output in again]
    assert len({tuple(output.token_ids) for output in first}) > 1


def test_an_error_reaches_the_callers_of_its_batch_and_later_requests_are_served(server: TransformersServer) -> None:
    broken = together(server, [([VOCABULARY + 5], {"seed": 0})] * 3)
    assert [type(answer) for answer in broken] == [IndexError] * 3
    (answer,) = together(server, [([9], {"seed": 0})])
    assert answer.token_ids == server.sample_batch([[9]], [0], {})[0][0]


def test_an_error_does_not_touch_requests_of_another_batch(server: TransformersServer) -> None:
    calls = [([VOCABULARY + 5], {"seed": 0, "temperature": 0.5}), ([9], {"seed": 0}), ([10], {"seed": 1})]
    broken, *fine = together(server, calls)
    assert isinstance(broken, IndexError)
    assert [answer.token_ids for answer in fine] == [t for t, *_ in server.sample_batch([[9], [10]], [0, 1], {})]


def test_a_caller_that_gives_up_does_not_take_the_others_with_it(server: TransformersServer) -> None:
    async def ask() -> Any:
        impatient = asyncio.create_task(server.generate("a", [9], {"seed": 0}))
        patient = asyncio.create_task(server.generate("b", [10], {"seed": 1}))
        await asyncio.sleep(0)
        impatient.cancel()
        first = await asyncio.wait_for(patient, 5)
        return first, await asyncio.wait_for(server.generate("c", [11], {"seed": 2}), 5)

    answers = asyncio.run(ask())
    assert [answer.token_ids for answer in answers] == [
        tokens for tokens, *_ in server.sample_batch([[10], [11]], [1, 2], {})
    ]


@pytest.mark.parametrize(
    ("params", "limit"), [({}, 20), ({"max_tokens": 3}, 3), ({"max_new_tokens": 4}, 4), ({"max_tokens": 500}, 20)]
)
def test_no_response_is_longer_than_asked_for_or_than_the_servers_limit(
    server: TransformersServer, params: dict[str, Any], limit: int
) -> None:
    prompts, seeds = requests()
    assert max(len(tokens) for tokens, *_ in server.sample_batch(prompts, seeds, params)) == limit


def test_what_the_server_cannot_do_is_refused_by_name(server: TransformersServer) -> None:
    with pytest.raises(NotImplementedError, match="repetition_penalty"):
        server.sample_batch([[9]], [0], {"repetition_penalty": 1.2})
    with pytest.raises(NotImplementedError, match="image_data"):
        asyncio.run(server.generate("a", [9], {}, image_data=["image"], video_data=None))


def test_verls_empty_extras_are_accepted(server: TransformersServer) -> None:
    output = asyncio.run(server.generate("a", [9], {"seed": 0, "logprobs": True}, image_data=None, video_data=[]))
    assert output.token_ids == server.sample_batch([[9]], [0], {})[0][0]
