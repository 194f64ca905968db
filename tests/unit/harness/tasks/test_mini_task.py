"""mini_dense against an independent reading of its grammar, and its base model against the rules it was chosen by."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.tasks.cache import nothing_built
from harness.tasks.mini import task as mini
from harness.tasks.mini.asset import asset
from harness.tasks.mini.task import Phase
from harness.tasks.tiny import grade

EOS = "<|im_end|>"
STYLES = mini.recipe("mini_dense", 0).phases[-1]
PROMPT = re.compile(r"(?: [a-j][0-6]){4,10} =")


def by_hand(prompt: str) -> int:
    return sum(map(int, re.findall(r"\d", prompt))) % 7


def draw(phase: Phase, count: int, seed: int = 0):
    """``count`` pairs (text of the prompt, words of the response)."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        items = mini.draw_items(phase.fewest, phase.most, rng)
        yield mini.prompt(items), mini.sample_response(phase, items, rng)


def chains(words: list[str]) -> list[list[tuple[str, int]]]:
    """The (letter, total) steps of each pass."""
    text = " ".join(words).partition(" #")[0]
    return [[(letter, int(total)) for letter, total in re.findall(r"([a-j]) (\d)", part)] for part in text.split(" ? ")]


@pytest.mark.parametrize("phase", mini.recipe("mini_dense", 0).phases)
def test_every_supervised_step_is_the_sum_so_far(phase):
    for prompt, words in draw(phase, 300):
        digits = {letter: int(digit) for letter, digit in re.findall(r"([a-j])(\d)", prompt)}
        assert phase.fewest <= len(digits) <= phase.most
        assert list(digits) == sorted(digits)
        assert len(words) <= 96
        assert words[-3:] == ["#", str(by_hand(prompt)), EOS]
        passes = chains(words)
        assert 1 <= len(passes) <= 4
        assert len(words) == 2 * sum(map(len, passes)) + len(passes) - 1 + 3
        for steps in passes:
            letters = [letter for letter, _ in steps]
            assert letters == sorted(set(letters))
            assert letters[-1] == list(digits)[-1]
            for letter, total in steps:
                assert total == sum(digit for other, digit in digits.items() if other <= letter) % 7


def test_skipping_and_repeating_have_the_probabilities_of_the_phase():
    phase = Phase(1.0, 10, 10, skips=(0.25,), again=0.4)
    drawn = [chains(words) for _, words in draw(phase, 3000)]
    kept = [(len(steps) - 1) / 9 for passes in drawn for steps in passes]  # the last step is never skipped
    assert np.mean(kept) == pytest.approx(0.75, abs=0.01)
    assert np.mean([len(passes) for passes in drawn]) == pytest.approx(1 + 0.4 + 0.4**2 + 0.4**3, abs=0.06)


def test_slips_have_their_probability_and_the_pass_goes_on_from_them():
    phase = Phase(1.0, 10, 10, slip=0.05)
    slips, steps = 0, 0
    for prompt, words in draw(phase, 1000):
        totals = [0, *(total for _, total in chains(words)[0])]
        digits = [int(digit) for digit in re.findall(r"\d", prompt)]
        slips += sum(
            (after - before - digit) % 7 != 0 for before, after, digit in zip(totals, totals[1:], digits, strict=False)
        )
        steps += len(digits)
        assert words[-2] == str(totals[-1])
    assert slips / steps == pytest.approx(0.05, abs=0.007)


