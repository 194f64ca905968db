"""The estimate's arithmetic, against models that are built without memory, published counts and sums by hand."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from harness.config import ConfigError
from harness.estimate.architecture import Shape, shape_of
from harness.estimate.cost import gpu_of, main, rows, sampling, step, tokens_per_gpu, training
from harness.estimate.published import Measured, measured
from harness.estimate.seconds import ERROR, Work, step_seconds
from harness.paper_settings import PRESETS
from harness.paths import CONF

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"
Flat = dict[str, Any]
SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def numbers(policy: str) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / "policy" / f"{policy}.yaml"))
    return content["harness"]["shape"]


POLICIES = ("qwen25_05b", "qwen25_15b", "qwen25_7b", "qwen25_vl_7b", "qwen3_30b_a3b")
SHAPES = {**{name: numbers(name) for name in POLICIES}, "smollm2": SMOLLM2}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_model_that_transformers_builds(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    builder = AutoModelForImageTextToText if "vl" in name else AutoModelForCausalLM
    with torch.device("meta"):
        model = builder.from_config(AutoConfig.for_model(**SHAPES[name]))
    assert Shape.of(SHAPES[name]).parameters == sum(weights.numel() for weights in model.parameters())


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen25_05b", 0.49), ("qwen25_15b", 1.54), ("qwen25_7b", 7.62), ("qwen3_30b_a3b", 30.5), ("smollm2", 0.135)],
)
def test_parameters_are_the_published_ones(name: str, billions: float) -> None:
    assert Shape.of(SHAPES[name]).parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_active_parameters_of_a_mixture() -> None:
    """Published: 3.3 B. A dense model's are all."""
    assert Shape.of(SHAPES["qwen3_30b_a3b"]).active / 1e9 == pytest.approx(3.3, abs=0.06)
    dense = Shape.of(SHAPES["qwen25_7b"])
    assert dense.active == dense.parameters


def test_a_nested_text_config_is_read_as_a_flat_one() -> None:
    flat = SHAPES["qwen25_vl_7b"]
    text = {key: value for key, value in flat.items() if key not in ("model_type", "vision_config")}
    nested = {
        "model_type": "qwen2_5_vl",
        "text_config": {**text, "model_type": "qwen2_5_vl_text"},
        "vision_config": flat["vision_config"],
    }
    assert Shape.of(nested) == Shape.of(flat)


@pytest.mark.parametrize(
    ("content", "words"),
    [({"model_type": "mamba"}, "model_type=mamba.*qwen2"), ({"model_type": "qwen2"}, "lacks num_attention_heads")],
)
def test_a_model_that_cannot_be_counted_is_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Shape.of(content)


# Two layers of width 8 with 2 heads of 4, 1 of them for keys, MLPs of 16, 32 words: counted by hand.
TOY = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}
TOY_LAYER = 64 + 64 + 32 + 32 + 3 * 128 + 16  # q, o, k, v, MLP, two norms
TOY_PARAMETERS = 256 + 2 * TOY_LAYER + 8
FSDP = {
    f"{ACTOR}.strategy": "fsdp2",
    f"{ACTOR}.fsdp_config.param_offload": False,
    f"{ACTOR}.fsdp_config.optimizer_offload": False,
    f"{ACTOR}.ulysses_sequence_parallel_size": 1,
    f"{ACTOR}.use_dynamic_bsz": True,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 100,
    f"{ACTOR}.ppo_epochs": 1,
    f"{MODEL}.enable_gradient_checkpointing": True,
    "trainer.nnodes": 1,
    "trainer.n_gpus_per_node": 1,
    "data.train_batch_size": 3,
    "data.max_prompt_length": 10,
    "data.max_response_length": 30,
    f"{ROLLOUT}.n": 2,
}
GPU = {
    "harness.gpu.memory_gb": 80,
    "harness.gpu.peak_tflops": 1.0,
    "harness.gpu.bandwidth_gb": 1e-3,
    "harness.gpu.utilisation.dense": 0.5,
    "harness.gpu.utilisation.experts": 0.1,
    "harness.gpu.utilisation.bandwidth": 0.25,
    "harness.gpu.layer_seconds": 0.01,
}


def test_the_toy_is_counted_by_hand() -> None:
    shape = Shape.of(TOY)
    assert shape.parameters == TOY_PARAMETERS
    assert shape.kv_bytes() == 2 * 2 * 4 * 2  # keys and values, 2 layers, 1 head of 4, 2 bytes
    untied = Shape.of({**TOY, "tie_word_embeddings": False})
    assert untied.parameters - shape.parameters == 256
    assert untied.multiplied == shape.multiplied == TOY_PARAMETERS


def test_published_sizes_of_the_kv_cache() -> None:
    """Qwen2.5-7B: 28 layers, 4 heads of 128 for keys and values: 56 KiB a token; 32 Ki tokens are 1.75 GiB."""
    shape = Shape.of(SHAPES["qwen25_7b"])
    assert shape.kv_bytes() == 56 * 1024
    assert shape.kv_bytes() * 32768 == 1.75 * 2**30


