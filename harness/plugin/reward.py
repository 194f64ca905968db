"""The reward manager: a reward is the sum of named parts, and every part is recorded.

verl's own managers decode without special tokens, so a grader cannot see whether a response ended; this one passes the
decoded text with them, and whether EOS came.
"""

from collections.abc import Callable
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.utils.import_utils import load_class_from_fqn

from harness.plugin.sampling import eos_token_ids

Grader = Callable[[str, str, bool], dict[str, float]]


class PartsRewardManager(RewardManagerBase):
    """verl's reward manager for ``reward.reward_manager.source=importlib``.

    ``reward.reward_kwargs.grader`` names a function ``grade(response, ground_truth, finished) -> {part: value}`` with
    at least the part ``accuracy`` (0 or 1); the reward is the sum of the parts.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any = None, **_: Any):
        super().__init__(config, tokenizer, compute_score)
        self.grade: Grader = load_class_from_fqn(config.reward.reward_kwargs.grader, "grader")
        self.eos = eos_token_ids(config.actor_rollout_ref.model.path, tokenizer)
        self.limit = int(config.data.max_response_length)

    def score(self, response_ids: list[int], ground_truth: str) -> dict[str, Any]:
        """verl's result of one response: ``reward_score`` and ``reward_extra_info``, whose keys become columns."""
        finished = bool(response_ids) and response_ids[-1] in self.eos
        tokenizer: Any = self.tokenizer
        text = tokenizer.decode(response_ids, skip_special_tokens=False)
        parts = self.grade(text, ground_truth, finished)
        info = {"acc": float(parts["accuracy"]), **{f"reward_{name}": float(value) for name, value in parts.items()}}
        info["truncated"] = float(not finished and len(response_ids) >= self.limit)
        info["response_length"] = float(len(response_ids))
        return {"reward_score": float(sum(parts.values())), "reward_extra_info": info}

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        last: Any = data[-1:]
        item = last[0]
        ids = item.batch["responses"]
        length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        return self.score(ids[:length].tolist(), item.non_tensor_batch["reward_model"]["ground_truth"])
