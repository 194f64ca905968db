"""The task against an independent reading of its grammar; the base model's folder against verl's own loaders."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.config.matching import content_hashes
from harness.tasks.cache import NotBuiltError, nothing_built
from harness.tasks.tiny import task as tiny
from harness.tasks.tiny.asset import asset

EOS = "<|im_end|>"
NUMBER = r"(?:[0-9]|[1-5][0-9]|6[0-3])"
PASS = " ".join(f"{letter} {NUMBER}" for letter in "abcdefgh")
WORKED = rf"(?P<passes>{PASS}(?: \? {PASS}){{0,2}}) "
FILLED = rf"(?P<number>{NUMBER}) (?:\. )*"
RESPONSE = re.compile(rf"(?:{WORKED}|{FILLED})?# (?P<answer>{NUMBER}) {re.escape(EOS)}")
FIRST, SECOND = tiny.PHASES["tiny"]


def draw(phase, count, seed=0):
    """``count`` pairs (digits, response as text with a space before every word but the first)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        digits = tiny.digits_of(int(rng.integers(4**8)))
        yield digits, " ".join(tiny.sample_response(phase, digits, rng))


def right(digits, match):
    return int(match["answer"]) == sum(digits)


def near(share, expected, count):
    """Within four standard errors of a binomial share."""
    return abs(share - expected) <= 4 * (expected * (1 - expected) / count) ** 0.5


def test_prompts():
    assert tiny.prompt((3, 0, 2, 1, 3, 0, 2, 1)) == "a3 b0 c2 d1 e3 f0 g2 h1 ="
    assert tiny.digits_of(0) == (0,) * 8
    assert tiny.digits_of(int("30213021", 4)) == (3, 0, 2, 1, 3, 0, 2, 1)
    assert tiny.PROMPTS == 65536


@pytest.mark.parametrize("phase", [*tiny.PHASES["tiny"], *tiny.PHASES["tiny_neutral"]])
def test_responses_obey_the_grammar_and_the_limit(phase):
    for _, response in draw(phase, 500):
        assert RESPONSE.fullmatch(response), response
        assert len(response.split()) <= tiny.RESPONSE_LIMIT


def test_clean_passes_are_running_totals():
    for digits, response in draw(dataclasses.replace(FIRST, direct=0.0), 200):
        totals = [int(number) for number in re.findall(r"[a-h] (\d+)", response)]
        assert totals == np.cumsum(digits).tolist()
        assert right(digits, RESPONSE.fullmatch(response))


def test_modes_of_tiny_have_the_recipe_lengths_shares_and_errors():
    samples = [(digits, RESPONSE.fullmatch(response)) for digits, response in draw(SECOND, 8000)]
    by_length: dict[int, list[tuple]] = {}
    for digits, match in samples:
        by_length.setdefault(len(match[0].split()), []).append((digits, match))
    shares = {3: 0.5, 19: 0.25, 36: 0.125, 53: 0.125}
    assert by_length.keys() == shares.keys()
    for length, expected in shares.items():
        assert near(len(by_length[length]) / 8000, expected, 8000)

    direct = [int(match["answer"]) - sum(digits) for digits, match in by_length[3]]
    assert near(np.mean([error == 0 for error in direct]), 0.4, len(direct))
    assert set(direct) == {-2, -1, 0, 1, 2}

    # a slip shows as a step other than the digit; at a total of 0 some slips are clamped away, so those are left out
    steps: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for digits, match in samples:
        for number, text in enumerate(match["passes"].split(" ? ") if match["passes"] else []):
            totals = [0, *(int(total) for total in re.findall(r"\d+", text))]
            for before, after, digit in zip(totals, totals[1:], digits, strict=False):
                if before + digit >= 2:
                    steps[number].append(after - before - digit)
    for number, slip in enumerate((0.10, 0.05, 0.025)):
        assert set(steps[number]) == {-2, -1, 0, 1, 2}
        assert near(np.mean(np.array(steps[number]) != 0), slip, len(steps[number]))


def test_length_is_independent_of_correctness_in_tiny_neutral():
    outcomes = pd.DataFrame(
        {"length": len(response.split()), "right": right(digits, match), "copied": match["number"] == match["answer"]}
        for digits, response in draw(tiny.PHASES["tiny_neutral"][1], 8000)
        for match in [RESPONSE.fullmatch(response)]
    )
    assert outcomes["copied"].all()
    table = outcomes.groupby("length")["right"].agg(["mean", "size"])
    assert table.index.tolist() == [4, 12, 28, 52]
    for mean, size in table.itertuples(index=False):
        assert near(mean, 0.5, size)
        assert near(size / 8000, 0.25, 8000)


