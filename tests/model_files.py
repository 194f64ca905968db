"""The files of a model and of a data set, as small as the checks accept."""

import json
from pathlib import Path
from typing import Any

import pandas as pd


def write_data(path: Path, indices: list[Any], **columns: Any) -> str:
    frame = pd.DataFrame(
        {
            "data_source": "tiny",
            "prompt": [[{"role": "user", "content": "1 + 1 ="}]] * len(indices),
            "reward_model": [{"ground_truth": "2"}] * len(indices),
            "extra_info": [{"index": index, "split": "train"} for index in indices],
            **columns,
        }
    )
    frame.drop(columns=[name for name, value in columns.items() if value is None]).to_parquet(path)
    return str(path)


def write_model(folder: Path, without: tuple[str, ...] = ()) -> str:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if name not in without:
            (folder / name).write_text(json.dumps({"tie_word_embeddings": True} if name == "config.json" else {}))
    return str(folder)
