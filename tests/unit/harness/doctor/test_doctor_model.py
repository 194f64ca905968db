"""The model's folder: whole, of the right architecture, with a tokenizer that can chat."""

import json
from pathlib import Path

import numpy as np
import pytest
from doctoring import MODEL, Flat, only
from safetensors.numpy import save_file

from harness.doctor.finding import findings
from harness.doctor.model import architecture, tokenizer, weights


@pytest.fixture
def sharded(copied: tuple[Flat, Path]) -> tuple[Flat, Path]:
    """The model's weights in two files with an index."""
    flat, folder = copied
    (folder / "model.safetensors").unlink()
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in names.items():
        save_file({name: np.ones((2, 3), np.float32)}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    return flat, folder


def test_all_shards_are_there(sharded: tuple[Flat, Path]) -> None:
    flat, folder = sharded
    only(weights(flat), "ok", "12 parameters")
    (folder / "model-00002-of-00002.safetensors").unlink()
    finding = only(weights(flat), "failure", "lacks 1 files", "model-00002-of-00002.safetensors")
    assert "00001" not in finding.found


def test_a_shard_that_was_cut_short(sharded: tuple[Flat, Path]) -> None:
    flat, folder = sharded
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    only(weights(flat), "failure", file.name, "not whole")


def test_no_folder_is_one_failure(tiny: Flat) -> None:
    absent = tiny | {MODEL: "Qwen/Nowhere"}
    (finding,) = findings(weights, absent)
    assert finding.level == "failure"
    assert "hf download Qwen/Nowhere" in finding.found
    assert [*architecture(absent), *tokenizer(absent)] == []


def test_an_architecture_that_transformers_lacks(copied: tuple[Flat, Path]) -> None:
    flat, folder = copied
    only(architecture(flat), "ok", "Qwen2ForCausalLM")
    content = json.loads((folder / "config.json").read_text()) | {"architectures": ["Qwen9ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(content))
    only(architecture(flat), "failure", "Qwen9ForCausalLM")
    (folder / "config.json").write_text(json.dumps(content | {"architectures": None}))
    only(architecture(flat), "failure", "no architecture")


def test_a_model_of_other_sizes_than_the_policy_s(copied: tuple[Flat, Path]) -> None:
    flat, folder = copied
    sizes = {"harness.shape.hidden_size": 64, "harness.shape.num_hidden_layers": 28}
    found = only(architecture(flat | sizes), "warning", "num_hidden_layers 2, not 28")
    assert "hidden_size" not in found.found
    assert "policy=" in found.remedy
    content = json.loads((folder / "config.json").read_text())
    nested = {"architectures": content.pop("architectures"), "text_config": content}
    (folder / "config.json").write_text(json.dumps(nested))
    only(architecture(flat | sizes), "warning", "num_hidden_layers 2, not 28")
    only(architecture(flat | {"harness.shape.hidden_size": 64, "harness.shape.vision_config.depth": 32}), "ok")


def test_a_tokenizer_without_a_chat_template(copied: tuple[Flat, Path]) -> None:
    flat, folder = copied
    only(tokenizer(flat), "ok", "chat template")
    (folder / "chat_template.jinja").unlink()
    only(tokenizer(flat), "failure", "no chat template")
    given = {"actor_rollout_ref.model.custom_chat_template": "{{ messages[0]['content'] }}"}
    only(tokenizer(flat | given), "ok")
    (folder / "chat_template.jinja").write_text("hello")
    only(tokenizer(flat), "failure", "leaves the question out")
    (folder / "tokenizer.json").write_text("{")
    only(tokenizer(flat), "failure", "does not load")
