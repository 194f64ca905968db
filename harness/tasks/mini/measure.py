"""What a base model of ``mini_dense`` does before RL, beside the rules that it was chosen by (docs/miniature.md).

python -m harness.tasks.mini.measure mini_dense mini_dense_strong mini_dense_weak
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.tasks.mini.asset import asset
from harness.tasks.mini.task import LASTS
from harness.tasks.tiny.task import EOS, grade

LIMIT = 96  # tokens of a response, as conf/task/mini_dense.yaml


def sample(folder: Path, split: str = "heldout", samples: int = 32, seed: int = 0) -> pd.DataFrame:
    """Answers of the model in ``folder`` to the prompts of ``split``, at temperature 1.

    A row is a response: ``items`` (of its prompt), ``index``, ``text``, ``tokens``, ``right`` (0 or 1), ``passes``, and
    ``steps`` of its first pass.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    questions = pd.read_parquet(folder / f"{split}.parquet")
    texts: list[str] = [message["content"] for (message,) in questions["prompt"]]
    counts = np.array([len(text.split()) - 1 for text in texts])
    found: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for items, group in questions.groupby(counts):  # equally long: nothing to pad
            inputs = torch.tensor([tokenizer.encode(texts[at]) for at in group.index]).repeat_interleave(samples, 0)
            replies = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=LIMIT,
            )[:, inputs.shape[1] :]  # fmt: skip
            for number, reply in enumerate(replies.tolist()):
                question = group.iloc[number // samples]
                finished = tokenizer.eos_token_id in reply
                said = reply[: reply.index(tokenizer.eos_token_id) + 1] if finished else reply
                text = tokenizer.decode(said, skip_special_tokens=False)
                found.append(
                    {
                        "items": items,
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


def main() -> None:
    """Print the numbers of each variant, and the accuracy of each benchmark's prompts."""
    parser = argparse.ArgumentParser(prog="python -m harness.tasks.mini.measure", description=__doc__)
    parser.add_argument("variants", nargs="*", default=["mini_dense"], metavar="VARIANT", help=", ".join(LASTS))
    variants = parser.parse_args().variants
    if unknown := [name for name in variants if name not in LASTS]:
        parser.error(f"{unknown[0]}: no such variant; there are {', '.join(LASTS)}")
    for variant in variants:
        folder = asset(variant)
        frame = sample(folder)
        print(variant, {name: round(float(value), 3) for name, value in summary(frame).items()})
        for name in ("items", "passes", "steps"):
            groups = frame.groupby(name).agg(n=("right", "size"), right=("right", "mean"), tokens=("tokens", "mean"))
            print(groups.round(3).to_string())
        for file in sorted(folder.glob("items_*.parquet"), key=lambda path: int(path.stem.partition("_")[2])):
            print(file.stem, round(float(sample(folder, file.stem)["right"].mean()), 3))


if __name__ == "__main__":
    main()
