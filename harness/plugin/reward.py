"""The reward manager: a reward is the sum of named parts, and every part is recorded.

verl's own managers decode without special tokens, so a grader cannot see whether a response ended; this one passes the
decoded text with them, and whether EOS came.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.utils.import_utils import load_class_from_fqn

from harness.config import ConfigError
from harness.grading import components
from harness.grading.pool import GradingPool, Verdict
from harness.plugin.sampling import eos_token_ids

Grader = Callable[[str, str, bool], dict[str, float]]
KEYS = ("grader", "pool", "parts", "overlong")


class PartsRewardManager(RewardManagerBase):
    """verl's reward manager for ``reward.reward_manager.source=importlib``; ``reward.reward_kwargs`` holds

    - ``grader``: dotted path of a function ``grade(response, ground_truth, finished) -> {part: value}`` with at least
      the part ``accuracy`` (0 or 1); the reward is the sum of the parts;
    - ``pool``: {workers, seconds, memory_gb}, to run a grader of accuracy alone in killable processes
      (``harness.grading.pool``), else it runs in this one;
    - ``parts``: a list of ``harness.grading.components.KNOWN``, to add format and overlong to accuracy;
    - ``overlong``: {limit, buffer}, tokens.

    With a pool two more columns are recorded, which add nothing to the reward: ``reward_timeout`` and ``reward_error``,
    1 where the grader did not come to a verdict. Raises ``ConfigError``, also for verl's own overlong buffer.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: Any):
        super().__init__(config, tokenizer, compute_score)
        kwargs: Any = OmegaConf.to_container(config.reward.reward_kwargs, resolve=True)
        unknown = [key for key in kwargs if key not in KEYS]
        if unknown:
            raise ConfigError(f"reward.reward_kwargs.{unknown[0]}: unknown key; the known keys are {', '.join(KEYS)}")
        self.parts = components.build(kwargs.get("parts") or ["accuracy"], kwargs.get("overlong"))
        self.grade: Grader = load_class_from_fqn(kwargs["grader"], "grader")
        self.eos = eos_token_ids(config.actor_rollout_ref.model.path, tokenizer)
        self.limit = int(config.data.max_response_length)
        self.pool = GradingPool(**kwargs["pool"], grader=kwargs["grader"]) if kwargs.get("pool") else None

    def score(self, response_ids: list[int], ground_truth: str) -> dict[str, Any]:
        """verl's result of one response: ``reward_score`` and ``reward_extra_info``, whose keys become columns."""
        return self.score_many([(response_ids, ground_truth)])[0]

    def score_many(self, responses: Iterable[tuple[Sequence[int], str]]) -> list[dict[str, Any]]:
        """``score`` of many (token ids, ground truth), which all workers of the pool share."""
        items = [(*self._decode(ids), truth) for ids, truth in responses]
        if self.pool is None:
            return [self._result(one, self.grade(text, truth, one.finished)) for text, one, truth in items]
        verdicts = self.pool.grade_many([(text, truth, one.finished) for text, one, truth in items])
        return [self._result(one, _columns(v), v) for (_, one, _), v in zip(items, verdicts, strict=True)]

    def answers(self, responses: Iterable[Sequence[int]]) -> list[str]:
        """The answer in each response as the grader's module reads it (its function ``answer(response, finished)``),
        by which equal answers are counted; empty without one, and where the module has no such function."""
        read = getattr(sys.modules[self.grade.__module__], "answer", None)
        if read is None:
            return [""] * len(list(responses))
        decoded = (self._decode(ids) for ids in responses)
        return [read(text, one.finished) or "" for text, one in decoded]

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        last: Any = data[-1:]
        item = last[0]
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        ids, truth = ids[:length].tolist(), item.non_tensor_batch["reward_model"]["ground_truth"]
        if self.pool is None:
            return await asyncio.to_thread(self.score, ids, truth)
        text, response = await asyncio.to_thread(self._decode, ids)
        verdict = await self.pool.grade(text, truth, response.finished)
        return self._result(response, _columns(verdict), verdict)

    def close(self) -> None:
        """End the worker processes, if any; without it they end with this process."""
        if self.pool:
            self.pool.close()

    def _decode(self, response_ids: Sequence[int]) -> tuple[str, components.Response]:
        """The text with its special tokens, and what the parts see: the same without EOS."""
        ids = list(response_ids)
        finished = bool(ids) and ids[-1] in self.eos
        tokenizer: Any = self.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=False)
        eos = tokenizer.decode(ids[-1:], skip_special_tokens=False) if finished else ""
        return text, components.Response(text.removesuffix(eos), len(ids), finished)

    def _result(
        self, one: components.Response, graded: dict[str, float], verdict: Verdict | None = None
    ) -> dict[str, Any]:
        values = {**graded, **{name: part(one) for name, part in self.parts.items()}}
        info = {"acc": float(values["accuracy"]), **{f"reward_{name}": float(v) for name, v in values.items()}}
        if verdict:
            info |= {f"reward_{name}": float(verdict.outcome == name) for name in ("timeout", "error")}
        info["truncated"] = float(not one.finished and one.tokens >= self.limit)
        info["response_length"] = float(one.tokens)
        return {"reward_score": float(sum(values.values())), "reward_extra_info": info}


def outcome(reward_extra_info: dict[str, Any]) -> str:
    """right, wrong, timeout or error (``harness.grading.pool.OUTCOMES``), from a score's ``reward_extra_info``."""
    for name in ("timeout", "error"):
        if reward_extra_info.get(f"reward_{name}"):
            return name
    return "right" if reward_extra_info["acc"] == 1 else "wrong"


def _columns(verdict: Verdict) -> dict[str, float]:
    return {"accuracy": verdict.accuracy}
