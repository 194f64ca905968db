"""Sampling by definition and by brute force: a response is a function of weights, prompt and its own uniforms."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM, GenerationConfig, GPT2Config, LlamaConfig, Qwen2Config

from harness.plugin import sampling
from harness.plugin.sampling import SamplingParams, draw, eos_token_ids, processed_log_probs, response_seed, uniforms
from harness.plugin.server import TransformersServer, from_wire, to_wire

VOCABULARY = 40
EOS = frozenset({1, 7})
PARAMS = SamplingParams(max_tokens=20)
JUST_BELOW_1 = float(np.nextafter(1.0, 0.0))


# --- the distribution that is sampled from


def brute_force(logits: list[float], params: SamplingParams) -> list[float]:
    """Temperature, then the top_k largest, then the smallest set of most probable tokens that reaches top_p."""
    weights = np.exp((np.array(logits) - max(logits)) / params.temperature)
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token])
    kept = ranked[: params.top_k] if params.top_k > 0 else ranked
    total, reached, chosen = sum(weights[token] for token in kept), 0.0, []
    for token in kept:
        chosen.append(token)
        reached += weights[token] / total
        if reached >= params.top_p:
            break
    total = sum(weights[token] for token in chosen)
    return [weights[token] / total if token in chosen else 0.0 for token in range(len(logits))]


@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.7, 0.31, 1e-6])
@pytest.mark.parametrize("top_k", [-1, 0, 1, 3, 11, 12, 50])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_processed_distribution_is_the_definition(temperature: float, top_k: int, top_p: float) -> None:
    params = SamplingParams(temperature, top_p, top_k)
    logits = 2 * torch.randn(16, 11, generator=torch.Generator().manual_seed(3))
    probabilities = processed_log_probs(logits, params).double().exp()
    expected = torch.tensor([brute_force(row, params) for row in logits.tolist()], dtype=torch.float64)
    assert torch.equal(probabilities > 0, expected > 0)
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("params", [SamplingParams(top_p=0.5), SamplingParams(top_k=2)], ids=str)
def test_rows_are_processed_each_for_itself(params: SamplingParams) -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(1))
    together = processed_log_probs(logits, params)
    assert torch.equal(together, torch.cat([processed_log_probs(row.unsqueeze(0), params) for row in logits]))


def test_low_precision_logits_are_processed_in_float32() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1)).bfloat16()
    processed = processed_log_probs(logits, SamplingParams())
    assert processed.dtype == torch.float32
    torch.testing.assert_close(processed, logits.float().log_softmax(-1))


# --- drawing


PROBABILITIES = torch.tensor([0.0, 0.31, 0.0, 0.001, 0.2, 0.0, 0.389, 0.1, 0.0])


def drawn(probabilities: torch.Tensor, numbers: np.ndarray) -> np.ndarray:
    log_probs = probabilities.log().expand(len(numbers), -1)
    return draw(log_probs, torch.from_numpy(np.asarray(numbers, dtype=np.float64))).numpy()


def test_draw_is_the_first_token_whose_cumulative_probability_exceeds_the_number() -> None:
    numbers = np.random.default_rng(0).random(5000)
    cumulative = np.cumsum(PROBABILITIES.double().numpy())
    expected = [next(t for t, c in enumerate(cumulative) if c > u * cumulative[-1]) for u in numbers]
    away = np.abs(cumulative[None] - numbers[:, None]).min(-1) > 1e-6  # from a step, where rounding decides
    assert away.sum() > 4900
    assert (drawn(PROBABILITIES, numbers) == expected)[away].all()


@pytest.mark.parametrize("seed", range(3))
def test_draw_reproduces_the_distribution(seed: int) -> None:
    numbers = np.random.default_rng(seed).random(40_000)
    counts = np.bincount(drawn(PROBABILITIES, numbers), minlength=len(PROBABILITIES))
    allowed = PROBABILITIES.numpy() > 0
    assert counts[~allowed].sum() == 0
    expected = PROBABILITIES.double().numpy()[allowed]
    assert stats.chisquare(counts[allowed], expected / expected.sum() * len(numbers)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("probabilities", "first", "last"),
    [
        (PROBABILITIES, 1, 7),
        (torch.tensor([0.0, 0.0, 1.0, 0.0]), 2, 2),
        (torch.tensor([0.25, 0.25, 0.5]), 0, 2),
        (torch.full((1000,), 1 / 1000), 0, 999),
    ],
    ids=["ends_forbidden", "one_token", "all_allowed", "many"],
)
def test_edges_draw_the_first_and_an_allowed_token(probabilities: torch.Tensor, first: int, last: int) -> None:
    low, high = drawn(probabilities, np.array([0.0, JUST_BELOW_1]))
    assert low == first
    assert probabilities[high] > 0
    near = drawn(probabilities, np.array([5e-324, 1 - 1e-9]))
    assert near.tolist() == [first, last]


def test_forbidden_tokens_are_never_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.tensor([0.0, 5e-324, 1e-17, 0.25, 0.5, 0.75, 1 - 1e-12, JUST_BELOW_1], dtype=torch.float64)
    for params in (SamplingParams(top_k=3), SamplingParams(top_p=0.4), SamplingParams(top_k=1)):
        log_probs = processed_log_probs(4 * torch.randn(300, 50, generator=generator), params)
        for number in numbers:
            tokens = draw(log_probs, number.expand(300))
            assert log_probs.gather(-1, tokens.unsqueeze(-1)).isfinite().all()


# --- seeds and numbers


def test_uniforms_of_fewer_tokens_are_a_prefix() -> None:
    assert uniforms(5, 7).tolist() == uniforms(5, 50)[:7].tolist()
    assert uniforms(5, 7).dtype == np.float64
    assert stats.kstest(uniforms(11, 20_000), "uniform").pvalue > 1e-3
    assert uniforms(5, 7).tolist() != uniforms(6, 7).tolist()


def test_every_response_has_a_seed_of_its_own() -> None:
    grid = [
        (seed, step, prompt, sample)
        for seed in (0, 1, 11)
        for step in (1, 11)
        for prompt in range(30)
        for sample in range(8)
    ]
    seeds = [response_seed(*one) for one in grid]
    assert len(set(seeds)) == len(grid)
    assert seeds == [response_seed(*one) for one in grid]
    assert all(0 <= seed < 2**63 for seed in seeds)
    first = np.array([uniforms(seed, 1)[0] for seed in seeds])
    assert stats.kstest(first, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("more", "expected"), [(None, {1}), (7, {1, 7}), ([1, 8, 9], {1, 8, 9})], ids=["no_file", "one", "list"]
)
def test_a_response_ends_at_the_tokenizers_and_the_generation_configs_eos(
    tmp_path: Path, more: Any, expected: set[int]
) -> None:
    if more is not None:
        GenerationConfig(eos_token_id=more).save_pretrained(tmp_path)
    assert eos_token_ids(str(tmp_path), SimpleNamespace(eos_token_id=1)) == expected


# --- sampling from a model


def small_model(kind: str, tied: bool = False) -> Any:
    """A random model of two layers whose distributions are neither flat nor certain."""
    special: dict[str, Any] = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.2, "tie_word_embeddings": tied, **special}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    rotary = {**common, **sizes, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = {
        "qwen2": lambda: Qwen2Config(**rotary),
        "llama": lambda: LlamaConfig(**rotary),
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **common),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


# gpt2 has absolute positions, which padding on the left must not shift; the others see distances only.
@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return small_model(request.param)


def requests(count: int = 24) -> tuple[list[list[int]], list[int]]:
    """Prompts of 1 to 9 tokens, and seeds."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(8, VOCABULARY, 1 + i % 9).tolist() for i in range(count)]
    return prompts, [response_seed(0, 1, i, 0) for i in range(count)]


