"""Sampling by definition and by brute force: a response is a function of weights, prompt and its own uniforms."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from small_models import EOS, PARAMS, VOCABULARY, requests, small_model
from transformers import GenerationConfig

from harness.plugin import sampling
from harness.plugin.sampling import SamplingParams, draw, eos_token_ids, processed_log_probs, response_seed, uniforms

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


# gpt2 has absolute positions, which padding on the left must not shift; the others see distances only.
@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return small_model(request.param)


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
    for (tokens, log_probs, entropies, *_), (others, other_log_probs, other_entropies, *_) in zip(
        sample_in(model, WHOLE), sample_in(model, CUTS[cut]), strict=True
    ):
        assert tokens == others
        assert log_probs == pytest.approx(other_log_probs, abs=1e-5)
        assert entropies == pytest.approx(other_entropies, abs=1e-5)


@pytest.mark.parametrize("compact_at", [0.0, 0.5, 1.0])
def test_a_response_does_not_depend_on_when_finished_rows_are_dropped(
    model: Any, monkeypatch: pytest.MonkeyPatch, compact_at: float
) -> None:
    expected = [one.tokens for one in sample_in(model, WHOLE)]
    monkeypatch.setattr(sampling, "COMPACT_AT", compact_at)
    assert [one.tokens for one in sample_in(model, WHOLE)] == expected


def test_a_response_ends_at_its_first_eos_or_at_the_limit(model: Any) -> None:
    responses = [one.tokens for one in sample_in(model, WHOLE)]
    assert all(not EOS & set(tokens[:-1]) for tokens in responses)
    assert all(tokens[-1] in EOS or len(tokens) == PARAMS.max_tokens for tokens in responses)
    ended = {tokens[-1] in EOS for tokens in responses}
    assert ended == {True, False}, "the test needs responses of both kinds"
    assert len({len(tokens) for tokens in responses}) > 4


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_fewer_tokens_are_a_prefix(model: Any, limit: int) -> None:
    longer = sample_in(model, WHOLE)
    shorter = sample_in(model, WHOLE, replace(PARAMS, max_tokens=limit))
    assert [one.tokens for one in shorter] == [tokens[:limit] for tokens, *_ in longer]


@pytest.mark.parametrize(
    "params",
    [PARAMS, replace(PARAMS, temperature=0.7), replace(PARAMS, top_k=5), replace(PARAMS, top_p=0.8, temperature=1.3)],
    ids=["plain", "temperature", "top_k", "top_p"],
)
def test_log_probabilities_and_entropies_are_those_of_a_pass_without_padding(
    model: Any, params: SamplingParams
) -> None:
    prompts, _ = requests()
    for prompt, (tokens, log_probs, entropies, *_) in zip(prompts, sample_in(model, WHOLE, params), strict=True):
        expected = teacher_forced(model, prompt, tokens, params)
        picked = expected.gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1)
        assert log_probs == pytest.approx(picked.tolist(), abs=1e-5)
        # scipy's, of the probabilities themselves
        assert entropies == pytest.approx(stats.entropy(expected.double().exp().numpy(), axis=-1).tolist(), abs=1e-5)


def test_tokens_are_the_inverse_cdf_of_their_own_numbers(model: Any) -> None:
    prompts, seeds = requests()
    checked = 0
    for prompt, seed, (tokens, *_) in zip(prompts, seeds, sample_in(model, WHOLE), strict=True):
        cumulative = teacher_forced(model, prompt, tokens, PARAMS).exp().cumsum(-1)
        for token, number, steps in zip(tokens, uniforms(seed, PARAMS.max_tokens), cumulative.tolist(), strict=False):
            if min(abs(number - step) for step in steps) > 1e-5:
                assert token == sum(step <= number for step in steps)
                checked += 1
    assert checked > 100


def test_first_tokens_of_many_seeds_follow_the_models_distribution(model: Any) -> None:
    prompt, count = [9, 12, 30], 6000
    answers = sampling.sample(model, [prompt] * count, list(range(count)), replace(PARAMS, max_tokens=1), EOS)
    counts = np.bincount([tokens[0] for tokens, *_ in answers], minlength=VOCABULARY)
    expected = teacher_forced(model, prompt, [0], PARAMS)[0].exp().numpy() * count
    assert expected.min() > 5
    assert stats.chisquare(counts, expected / expected.sum() * count).pvalue > 1e-3


def test_temperature_0_is_greedy_as_generate_is(model: Any) -> None:
    prompts, _ = requests()
    greedy = sample_in(model, WHOLE, replace(PARAMS, temperature=0.0))
    for prompt, (tokens, *_) in zip(prompts, greedy, strict=True):
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