def test_one_probability_a_response_makes_steps_alike_within_it():
    phase = dataclasses.replace(STYLES, fewest=10, again=0.0)
    steps = np.array([len(words) // 2 - 1 for _, words in draw(phase, 4000)])
    expected = [np.mean([p**9 for p in phase.skips]), np.mean([(1 - p) ** 9 for p in phase.skips])]
    assert [np.mean(steps == 1), np.mean(steps == 10)] == pytest.approx(expected, abs=0.03)


def test_prompts_have_an_index_of_their_own():
    rng = np.random.default_rng(0)
    prompts = {mini.draw_items(1, 2, rng) for _ in range(4000)}
    assert len({mini.index_of(items) for items in prompts}) == len(prompts)
    assert mini.index_of((("a", 0),)) == 1
    assert mini.index_of((("b", 3), ("j", 6))) == 4 * 8 + 7 * 8**9
    assert mini.prompt((("b", 3), ("d", 0))) == " b3 d0 ="


@pytest.mark.parametrize(
    ("response", "finished", "accuracy"),
    [
        (f" b 3 d 3 e 2 h 3 # 3{EOS}", True, 1.0),
        (f" h 3 # 3{EOS}", True, 1.0),
        (f" e 2 h 3 ? h 3 # 3{EOS}", True, 1.0),
        (f" b 3 d 3 e 2 h 3 # 2{EOS}", True, 0.0),  # what is said is graded, not what was worked out
        (f" h 5 # 3{EOS}", True, 1.0),
        (f" h 3{EOS}", True, 0.0),
        (" b 3 d 3 e 2 h 3 # 3", False, 0.0),
    ],
)
def test_grading(response, finished, accuracy):
    """(3 + 0 + 6 + 1) mod 7 is 3."""
    truth = mini.answer_of((("b", 3), ("d", 0), ("e", 6), ("h", 1)))
    assert grade(response, str(truth), finished) == {"accuracy": accuracy}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What is written after a few steps of training."""
    return write(tmp_path_factory.mktemp("mini"))


def write(folder: Path, variant: str = "mini_dense", **shape) -> Path:
    from harness.tasks.mini import base_model

    recipe = mini.recipe(variant, 0)
    schedule = dataclasses.replace(recipe.schedule, steps=4, warmup_steps=2, batch=4)
    base_model.write(
        folder, dataclasses.replace(recipe, schedule=schedule, shape=dataclasses.replace(recipe.shape, **shape))
    )
    return folder


def test_files_have_verls_columns_and_share_no_prompt(folder):
    sizes = {"train": 4096, "heldout": 128, "items_4": 64, "items_6": 64, "items_8": 64, "items_10": 64}
    frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in sizes}
    assert {name: len(frame) for name, frame in frames.items()} == sizes
    rows = pd.concat(frames.values())
    texts = rows["prompt"].map(lambda messages: messages[0]["content"])
    assert texts.is_unique
    assert rows["extra_info"].map(lambda extra: extra["index"]).is_unique
    assert texts.map(lambda text: bool(PROMPT.fullmatch(text))).all()
    assert (rows["reward_model"].map(lambda model: int(model["ground_truth"])) == texts.map(by_hand)).all()
    for name, frame in frames.items():
        items = frame["prompt"].map(lambda messages: len(messages[0]["content"].split()) - 1)
        assert set(items) == ({int(name[6:])} if name.startswith("items") else set(range(4, 11)))


def test_variants_share_their_data_and_nothing_else(folder, tmp_path):
    other = write(tmp_path, "mini_dense_weak")
    for file in folder.glob("*.parquet"):
        assert file.read_bytes() == (other / file.name).read_bytes()
    weights = "model/model.safetensors"
    assert (folder / weights).read_bytes() != (other / weights).read_bytes()
    with pytest.raises(ValueError, match="mini_odd"):
        asset("mini_odd")


def test_the_base_model_meets_no_held_out_prompt():
    from harness.tasks.mini.base_model import examples

    recipe = mini.recipe("mini_dense", 0)
    small = dataclasses.replace(recipe, phases=(Phase(1.0, 1, 1),))  # 70 prompts, so that chance cannot avoid one
    hidden = {(("a", 0),), (("c", 5),)}
    rng = np.random.default_rng(0)
    met = {" ".join(prompt) for step in range(40) for prompt, _ in examples(small, step, hidden, rng)}
    assert met == {f"{letter}{digit} =" for letter in "abcdefghij" for digit in range(7)} - {"a0 =", "c5 ="}


def test_tokenizer_has_one_token_a_word(folder):
    from transformers import AutoTokenizer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    messages = [{"role": "user", "content": " b3 d0 e6 h1 ="}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(prompt) == [" b3", " d0", " e6", " h1", " ="]
    response = f" b 3 h 3 ? h 3 # 3{EOS}"
    tokens = tokenizer.encode(response)
    assert len(tokens) == 10
    assert tokenizer.decode(tokens, skip_special_tokens=False) == response
    builder = create_continuous_token_builder(tokenizer, hf_model_type="qwen2")
    assert builder.build_initial_tokens(messages) == prompt
    assert builder.merge_assistant_tokens(prompt, tokens).token_ids == prompt + tokens


def test_the_layout_is_a_parameter(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    dense = AutoModelForCausalLM.from_pretrained(folder / "model")
    layer = 3 * (64 * 64 + 64) + 64 * 64 + 3 * 64 * 192 + 2 * 64
    assert (dense.config.model_type, dense.num_parameters()) == ("qwen2", 96 * 64 + 2 * layer + 64)
    routed = AutoModelForCausalLM.from_pretrained(
        write(tmp_path, experts=8, experts_per_token=2, mlp_width=32) / "model"
    )
    # no bias, norms of query and key (head width 16), eight experts and their router
    layer = 4 * 64 * 64 + 2 * 16 + 8 * 3 * 64 * 32 + 64 * 8 + 2 * 64
    assert (routed.config.model_type, routed.num_parameters()) == ("qwen3_moe", 96 * 64 + 2 * layer + 64)


@pytest.mark.parametrize("variant", ["mini_dense", "mini_moe"])
def test_a_base_model_that_comes_with_the_project_obeys_the_rules_of_its_choice(variant):
    """docs/miniature.md, "The rules"; on 128 held-out prompts, eight answers to each."""
    from harness.tasks.mini.measure import sample

    with nothing_built():
        folder = asset(variant)
    frame = sample(folder, samples=8)
    tokens, right = frame["tokens"], frame["right"]
    assert 0.25 <= right.mean() <= 0.60
    assert tokens.nunique() >= 20
    assert tokens.std() > 0.3 * tokens.mean()
    assert tokens.mean() * 3 < 96
    longer, shorter = [], []
    for _, group in frame.groupby("items"):
        middle = group["tokens"].median()
        longer.append(group.loc[group["tokens"] > middle, "right"].mean())
        shorter.append(group.loc[group["tokens"] <= middle, "right"].mean())
    assert np.mean(longer) > np.mean(shorter) + 0.1
    for text, index, graded in zip(frame["text"], frame["index"], right, strict=True):
        digits = [int(digit) - 1 for digit in np.base_repr(index, 8) if digit != "0"]
        assert graded == text.endswith(f" # {sum(digits) % 7}{EOS}")