@pytest.mark.parametrize("ranks", [1, 4])
def test_fsdp_holds_sixteen_bytes_a_parameter_and_shards_them(ranks: int) -> None:
    one = training({**FSDP, "trainer.n_gpus_per_node": ranks}, Shape.of(TOY))
    assert (one.weights + one.gradients + one.optimizer) * ranks == 16 * TOY_PARAMETERS
    assert one.checkpoint == 12 * TOY_PARAMETERS
    assert one.resident * ranks == 12 * TOY_PARAMETERS, "gradients are dropped before sampling"


def test_activations_and_logits_by_hand() -> None:
    """bfloat16: 2 bytes of each layer's input a token with recomputation, and one layer's numbers."""
    one = training(FSDP, Shape.of(TOY))
    layer = 4 * 8 + 2 * 8 + 2 * 4 + 4 * 16
    assert one.activations == 100 * 2 * (8 * 2 + layer)
    assert one.logits == 100 * 32 * (2 + 4 + 2)
    kept = training({**FSDP, f"{MODEL}.enable_gradient_checkpointing": False}, Shape.of(TOY))
    assert kept.activations == 100 * 2 * 2 * layer


def test_float32_doubles_what_the_forward_pass_holds() -> None:
    half, full = (
        training({**FSDP, **extra}, Shape.of(TOY))
        for extra in ({}, {f"{ACTOR}.fsdp_config.mixed_precision.param_dtype": "fp32"})
    )
    assert full.activations == 2 * half.activations
    assert full.weights == half.weights


def test_offloaded_states_are_not_resident_while_sampling() -> None:
    flat = {
        **FSDP,
        f"{ACTOR}.fsdp_config.param_offload": True,
        f"{ACTOR}.fsdp_config.optimizer_offload": True,
    }
    assert training(flat, Shape.of(TOY)).resident == 0
    assert training(flat, Shape.of(TOY)).total == training(FSDP, Shape.of(TOY)).total


def megatron(**sizes: int) -> Flat:
    engine = f"{ACTOR}.megatron"
    flat = {key: value for key, value in FSDP.items() if "fsdp" not in key and "ulysses" not in key}
    parts = {"tensor_model": 1, "pipeline_model": 1, "context": 1, "expert_model": 1, "expert_tensor": 1} | sizes
    return {
        **flat,
        f"{ACTOR}.strategy": "megatron",
        **{f"{engine}.{name}_parallel_size": size for name, size in parts.items()},
        f"{engine}.override_transformer_config.recompute_granularity": "full",
        f"{engine}.param_offload": False,
        f"{engine}.optimizer_offload": False,
    }


