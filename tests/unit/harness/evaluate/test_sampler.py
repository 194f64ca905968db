"""Evaluation of a model that sees: its prompts are verl's own, and its answers depend on the picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from harness.config import ConfigError, compose
from harness.evaluate.benchmark import load_benchmark
from harness.evaluate.sampler import Sampler, messages_of
from harness.plugin.prompts import images_of
from harness.tasks.registry import asset_path, build_assets

QUESTIONS, K = 24, 8


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return build_assets(compose(["experiment=mini_images"]))


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    frame = pd.read_parquet(asset_path("file", "asset:mini_shown/shown_0.parquet", 0))
    return frame.head(QUESTIONS).to_dict("records")


@pytest.fixture(scope="module")
def sampler(config: DictConfig):
    benchmark = load_benchmark("mini_shown_0", k=K)
    sampler = Sampler(Path(config.actor_rollout_ref.model.path), benchmark, config, "transformers", seed=0)
    yield sampler
    sampler.close()


def test_messages_are_those_of_verls_data_set(config: DictConfig, questions: list[dict[str, Any]]) -> None:
    from verl.utils.dataset.rl_dataset import RLHFDataset
    from verl.utils.tokenizer import hf_processor, hf_tokenizer

    from harness.tasks.vision import register_processor

    register_processor()
    model = config.actor_rollout_ref.model.path
    given = OmegaConf.create({"max_prompt_length": 64, "filter_overlong_prompts": False})
    file = asset_path("file", "asset:mini_shown/shown_0.parquet", 0)
    read = RLHFDataset([file], hf_tokenizer(model), given, hf_processor(model))
    for i, question in enumerate(questions[:4]):
        ours, verls = messages_of(question), read[i]["raw_prompt"]
        assert [part["type"] for part in ours[0]["content"]] == [part["type"] for part in verls[0]["content"]]
        assert ours[0]["content"][-1]["text"] == verls[0]["content"][-1]["text"]
        for one, other in zip(images_of(ours), images_of(verls), strict=True):
            assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_prompt_in_words_stays_as_it_is() -> None:
    messages = [{"role": "user", "content": "a <image> in words"}]
    assert messages_of({"prompt": np.array(messages, dtype=object)}) == messages
    assert messages_of({"prompt": messages, "images": None}) == messages
    assert messages_of({"prompt": messages, "images": np.array([], dtype=object)}) == messages


def test_a_picture_too_many_is_one_line(questions: list[dict[str, Any]]) -> None:
    twice = {**questions[0], "images": [*questions[0]["images"]] * 2}
    with pytest.raises(ConfigError, match=r"question \d+: its messages have 1 times <image>, and its column images 2"):
        messages_of(twice)


def test_the_base_model_reads_the_pictures(sampler: Sampler, questions: list[dict[str, Any]]) -> None:
    """It is above chance (1 of 7) on the questions' pictures, and less often right on those of other questions."""
    seen = pd.DataFrame(sampler.answers(questions))
    assert seen.groupby("question").size().eq(K).all()
    others = [{**q, "images": r["images"]} for q, r in zip(questions, questions[1:] + questions[:1], strict=True)]
    elsewhere = pd.DataFrame(sampler.answers(others))
    assert seen["correct"].mean() > 1 / 7 + 0.04
    assert elsewhere["correct"].mean() < seen["correct"].mean()


def test_answers_do_not_depend_on_what_else_is_asked(sampler: Sampler, questions: list[dict[str, Any]]) -> None:
    together = sampler.answers(questions[:4])
    assert [row for question in questions[:4] for row in sampler.answers([question])] == together


def test_a_model_of_words_refuses_pictures(questions: list[dict[str, Any]]) -> None:
    config = build_assets(compose(["experiment=mini_dense"]))
    benchmark = load_benchmark("mini_shown_0", k=1)
    sampler = Sampler(Path(config.actor_rollout_ref.model.path), benchmark, config, "transformers", seed=0)
    with pytest.raises(ConfigError, match="benchmark=mini_shown_0 shows pictures, and this run's model reads words"):
        sampler.answers(questions[:1])
    sampler.close()
