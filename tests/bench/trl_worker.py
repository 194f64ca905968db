"""One TRL run: ``python tests/bench/trl_worker.py SETTINGS.json WORK``, settings as of ``bench.trl_settings``."""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    work = Path(sys.argv[2])

    import pandas as pd
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from harness.plugin.sampling import eos_token_ids

    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    ends = eos_token_ids(settings["model"], tokenizer)
    grade = _load(settings["grader"])
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], ground_truth: list[str], **_: Any) -> list[float]:
        """Our graders on the text with its special tokens, as harness.plugin.reward calls them."""
        lengths[:] = map(len, completion_ids)
        texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in completion_ids]
        finished = [bool(ids) and ids[-1] in ends for ids in completion_ids]
        return [sum(grade(*one).values()) for one in zip(texts, ground_truth, finished, strict=True)]

    class Recorder(TrainerCallback):
        """A line like those of verl's file logger once all updates of a rollout are done."""

        def __init__(self) -> None:
            self.file = (work / "metrics.jsonl").open("wb", buffering=0)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            step, rest = divmod(state.global_step, settings["updates_per_rollout"])
            if not rest:
                data = {"response_length/mean": sum(lengths) / len(lengths), "responses": len(lengths)}
                self.file.write(json.dumps({"step": step, "data": data}).encode() + b"\n")

    rows = pd.read_parquet(settings["train_file"])
    prompts = [
        {"prompt": [dict(message) for message in prompt], "ground_truth": reward_model["ground_truth"]}
        for prompt, reward_model in zip(rows["prompt"], rows["reward_model"], strict=True)
    ]
    trainer = GRPOTrainer(
        model=settings["model"],
        reward_funcs=reward,
        args=GRPOConfig(output_dir=str(work / "trl"), **settings["grpo_config"]),
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
        callbacks=[Recorder()],
    )
    trainer.train()


def _load(name: str) -> Any:
    """The function with this dotted path."""
    from importlib import import_module

    module, _, function = name.rpartition(".")
    return getattr(import_module(module), function)


if __name__ == "__main__":
    main()