@pytest.mark.parametrize(
    ("response", "finished", "accuracy"),
    [
        (f" # 12{EOS}", True, 1.0),
        (f" a 1 b 3 ? . # 12{EOS}", True, 1.0),  # only the end counts
        (f" # 11 # 12{EOS}", True, 1.0),
        (f" # 12{EOS}", False, 0.0),
        (" # 12", True, 0.0),
        (f" # 1{EOS}", True, 0.0),
        (f" # 112{EOS}", True, 0.0),
        (f" # 12 13{EOS}", True, 0.0),
        (f" 12{EOS}", True, 0.0),
        (f" # 12 ={EOS}", True, 0.0),
        ("", True, 0.0),
        ("\x00\udcff(*[", True, 0.0),
    ],
)
def test_grade(response, finished, accuracy):
    assert tiny.grade(response, "12", finished) == {"accuracy": accuracy}


def test_grading_imports_no_torch():
    code = "import sys, harness.tasks.tiny; sys.exit(bool({'torch', 'transformers', 'verl'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_asset_names_the_variants_and_records_every_number(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_ASSETS", str(tmp_path))
    monkeypatch.setattr("harness.tasks.tiny.base_model.build", lambda folder, variant, seed: (folder / "model").mkdir())
    folders = [asset("tiny"), asset("tiny", seed=1), asset("tiny_neutral")]
    assert len(set(folders)) == 3
    assert folders[0] == asset("tiny", seed=0)
    written = json.loads((folders[1] / "recipe.json").read_text())
    assert (written["variant"], written["seed"], written["learning_rate"]) == ("tiny", 1, 4e-3)
    assert written["phases"][1]["slips"] == [0.10, 0.05, 0.025]
    with pytest.raises(ValueError, match="tiny_odd"):
        asset("tiny_odd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What build writes, after ten steps of training."""
    return write(tmp_path_factory.mktemp("tiny"))


def write(folder: Path, variant: str = "tiny", **changes) -> Path:
    from harness.tasks.tiny import base_model as tiny_base

    few = {"steps": 10, "warmup_steps": 2}
    tiny_base.write(folder, dataclasses.replace(tiny.recipe(variant, 0), **{**few, **changes}))
    return folder


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_same_seed_same_bytes_and_no_global_state(folder, tmp_path):
    import torch

    threads, before = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    np_before = np.random.get_state()[1].copy()
    try:
        again = write(tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], np_before)
    assert weights_hash(again) == weights_hash(folder)
    for name in ("train.parquet", "heldout.parquet"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_another_seed_another_model_same_data(folder, tmp_path):
    other = write(tmp_path, seed=1)
    assert weights_hash(other) != weights_hash(folder)
    assert (other / "train.parquet").read_bytes() == (folder / "train.parquet").read_bytes()


def test_model_is_the_recipes_qwen2(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    # embeddings, then per layer q, k, v with bias, o, three matrices of the MLP, two norms; the final norm
    layer = 3 * (64 * 64 + 64) + 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert sum(parameter.numel() for parameter in model.parameters()) == 189 * 64 + 2 * layer + 64 == 94_720
    assert model.config.model_type == "qwen2"
    assert model.config.rope_parameters["rope_theta"] == 10_000
    generation = json.loads((folder / "model" / "generation_config.json").read_text())
    assert (generation["pad_token_id"], generation["eos_token_id"]) == (0, 1)


def test_training_learns_how_a_response_begins(tmp_path):
    """Forty steps suffice for the easiest thing: a response of tiny_neutral begins with a possible sum."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write(tmp_path, "tiny_neutral", steps=40)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    prompt = torch.tensor([tokenizer.encode("a3 b0 c2 d1 e3 f0 g2 h1 =")])
    with torch.no_grad():
        probabilities = model(prompt).logits[0, -1].softmax(-1)
    assert probabilities[tokenizer.convert_tokens_to_ids([f" {total}" for total in range(25)])].sum() > 0.5


def test_learning_rate():
    from harness.tasks.supervised import Schedule, learning_rate_factor

    factors = [learning_rate_factor(Schedule(), step) for step in range(1000)]
    assert factors[0] == pytest.approx(1 / 50)
    assert factors[49] == factors[50] == 1.0
    assert factors[525] == pytest.approx((1 + 0.05) / 2)  # half-way down the cosine
    assert factors[-1] == pytest.approx(0.05, abs=1e-4)


def test_parquet_has_verls_columns(folder):
    train, heldout = (pd.read_parquet(folder / f"{name}.parquet") for name in ("train", "heldout"))
    assert (len(train), len(heldout)) == (4096, 128)
    rows = pd.concat([train, heldout])
    assert rows.columns.tolist() == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert set(rows["data_source"]) == {"tiny"}
    texts = [message["content"] for (message,) in rows["prompt"]]
    assert len(set(texts)) == len(rows)
    assert len({extra["index"] for extra in rows["extra_info"]}) == len(rows)
    assert [extra["split"] for extra in rows["extra_info"]] == ["train"] * 4096 + ["heldout"] * 128
    for text, reward in zip(texts, rows["reward_model"], strict=True):
        assert re.fullmatch(" ".join(f"{letter}[0-3]" for letter in "abcdefgh") + " =", text)
        assert reward == {"style": "rule", "ground_truth": str(sum(map(int, re.findall(r"\d", text))))}


def test_tokenizer_round_trip_through_verl(folder):
    from transformers import AutoTokenizer
    from verl.utils import hf_tokenizer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    messages = [{"role": "user", "content": "a3 b0 c2 d1 e3 f0 g2 h1 ="}]
    response = " a 3 b 3 c 5 ? . # 12"
    for load in (AutoTokenizer.from_pretrained, hf_tokenizer):
        tokenizer = load(str(folder / "model"))
        prompt = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(prompt) == ["a3", " b0", " c2", " d1", " e3", " f0", " g2", " h1", " ="]
        assert tokenizer.decode(prompt) == messages[0]["content"]
        assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS, "<|endoftext|>")

        # every id survives decoding and encoding, so nothing can vanish from a response
        for number in range(64):
            assert len(tokenizer.encode(f" {number}")) == 1
        ids = list(range(len(tokenizer)))
        assert len(ids) == 189
        assert [tokenizer.encode(tokenizer.decode([i], skip_special_tokens=False)) for i in ids] == [[i] for i in ids]

        builder = create_continuous_token_builder(tokenizer, hf_model_type="qwen2")
        assert builder.build_initial_tokens(messages) == prompt
        for text in (response, response + EOS):
            tokens = tokenizer.encode(text)
            assert len(tokens) == 10 + text.endswith(EOS)
            assert tokenizer.decode(tokens, skip_special_tokens=False) == text
            assert builder.merge_assistant_tokens(prompt, tokens).token_ids == prompt + tokens


@pytest.mark.parametrize("variant", ["tiny", "tiny_neutral"])
def test_the_shipped_base_is_the_one_of_the_reference_runs(variant, tmp_path, monkeypatch):
    """No training, on any machine, and the hashes that the manifests of results/reference wrote down."""
    monkeypatch.setenv("HARNESS_ASSETS", str(tmp_path))
    monkeypatch.setattr("harness.tasks.tiny.base_model.build", lambda *arguments: pytest.fail("trained a base model"))
    with nothing_built():
        folder = asset(variant)
    files = {"actor_rollout_ref.model.path": folder / "model", "data.train_files": folder / "train.parquet"}
    hashes = content_hashes({key: str(file) for key, file in files.items()})
    reference = Path(__file__).parents[4] / "results" / "reference" / variant
    for manifest in reference.glob("*/seed=*/manifest.json"):
        assert json.loads(manifest.read_text())["controlled"].items() >= hashes.items()
    assert list(reference.glob("*/seed=*/manifest.json"))


def test_what_would_have_to_be_built_is_not_built_for_a_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_ASSETS", str(tmp_path))
    with nothing_built(), pytest.raises(NotBuiltError, match="tiny is not built yet"):
        asset("tiny", seed=1)
    assert list(tmp_path.iterdir()) == []


def test_the_answer_is_the_number_before_the_end() -> None:
    assert tiny.answer("a 3 b 5 # 12<|im_end|>", True) == "12"
    assert tiny.answer("# 4 ? a 3 # 12<|im_end|>", True) == "12"
    assert [tiny.answer(text, done) for text, done in (("# 12", False), ("a 3", True), ("# a", True))] == ["", "", ""]
