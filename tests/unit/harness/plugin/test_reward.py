"""The reward manager around graders in this process and in the pool: parts, columns, and what it refuses."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from verl import DataProto

from harness.config import ConfigError
from harness.plugin import reward
from harness.plugin.reward import PartsRewardManager, outcome

EOS = "<|im_end|>"
GOOD = r"<think>1/2</think><answer>\boxed{$\frac{1}{2}$}</answer>"
HANGING = r"\boxed{9^{9^{9^{9}}}}"
Make = Callable[..., PartsRewardManager]


class Characters:
    """A tokenizer with one token a character; id 0 is EOS."""

    eos_token_id = 0

    def encode(self, text: str) -> list[int]:
        ended = text.endswith(EOS)
        return [ord(character) for character in text.removesuffix(EOS)] + [0] * ended

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(i) if i else EOS for i in ids)


@pytest.fixture(scope="module")
def make() -> Iterator[Make]:
    managers = []
    patch = pytest.MonkeyPatch()
    patch.setattr(reward, "eos_token_ids", lambda *_: frozenset({0}))

    def build(limit: int = 100, **kwargs: Any) -> PartsRewardManager:
        config = {
            "reward": {"reward_kwargs": kwargs},
            "actor_rollout_ref": {"model": {"path": "nowhere"}},
            "data": {"max_response_length": limit},
        }
        managers.append(PartsRewardManager(OmegaConf.create(config), Characters()))
        return managers[-1]

    yield build
    for manager in managers:
        manager.close()
    patch.undo()


@pytest.fixture(scope="module")
def paper(make: Make) -> PartsRewardManager:
    return make(
        grader="harness.grading.mathematics.grade",
        pool={"workers": 2, "seconds": 1},
        parts=["accuracy", "format", "overlong"],
        overlong={"limit": 100, "buffer": 50},
    )


def ids(text: str) -> list[int]:
    return Characters().encode(text)


def test_a_grader_in_this_process_sees_the_whole_text(make: Make) -> None:
    manager = make(grader="harness.tasks.tiny.grade", limit=7)
    assert manager.score(ids(f"# 7{EOS}"), "7") == {
        "reward_score": 1.0,
        "reward_extra_info": {"acc": 1.0, "reward_accuracy": 1.0, "truncated": 0.0, "response_length": 4.0},
    }
    cut = manager.score(ids("a 1 # 7"), "7")["reward_extra_info"]
    assert (cut["acc"], cut["truncated"]) == (0.0, 1.0)
    assert manager.score([], "7")["reward_score"] == 0.0


def test_the_papers_reward(paper: PartsRewardManager) -> None:
    # 56 characters and EOS: 7 tokens above 100 - 50
    scored = paper.score(ids(GOOD + EOS), "0.5")
    assert len(ids(GOOD + EOS)) == 57
    info = scored["reward_extra_info"]
    assert {name: info[f"reward_{name}"] for name in ("accuracy", "format", "overlong", "timeout", "error")} == {
        "accuracy": 1.0,
        "format": 0.5,
        "overlong": pytest.approx(-7 / 50 * 0.3),
        "timeout": 0.0,
        "error": 0.0,
    }
    assert scored["reward_score"] == pytest.approx(1.5 - 7 / 50 * 0.3)
    assert info["acc"] == 1.0
    unboxed = paper.score(ids("Answer: 0.5" + EOS), "0.5")
    assert unboxed["reward_score"] == 1.0
    cut = paper.score(ids(GOOD), "0.5")["reward_extra_info"]
    assert (cut["reward_format"], cut["reward_accuracy"]) == (0.0, 1.0)


def test_what_was_not_graded_is_counted_apart_and_earns_no_accuracy(paper: PartsRewardManager) -> None:
    responses = [(r"\boxed{1}", "1"), (r"\boxed{1}", "2"), (HANGING, "5"), (r"\boxed{1}", "")]
    scored = paper.score_many([(ids(text + EOS), truth) for text, truth in responses])
    info = [one["reward_extra_info"] for one in scored]
    assert [outcome(one) for one in info] == ["right", "wrong", "timeout", "error"]
    assert [one["acc"] for one in info] == [1.0, 0.0, 0.0, 0.0]
    assert [one["reward_score"] for one in scored] == [1.0, 0.0, 0.0, 0.0]
    assert [one["reward_timeout"] for one in info] == [0, 0, 1, 0]
    assert [one["reward_error"] for one in info] == [0, 0, 0, 1]
    assert len({tuple(sorted(one)) for one in info}) == 1  # the same columns whatever happened


def data(text: str, truth: str, width: int = 80) -> DataProto:
    tokens = ids(text)
    responses = torch.tensor([tokens + [9] * (width - len(tokens))])  # padding that is not EOS
    mask = torch.tensor([[1, 1] + [1] * len(tokens) + [0] * (width - len(tokens))])
    return DataProto.from_dict(
        tensors={"responses": responses, "attention_mask": mask},
        non_tensors={"reward_model": np.array([{"ground_truth": truth}], dtype=object)},
    )


def test_run_single_is_concurrent_and_agrees_with_score(paper: PartsRewardManager, make: Make) -> None:
    texts = [(HANGING + EOS, "5"), *[(GOOD + EOS, "0.5"), (GOOD + EOS, "2"), (r"\boxed{3}", "3")] * 5]

    async def run() -> list[dict[str, Any]]:
        return await asyncio.gather(*(paper.run_single(data(text, truth)) for text, truth in texts))

    assert asyncio.run(run()) == paper.score_many([(ids(text), truth) for text, truth in texts])
    plain = make(grader="harness.tasks.tiny.grade")
    assert asyncio.run(plain.run_single(data(f"# 7{EOS}", "7"))) == plain.score(ids(f"# 7{EOS}"), "7")


def test_refusals(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="overlong_buffer_cfg: unknown key"):
        make(grader="harness.tasks.tiny.grade", overlong_buffer_cfg={"enable": True, "len": 10})
    with pytest.raises(ConfigError, match="parts"):
        make(grader="harness.tasks.tiny.grade", parts=["format"])
    (tmp_path / "failing_grader.py").write_text(
        'SELF_TEST = (("1", "1", True),)\ndef grade(response, truth, finished):\n    return {"accuracy": 0.0}\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"^grader failing_grader\.grade: self-test: '1' against '1' must be right"):
        make(grader="failing_grader.grade", pool={"workers": 1, "seconds": 1})
