"""Answers of one policy to a benchmark's questions: tokenised, sampled and graded exactly as in training."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from transformers import AutoConfig
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils import hf_tokenizer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from harness.config import ConfigError
from harness.evaluate.backends import ENGINES, Policy
from harness.evaluate.benchmark import Benchmark
from harness.plugin.reward import outcome
from harness.plugin.sampling import SamplingParams, response_seed
from harness.plugin.vision import sees

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
        if sees(model):
            raise ConfigError(
                f"{initial} reads pictures, and harness.evaluate asks in words alone; validate in training, with "
                "data.val_files and trainer.test_freq"
            )
        tokenizer = hf_tokenizer(initial)
        self.builder = create_continuous_token_builder(
            tokenizer,
            hf_model_type=model.model_type,
            chat_template_kwargs=dict(config.data.get("apply_chat_template_kwargs", {})),
            mm_processor_kwargs={},
            processor=None,
        )
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

    def _prompt(self, question: dict[str, Any]) -> list[int]:
        ids = self.builder.build_initial_tokens([dict(message) for message in question["prompt"]])
        if len(ids) > self.benchmark.max_prompt_length:
            raise ConfigError(
                f"benchmark={self.benchmark.name}: question {question['extra_info']['index']} has {len(ids)} tokens; "
                f"set max_prompt_length={len(ids)} or more"
            )
        return ids

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