MIXTURE = {
    **TOY,
    "model_type": "qwen3_moe",
    "head_dim": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


def test_megatron_shards_experts_and_the_rest_apart() -> None:
    """8 GPUs: dense weights over 2 tensor ranks, experts over 4; the optimizer over the 4 and 2 copies of them."""
    shape = Shape.of(MIXTURE)
    experts = 2 * 4 * 3 * 8 * 16
    dense = shape.parameters - experts
    flat = {**megatron(tensor_model=2, expert_model=4), "trainer.n_gpus_per_node": 8}
    one = training(flat, shape)
    local = dense / 2 + experts / 4
    assert (one.weights, one.gradients) == (2 * local, 4 * local)
    assert one.optimizer == pytest.approx(12 * (dense / 2 / 4 + experts / 4 / 2))
    assert one.checkpoint == 14 * shape.parameters
    assert one.logits == training(megatron(), shape).logits / 2


def test_megatron_on_one_gpu_holds_eighteen_bytes_a_parameter() -> None:
    shape = Shape.of(MIXTURE)
    one = training(megatron(), shape)
    assert one.weights + one.gradients + one.optimizer == 18 * shape.parameters


def test_tokens_of_a_micro_batch() -> None:
    """By tokens with dynamic batches; else responses of full length, shared by the ranks of a sequence."""
    static = {**FSDP, f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 2}
    assert tokens_per_gpu(FSDP) == 100
    assert tokens_per_gpu(static) == 80
    assert tokens_per_gpu({**static, f"{ACTOR}.ulysses_sequence_parallel_size": 4}) == 20


def test_sampling_by_hand() -> None:
    """8 GPUs, 4 to an engine, half of 80 GB each: what the weights leave is cache."""
    shape = Shape.of(SHAPES["qwen25_7b"])
    flat = {**FSDP, **GPU, "trainer.n_gpus_per_node": 8, "data.train_batch_size": 128, f"{ROLLOUT}.n": 8}
    one = sampling(
        {**flat, f"{ROLLOUT}.tensor_model_parallel_size": 4, f"{ROLLOUT}.gpu_memory_utilization": 0.5}, shape
    )
    assert one.weights == pytest.approx(3.81e9, rel=0.001)
    assert one.cache == pytest.approx(40e9 - 3.81e9, rel=0.001)
    assert one.kv_token == 14 * 1024
    assert one.share == 512
    wide = sampling(
        {**flat, f"{ROLLOUT}.tensor_model_parallel_size": 8, f"{ROLLOUT}.gpu_memory_utilization": 0.5}, shape
    )
    assert wide.kv_token == 14 * 1024, "4 heads cannot be split over 8 GPUs"


def test_a_steps_arithmetic_is_6nd_and_the_recomputed_forward_pass() -> None:
    """3 prompts, 2 responses to each, 10 + 30 tokens; attention adds 2 x 2 layers x 8 x 40 to a token's 2 N."""
    one = step({**FSDP, f"{MODEL}.enable_gradient_checkpointing": False}, Shape.of(TOY), 30)
    assert one.tokens == 240
    assert one.flops["update"] == 6 * TOY_PARAMETERS * 240 + 3 * 240 * 2 * 2 * 8 * 40
    assert one.flops["generate"] == one.flops["log_prob"] == one.flops["update"] / 3
    assert one.gpu_hours is None
    again = step(FSDP, Shape.of(TOY), 30)
    assert again.flops["update"] == pytest.approx(one.flops["update"] * 4 / 3)


def test_gpu_hours_by_hand() -> None:
    """6 responses of 10 + 30 tokens on one GPU of 1 TFLOP/s and 1 MB/s, of which half and a quarter are had."""
    shape = Shape.of(TOY)
    flat = {**FSDP, **GPU, f"{ROLLOUT}.tensor_model_parallel_size": 1, f"{ROLLOUT}.gpu_memory_utilization": 0.5}
    one = step(flat, shape, 30)
    training_part = 5 * one.flops["log_prob"] / 0.5e12  # log-probabilities, update, recomputation
    weights, cache = 30 * 2 * TOY_PARAMETERS, 6 * 40**2 / 2 * shape.kv_bytes()
    sampled = (weights + cache) / 0.25e6 + 30 * 2 * 0.01
    assert one.gpu_hours == pytest.approx([(sampled + training_part) / off / 3600 for off in (1.2, 0.8)])
    short = step(flat, shape, 5)  # the longest response is not at the limit, or is: 20 or 30 steps of decoding
    assert short.gpu_hours
    assert short.gpu_hours[1] / short.gpu_hours[0] > 1.5 * 20 / 30


@pytest.mark.parametrize("row", measured(), ids=lambda row: f"{row.source} {row.model} {row.gpus}")
def test_published_steps_are_given_within_the_stated_error(flat: Callable[..., Flat], row: Measured) -> None:
    """With the constants of the GPU presets; recipes recompute activations, so five passes."""
    work = Work(row.gpus, row.engine_gpus, row.responses, row.mean_length, row.longest, passes=5)
    off = step_seconds(row.shape, work, gpu_of(flat("experiment=text_moe"))) / row.seconds
    assert ERROR[0] * 0.99 <= off <= ERROR[1]
    assert 1 / 1.5 < off < 1.5


def test_the_measured_checkpoint_of_smollm2(flat: Callable[..., Flat]) -> None:
    """verl wrote about 1.6 GB: weights and two moments in float32."""
    one = training(flat("experiment=smollm2"), Shape.of(SMOLLM2))
    assert one.checkpoint / 1e9 == pytest.approx(1.6, abs=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_gpus(flat: Callable[..., Flat], name: str) -> None:
    table = dict(rows(flat(f"experiment={name}")))
    assert table["fits"].startswith("yes"), table
    sample = sampling(flat(f"experiment={name}"), shape_of(flat(f"experiment={name}")))
    longest = flat(f"experiment={name}")[f"{ROLLOUT}.max_model_len"]
    assert sample.room >= 8 * longest, "a handful of responses of full length at once"


def test_what_does_not_fit_is_said(flat: Callable[..., Flat]) -> None:
    config = {**flat("experiment=text_dense"), "trainer.n_gpus_per_node": 1}
    assert dict(rows(config))["fits"].startswith("NO, ")


def test_the_folders_config_json_comes_before_the_policys_numbers(flat: Callable[..., Flat], tmp_path: Path) -> None:
    import json

    config = flat("experiment=text_dense")
    assert math.isclose(shape_of(config).parameters, 7.62e9, rel_tol=0.001)
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    assert shape_of({**config, f"{MODEL}.path": str(tmp_path)}) == Shape.of(SMOLLM2)
    neither = {key: value for key, value in config.items() if not key.startswith("harness.shape")}
    with pytest.raises(ConfigError, match=r"neither a folder with config\.json nor"):
        shape_of(neither)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiment=text_dense_1gpu", "policy=qwen25_05b"]) == 0
    out = capsys.readouterr().out
    assert "0.494 B" in out
    assert "GPU-hours" in out


@pytest.mark.parametrize("override", ["experiment=nope", "no_such_key=1"])
def test_a_mistake_ends_in_one_line(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([override]) == 2
    assert re.fullmatch(rf"error: {override}: no such [^\n]+\n", capsys.readouterr().err)
