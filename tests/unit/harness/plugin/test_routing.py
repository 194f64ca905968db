"""Which experts a token goes to: read from the routers by hooks, compared by hand, and left as it was found."""

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recorded_rows import LENGTHS, PROMPTS, make_rows, micro_batch, model_output
from small_models import EOS, PARAMS, requests, small_model

from harness.plugin import routing, sampling
from harness.plugin.metrics import routing_metrics
from harness.plugin.routing import FIELD, Routers, changed

LAYERS, K, EXPERTS = 2, 2, 4


def by_formula(model: Any, tokens: list[int]) -> np.ndarray:
    """(tokens, layers, k): the k largest router logits of each layer, from what transformers itself records."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), output_router_logits=True).router_logits
    return np.stack([np.sort(np.argsort(-layer.reshape(len(tokens), EXPERTS).numpy())[:, :K]) for layer in logits], 1)


def test_a_rollout_says_which_experts_prompt_and_response_went_to() -> None:
    prompts, seeds = requests()  # of unequal lengths, and answers that end at unequal times
    model = small_model("qwen3_moe")
    plain = sampling.sample(model, prompts, seeds, PARAMS, EOS)
    watched = sampling.sample(model, prompts, seeds, PARAMS, EOS, Routers(model))
    assert len({len(answer.tokens) for answer in watched}) > 5
    for prompt, without, answer in zip(prompts, plain, watched, strict=True):
        assert answer[:3] == without[:3]
        assert without.experts is None
        assert (answer.experts == by_formula(model, prompt + answer.tokens)[:-1]).all()


def test_a_model_without_experts_has_no_hook() -> None:
    model = small_model("qwen2")
    assert not Routers(model)
    assert not any(module._forward_hooks for module in model.modules())
    assert sampling.sample(model, *requests(2), PARAMS, EOS, Routers(model))[0].experts is None


def chosen_at_random(seed: int = 0) -> list[np.ndarray]:
    """Of each response of ``make_rows``: (tokens, layers, k), two different experts of four, in any order."""
    rng = np.random.default_rng(seed)
    sizes = [prompt + length for prompt, length in zip(PROMPTS, LENGTHS, strict=True)]
    return [rng.permuted(np.tile(np.arange(EXPERTS), (n, LAYERS, 1)), axis=-1)[..., :K] for n in sizes]


def as_field(chosen: list[np.ndarray]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(one, dtype=torch.int16) for one in chosen], layout=torch.jagged)


def as_pass(chosen: list[np.ndarray], padded: bool) -> torch.Tensor:
    """What ``Routers.chosen`` gives of a pass over these sequences, without padding or padded on the right."""
    longest = max(map(len, chosen))
    parts = [np.sort(one, -1) for one in chosen]
    if padded:
        parts = [np.concatenate([one, np.full((longest - len(one), LAYERS, K), 9)]) for one in parts]
    return torch.tensor(np.concatenate(parts), dtype=torch.int16)


@pytest.mark.parametrize("padded", [False, True])
def test_changed_tokens_are_counted_where_they_are_predicted(padded: bool) -> None:
    rows, before, after = make_rows("sequence"), chosen_at_random(0), chosen_at_random(1)
    before[0][-1] = 0  # nobody chose for a last token: verl leaves zeros there
    found = changed(as_pass(after, padded), micro_batch(rows, **{FIELD: as_field(before)}))
    for i, row in enumerate(rows):
        other = []  # for each token of the response, the layers whose set is another one
        for t in range(len(row.response)):
            at = len(row.prompt) + t - 1
            other.append([set(before[i][at, layer]) != set(after[i][at, layer]) for layer in range(LAYERS)])
        expected = [] if row.masked else other
        assert found[i]["routing_changed"] == sum(map(any, expected))
        assert found[i]["routing_changed_layers"] == pytest.approx(np.mean(expected) if expected else 0)
    assert 0 < sum(one["routing_changed"] for one in found) < sum(LENGTHS)


def test_the_order_of_the_experts_is_no_change() -> None:
    chosen = chosen_at_random()
    turned = [one[..., ::-1].copy() for one in chosen]
    found = changed(as_pass(chosen, True), micro_batch(make_rows("sequence"), **{FIELD: as_field(turned)}))
    assert [one["routing_changed"] for one in found] == [0] * len(LENGTHS)


def test_what_cannot_be_compared_has_no_columns() -> None:
    rows, chosen = make_rows("sequence"), chosen_at_random()
    assert not any(changed(as_pass(chosen, False), micro_batch(rows)))  # a rollout that does not say
    share = as_pass(chosen, False)[::2]  # one rank's tokens of a sequence that several share
    assert not any(changed(share, micro_batch(rows, **{FIELD: as_field(chosen)})))


def test_rows_of_a_mixture_have_the_columns_and_others_do_not(actor: Callable[..., Any]) -> None:
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import ROWS, RecordingLoss
    from harness.rundir import ROUTING_COLUMNS

    model, rows = small_model("qwen3_moe"), make_rows("sequence")
    config = actor("algo=gspo")
    tokens = [[token % 40 for token in row.prompt + row.response] for row in rows]
    here = [by_formula(model, row) for row in tokens]
    routers, longest = Routers(model), max(map(len, tokens))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in tokens])
    model(input_ids=padded)  # causal: padding on the right changes nothing before it
    results = []
    for one in (None, routers):
        loss = RecordingLoss(partial(ppo_loss, config=config), config, routers=one)
        output, leaf = model_output(rows)
        value, metrics = loss(output, micro_batch(rows, **{FIELD: as_field(here)}))
        value.backward()
        results.append((value.detach(), leaf.grad, metrics[ROWS]))
    (first, gradient, without), (second, same, with_columns) = results
    assert torch.equal(first, second)
    assert torch.equal(gradient, same)
    for plain, row in zip(without, with_columns, strict=True):
        assert row == plain | dict.fromkeys(ROUTING_COLUMNS, 0)  # one and the same weights


@pytest.mark.parametrize("colocated", [False, True])
def test_a_workers_loss_gets_the_routers_of_its_model(colocated: bool) -> None:
    def role(module: Any) -> SimpleNamespace:
        return SimpleNamespace(
            actor=SimpleNamespace(engine=SimpleNamespace(module=module), loss_fn=SimpleNamespace(routers=None))
        )

    mixture, megatron = role(small_model("qwen3_moe")), role([small_model("qwen3_moe")])  # a list of parts
    for one in (mixture, megatron):
        roles = {"actor_rollout": one, "ref": SimpleNamespace()}
        routing._watch(SimpleNamespace(worker_dict=roles) if colocated else one)
    assert mixture.actor.loss_fn.routers
    assert megatron.actor.loss_fn.routers is None


def test_other_weights_choose_other_experts() -> None:
    model = small_model("qwen3_moe")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in other.model.layers:
            layer.mlp.gate.weight[:] = layer.mlp.gate.weight.flip(0)  # expert i is now expert 3 - i
    tokens = list(range(8, 30))
    routers, mirrored = Routers(model), Routers(other)
    for one in (model, other):
        one(input_ids=torch.tensor([tokens]))
    first = routers.chosen()[:, 0]
    assert torch.equal((3 - first).sort(-1).values, mirrored.chosen()[:, 0])


def test_metrics_are_sums_over_sums() -> None:
    rows = pd.DataFrame(
        {
            "update": [1, 1, 2, 2, 3],
            "tokens": [10, 30, 10, 10, 20],
            "routing_changed": [0, 1, 1, 4, 10],
            "routing_changed_layers": [0.0, 0.0125, 0.05, 0.2, 0.5],
        }
    )
    assert routing_metrics(rows) == pytest.approx(
        {
            "onpolicy_routing_changed_frac": 1 / 40,
            "routing_changed_frac_update2": 5 / 20,
            "routing_changed_frac_update3": 10 / 20,
            "routing_changed_frac": 15 / 40,
            "routing_changed_layers_frac": (0.05 * 10 + 0.2 * 10 + 0.5 * 20) / 40,
        }
    )
    assert set(routing_metrics(rows[rows["update"] == 1])) == {"onpolicy_routing_changed_frac"}
