"""Answers of one policy to a benchmark's questions: tokenised, sampled and graded exactly as in training."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from PIL import Image
from transformers import AutoConfig
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.tokenizer import hf_processor, hf_tokenizer
from verl.workers.rollout.utils import qwen2_5_vl_dedup_image_tokens

from harness.config import ConfigError
from harness.evaluate.backends import ENGINES, Asked, Policy
from harness.evaluate.benchmark import Benchmark
from harness.plugin.prompts import Reader, images_of
from harness.plugin.reward import outcome
from harness.plugin.sampling import SamplingParams, response_seed
from harness.plugin.vision import sees
from harness.tasks.vision import register_processor

STREAM = "evaluation"  # keeps the seeds apart from those of training steps


class Sampler:
    """Holds engine, tokenizer and grader of one policy; raises ``ConfigError`` for an engine that does not exist.

    gpus: that share the model, None for as many as in the run's rollout.
    """

    def __init__(
        self, folder: Path, benchmark: Benchmark, config: DictConfig, engine: str, seed: int, gpus: int | None = None
    ):
        if engine not in ENGINES:
            raise ConfigError(f"engine={engine}: there are {', '.join(ENGINES)}")
        self.benchmark, self.seed = benchmark, seed
        params = SamplingParams(
            benchmark.temperature, benchmark.top_p, benchmark.top_k, max_tokens=benchmark.max_response_length
        )
        config = config.copy()
        with open_dict(config):
            config.data.max_response_length = benchmark.max_response_length  # by which the grader sees truncation
        initial, rollout = config.actor_rollout_ref.model.path, config.actor_rollout_ref.rollout
        model = AutoConfig.from_pretrained(initial)
        self.processor = None
        if sees(model):
            register_processor()
            self.processor = hf_processor(initial)
        tokenizer = hf_tokenizer(initial)
        self.reader = Reader(tokenizer, self.processor, model.model_type, config.data)
        self.grader: Any = load_reward_manager(config, tokenizer)
        longest = benchmark.max_prompt_length + benchmark.max_response_length
        policy = Policy(folder, str(rollout.dtype), longest, gpus or rollout.tensor_model_parallel_size)
        self.generate = ENGINES[engine](policy, params)

    def answers(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """``k`` rows for each question, with the columns of ``rundir.EVAL_COLUMNS`` but ``step``."""
        asked = [(question, sample) for question in questions for sample in range(self.benchmark.k)]
        prompts = {int(q["extra_info"]["index"]): self._prompt(q) for q in questions}
        indices = [int(question["extra_info"]["index"]) for question, _ in asked]
        seeds = [response_seed(self.seed, STREAM, i, s) for i, (_, s) in zip(indices, asked, strict=True)]
        responses = self.generate([prompts[index] for index in indices], seeds)
        truths = [question["reward_model"]["ground_truth"] for question, _ in asked]
        scores = self.grader.score_many(zip(responses, truths, strict=True))
        said = self.grader.answers(responses)
        return [
            {**self._row(index, sample, tokens, score["reward_extra_info"]), "answer": answer}
            for index, (_, sample), tokens, score, answer in zip(indices, asked, responses, scores, said, strict=True)
        ]

    def close(self) -> None:
        """End what the grader started."""
        self.grader.close()

    def _prompt(self, question: dict[str, Any]) -> Asked:
        images = question.get("images")
        if images is not None and len(images) and self.processor is None:
            raise ConfigError(f"benchmark={self.benchmark.name} shows pictures, and this run's model reads words alone")
        messages = messages_of(question)
        read = self.reader.read(messages)
        if len(read.ids) > self.benchmark.max_prompt_length:
            raise ConfigError(
                f"benchmark={self.benchmark.name}: question {question['extra_info']['index']} has {len(read.ids)} "
                f"tokens; set max_prompt_length={len(read.ids)} or more"
            )
        short = qwen2_5_vl_dedup_image_tokens(read.ids, self.processor)
        return Asked(read.ids, read.pictures, images_of(messages), short)

    @staticmethod
    def _row(index: int, sample: int, tokens: list[int], info: dict[str, Any]) -> dict[str, Any]:
        return {
            "question": index,
            "sample": sample,
            "correct": int(info["acc"] == 1),
            "tokens": len(tokens),
            "truncated": bool(info["truncated"]),
            "outcome": outcome(info),
        }


def messages_of(question: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row of a benchmark with its pictures in place of ``<image>``, as verl's ``RLHFDataset`` makes
    ``raw_prompt``; of a row without pictures they are as they are. Raises ``ConfigError`` if their numbers differ."""
    found = question.get("images")
    if found is None or not len(found):
        return [dict(message) for message in question["prompt"]]
    named = sum(message["content"].count("<image>") for message in question["prompt"])
    if named != len(found):
        raise ConfigError(
            f"question {question['extra_info']['index']}: its messages have {named} times <image>, and its column "
            f"images {len(found)} pictures; they must be as many"
        )
    images, messages = iter(found), []
    for message in question["prompt"]:
        pieces = [piece for piece in re.split("(<image>)", message["content"]) if piece]
        parts = [
            {"type": "image", "image": Image.open(BytesIO(next(images)["bytes"]))}
            if piece == "<image>"
            else {"type": "text", "text": piece}
            for piece in pieces
        ]
        messages.append({**message, "content": parts})
    return messages