def sample_in(model: Any, parts: list[list[int]], params: SamplingParams = PARAMS) -> list[Any]:
    """All requests, sampled in the batches that ``parts`` gives, back in their order."""
    prompts, seeds = requests()
    answers: dict[int, Any] = {}
    for part in parts:
        answers.update(
            zip(
                part,
                sampling.sample(model, [prompts[i] for i in part], [seeds[i] for i in part], params, EOS),
                strict=True,
            )
        )
    return [answers[i] for i in range(len(prompts))]


def teacher_forced(model: Any, prompt: list[int], response: list[int], params: SamplingParams) -> torch.Tensor:
    """Log-probabilities over the vocabulary at each token of the response, from one pass without cache or padding."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    expected = [brute_force(row, params) for row in logits.double().tolist()]
    return torch.tensor(expected, dtype=torch.float64).log()


WHOLE = [list(range(24))]
CUTS = {
    "singly": [[i] for i in range(24)],
    "reversed": [list(range(24))[::-1]],
    "sub_batches": [list(range(i, min(i + 5, 24))) for i in range(0, 24, 5)],
    "shuffled": [np.random.default_rng(1).permutation(24).tolist()],
}


@pytest.mark.parametrize("cut", CUTS)
def test_a_response_does_not_depend_on_its_batch(model: Any, cut: str) -> None:
    for (tokens, log_probs), (others, other_log_probs) in zip(
        sample_in(model, WHOLE), sample_in(model, CUTS[cut]), strict=True
    ):
        assert tokens == others
        assert log_probs == pytest.approx(other_log_probs, abs=1e-5)


@pytest.mark.parametrize("compact_at", [0.0, 0.5, 1.0])
def test_a_response_does_not_depend_on_when_finished_rows_are_dropped(
    model: Any, monkeypatch: pytest.MonkeyPatch, compact_at: float
) -> None:
    expected = [tokens for tokens, _ in sample_in(model, WHOLE)]
    monkeypatch.setattr(sampling, "COMPACT_AT", compact_at)
    assert [tokens for tokens, _ in sample_in(model, WHOLE)] == expected


def test_a_response_ends_at_its_first_eos_or_at_the_limit(model: Any) -> None:
    responses = [tokens for tokens, _ in sample_in(model, WHOLE)]
    assert all(not EOS & set(tokens[:-1]) for tokens in responses)
    assert all(tokens[-1] in EOS or len(tokens) == PARAMS.max_tokens for tokens in responses)
    ended = {tokens[-1] in EOS for tokens in responses}
    assert ended == {True, False}, "the test needs responses of both kinds"
    assert len({len(tokens) for tokens in responses}) > 4


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_fewer_tokens_are_a_prefix(model: Any, limit: int) -> None:
    longer = sample_in(model, WHOLE)
    shorter = sample_in(model, WHOLE, replace(PARAMS, max_tokens=limit))
    assert [tokens for tokens, _ in shorter] == [tokens[:limit] for tokens, _ in longer]


@pytest.mark.parametrize(
    "params",
    [PARAMS, replace(PARAMS, temperature=0.7), replace(PARAMS, top_k=5), replace(PARAMS, top_p=0.8, temperature=1.3)],
    ids=["plain", "temperature", "top_k", "top_p"],
)
def test_log_probabilities_are_those_of_a_pass_without_padding(model: Any, params: SamplingParams) -> None:
    prompts, _ = requests()
    for prompt, (tokens, log_probs) in zip(prompts, sample_in(model, WHOLE, params), strict=True):
        expected = teacher_forced(model, prompt, tokens, params)
        picked = expected.gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1)
        assert log_probs == pytest.approx(picked.tolist(), abs=1e-5)


def test_tokens_are_the_inverse_cdf_of_their_own_numbers(model: Any) -> None:
    prompts, seeds = requests()
    checked = 0
    for prompt, seed, (tokens, _) in zip(prompts, seeds, sample_in(model, WHOLE), strict=True):
        cumulative = teacher_forced(model, prompt, tokens, PARAMS).exp().cumsum(-1)
        for token, number, steps in zip(tokens, uniforms(seed, PARAMS.max_tokens), cumulative.tolist(), strict=False):
            if min(abs(number - step) for step in steps) > 1e-5:
                assert token == sum(step <= number for step in steps)
                checked += 1
    assert checked > 100


def test_first_tokens_of_many_seeds_follow_the_models_distribution(model: Any) -> None:
    prompt, count = [9, 12, 30], 6000
    answers = sampling.sample(model, [prompt] * count, list(range(count)), replace(PARAMS, max_tokens=1), EOS)
    counts = np.bincount([tokens[0] for tokens, _ in answers], minlength=VOCABULARY)
    expected = teacher_forced(model, prompt, [0], PARAMS)[0].exp().numpy() * count
    assert expected.min() > 5
    assert stats.chisquare(counts, expected / expected.sum() * count).pvalue > 1e-3


def test_temperature_0_is_greedy_as_generate_is(model: Any) -> None:
    prompts, _ = requests()
    greedy = sample_in(model, WHOLE, replace(PARAMS, temperature=0.0))
    for prompt, (tokens, _) in zip(prompts, greedy, strict=True):
        generated = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=PARAMS.max_tokens,
            eos_token_id=sorted(EOS),
            pad_token_id=0,
        )
        assert tokens == generated[0, len(prompt) :].tolist()


def test_sampling_leaves_torchs_generator_and_the_model_alone(model: Any) -> None:
    state, weights = torch.get_rng_state(), {name: value.clone() for name, value in model.state_dict().items()}
    sample_in(model, WHOLE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert not model.training


# --- the server that holds the model


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
    assert [tokens for tokens, _ in answers] == [tokens for tokens, _ in expected]
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
    assert [output.token_ids for output in outputs] == [tokens for tokens, _ in expected]
    for output, (_, log_probs) in zip(outputs, expected, strict=True):
        assert output.log_probs == pytest.approx(log_probs, abs=1e-5)
        assert output.extra_fields == {"global_steps": 3}


def test_requests_with_other_settings_are_not_mixed(server: TransformersServer) -> None:
    prompts, seeds = requests()
    kinds = [{"temperature": 1.0}, {"temperature": 0.0}, {"top_k": 2, "max_tokens": 5}]
    outputs = together(server, [(p, {**kinds[i % 3], "seed": seeds[i]}) for i, p in enumerate(prompts)])
    for i, prompt in enumerate(prompts):
        ((tokens, _),) = server.sample_batch([prompt], [seeds[i]], kinds[i % 3])
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
    assert [answer.token_ids for answer in fine] == [t for t, _ in server.sample_batch([[9], [10]], [0, 1], {})]


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
        tokens for tokens, _ in server.sample_batch([[10], [11]], [1, 2], {})
    ]


@pytest.mark.parametrize(
    ("params", "limit"), [({}, 20), ({"max_tokens": 3}, 3), ({"max_new_tokens": 4}, 4), ({"max_tokens": 500}, 20)]
)
def test_no_response_is_longer_than_asked_for_or_than_the_servers_limit(
    server: TransformersServer, params: dict[str, Any], limit: int
) -> None:
    prompts, seeds = requests()
    assert max(len(tokens) for tokens, _ in server.sample_batch(prompts, seeds, params)) == limit


def test_what_the_server_cannot_do_is_refused_by_name(server: TransformersServer) -> None:
    with pytest.raises(NotImplementedError, match="repetition_penalty"):
        server.sample_batch([[9]], [0], {"repetition_penalty": 1.2})
    with pytest.raises(NotImplementedError, match="image_data"):
        asyncio.run(server.generate("a", [9], {}, image_data=["image"], video_data=None))


def test_verls_empty_extras_are_accepted(server: TransformersServer) -> None:
    output = asyncio.run(server.generate("a", [9], {"seed": 0, "logprobs": True}, image_data=None, video_data=[]))
    assert output.token_ids == server.sample_batch([[9]], [0], {})[0][0]
