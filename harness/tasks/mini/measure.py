"""What a base model of ``mini_dense`` does before RL, beside the rules that it was chosen by (docs/miniature.md).

python -m harness.tasks.mini.measure mini_dense mini_dense_strong mini_dense_weak mini_images
"""

import argparse
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from harness.tasks import vision
from harness.tasks.mini import images
from harness.tasks.mini.asset import asset
from harness.tasks.mini.task import LASTS
from harness.tasks.tiny.task import EOS, grade

LIMIT = 96  # tokens of a response, as conf/task/mini_dense.yaml


def sample(folder: Path, split: str = "heldout", samples: int = 32, seed: int = 0) -> pd.DataFrame:
    """Answers of the model in ``folder`` to the prompts of ``split``, at temperature 1.

    A row is a response: ``items`` (of its prompt), ``source``, ``index``, ``text``, ``tokens``, ``right`` (0 or 1),
    ``passes``, and ``steps`` of its first pass.
    """
    import torch

    model, tokenizer, read = _loaded(folder / "model")
    questions = pd.read_parquet(folder / f"{split}.parquet")
    counts = np.array([_items(*pair) for pair in zip(questions["prompt"], questions["extra_info"], strict=True)])
    found: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for (items, source), group in questions.groupby([counts, "data_source"]):  # equally long: nothing to pad
            inputs = read(group)
            replies = model.generate(
                **inputs, num_return_sequences=samples, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=LIMIT,
            )[:, inputs["input_ids"].shape[1] :]  # fmt: skip
            for number, reply in enumerate(replies.tolist()):
                question = group.iloc[number // samples]
                finished = tokenizer.eos_token_id in reply
                said = reply[: reply.index(tokenizer.eos_token_id) + 1] if finished else reply
                text = tokenizer.decode(said, skip_special_tokens=False)
                found.append(
                    {
                        "items": items,
                        "source": source,
                        "index": question["extra_info"]["index"],
                        "text": text,
                        "tokens": len(said),
                        "right": grade(text, question["reward_model"]["ground_truth"], finished)["accuracy"],
                        "finished": text.endswith(EOS),
                        "passes": text.count("?") + 1,
                        "steps": len(text.partition("?")[0].partition("#")[0].split()) // 2,
                    }
                )
    return pd.DataFrame(found)


def _items(prompt: Any, extra: dict[str, Any]) -> int:
    """How many digits a prompt adds, as its text says, or beside a picture the question that is kept with it."""
    return len(re.findall(r"[a-j][0-6]", extra.get("question", prompt[0]["content"])))


def _loaded(folder: Path) -> tuple[Any, Any, Callable[[pd.DataFrame], dict[str, Any]]]:
    """Model, tokenizer, and what turns questions of one length into the model's inputs."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    sees = (folder / "preprocessor_config.json").is_file()
    model: Any = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_pretrained(folder).eval()
    processor = vision.stills_processor().from_pretrained(folder) if sees else None

    def read(questions: pd.DataFrame) -> dict[str, Any]:
        texts = [message["content"] for (message,) in questions["prompt"]]
        if processor is None:
            ids = torch.tensor([tokenizer.encode(text) for text in texts])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        images = [Image.open(BytesIO(image["bytes"])).convert("RGB") for (image,) in questions["images"]]
        shown = f"{vision.START}{vision.IMAGE}{vision.END}"
        return processor(text=[text.replace("<image>", shown) for text in texts], images=images, return_tensors="pt")

    return model, tokenizer, read


def summary(frame: pd.DataFrame) -> dict[str, float]:
    """The numbers that the rules are about; ``longer`` and ``shorter`` than the median of prompts of as many items."""
    tokens, right = frame["tokens"], frame["right"]
    middle = frame.groupby("items")["tokens"].transform("median")
    within = frame[["tokens", "right"]] - frame.groupby("items")[["tokens", "right"]].transform("mean")
    return {
        "accuracy": right.mean(),
        "mean_length": tokens.mean(),
        "sd_length": tokens.std(ddof=0),
        "distinct_lengths": tokens.nunique(),
        "at_limit": 1 - frame["finished"].mean(),
        "right_shorter": right[tokens <= middle].mean(),
        "right_longer": right[tokens > middle].mean(),
        "correlation": np.corrcoef(within["tokens"], within["right"])[0, 1],
    }


def _rounded(frame: pd.DataFrame) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in summary(frame).items()}


def main() -> None:
    """Print the numbers of each variant, and the accuracy of each benchmark's prompts."""
    parser = argparse.ArgumentParser(prog="python -m harness.tasks.mini.measure", description=__doc__)
    known = (*LASTS, images.NAME)
    parser.add_argument("variants", nargs="*", default=["mini_dense"], metavar="VARIANT", help=", ".join(known))
    variants = parser.parse_args().variants
    if unknown := [name for name in variants if name not in known]:
        parser.error(f"{unknown[0]}: no such variant; there are {', '.join(known)}")
    for variant in variants:
        folder = images.asset() if variant == images.NAME else asset(variant)
        frame = sample(folder)
        print(variant, _rounded(frame))
        if (folder / "mixed_heldout.parquet").is_file():
            mixed = sample(folder, "mixed_heldout", samples=64)  # half of the prompts are in words
            print(variant, "in words", _rounded(mixed[mixed["source"] != variant]))
        for name in ("items", "passes", "steps"):
            groups = frame.groupby(name).agg(n=("right", "size"), right=("right", "mean"), tokens=("tokens", "mean"))
            print(groups.round(3).to_string())
        for file in sorted(folder.glob("items_*.parquet"), key=lambda path: int(path.stem.partition("_")[2])):
            print(file.stem, round(float(sample(folder, file.stem)["right"].mean()), 3))


if __name__ == "__main__":
    main()
