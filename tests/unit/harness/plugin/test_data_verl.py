"""verl's own data set class reads what is prepared, images included."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from PIL import Image
from verl.utils.dataset.rl_dataset import RLHFDataset

from harness.tasks.hub.images import BLANK_SIDE
from harness.tasks.hub.prepare import prepare
from harness.tasks.hub.prompts import load

ANSWER_LINE = load("answer_line")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    dapo = [
        {
            "prompt": ANSWER_LINE.messages(f"What is {i}?"),
            "reward_model": {"ground_truth": str(i), "style": "rule"},
            "extra_info": {"index": f"id-{i}"},
        }
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(dapo), source / "dapo-math-17k.parquet")  # flat, as one file was fetched
    virl = [
        {
            "question": f"<image>Which grey is {i}?",
            "answer": f"\\boxed{{{i}}}",
            "qid": str(i),
            "image": [f"images/{i}.png"],
        }
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(virl), source / "39Krelease.parquet")
    with zipfile.ZipFile(source / "images.zip", "w") as archive:
        for i in range(4):
            stream = BytesIO()
            Image.new("L", (30 + i, 40), 10 * i).save(stream, "PNG")
            archive.writestr(f"images/{i}.png", stream.getvalue())
    for name in ("dapo_math_17k", "virl39k_dapo"):
        prepare(name, source, tmp_path / name, heldout=1)
    return tmp_path


class Words:
    """As much of a tokenizer as the data set asks for: a token a word."""

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> list[int]:
        return [0] * sum(len(message["content"].split()) for message in messages)


def test_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "hub"))
    tokenizer: Any = Words()
    config = OmegaConf.create({"max_prompt_length": 64, "filter_overlong_prompts_workers": None})
    read = RLHFDataset(str(folder / "dapo_math_17k" / "train.parquet"), tokenizer, config)
    assert len(read) == 3, "none is longer than 64 words"
    for item in (read[i] for i in range(3)):
        question = f"What is {item['reward_model']['ground_truth']}?"
        assert item["raw_prompt"] == ANSWER_LINE.messages(question)
        assert item["index"] == int(item["reward_model"]["ground_truth"])


def test_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder / "hub"))
    processor: Any = Words()
    config = OmegaConf.create({"filter_overlong_prompts": False})
    read = RLHFDataset(str(folder / "virl39k_dapo" / "train.parquet"), processor, config, processor=processor)
    assert len(read) == 7
    kinds = set()
    for item in (read[i] for i in range(7)):
        system, user = item["raw_prompt"]
        assert "<think>" in system["content"][0]["text"]
        picture, words = user["content"]
        assert [picture["type"], words["type"]] == ["image", "text"]
        grey = np.asarray(picture["image"].convert("L"))
        kinds.add(item["data_source"])
        if item["data_source"] == "virl39k":
            i = int(item["reward_model"]["ground_truth"])
            assert words["text"] == f"Which grey is {i}?"
            assert grey.shape == (40, 30 + i)
            assert (grey == 10 * i).all()
        else:
            assert words["text"] == f"What is {item['reward_model']['ground_truth']}?"
            assert grey.shape == (BLANK_SIDE, BLANK_SIDE)
            assert (grey == 255).all()
    assert kinds == {"virl39k", "dapo_math_17k"}
