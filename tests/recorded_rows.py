"""Responses in plain numbers, the micro-batch that verl would hand to the loss of them, and what the recorder keeps."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import NonTensorStack, TensorDict

LENGTHS = (5, 1, 8, 3, 12, 2, 7, 1)  # the last row is verl's padding: one token with an empty mask
PROMPTS = (4, 6, 2, 3, 5, 4, 1, 9)
ADVANTAGES = (1.25, 0.75, -0.5, -1.5, 0.5, 0.0, -0.25, 0.0)
POSITIONS = (1.5, 0.4, -2.0, 0.5, 3.0, 2.0, -0.6, 0.0)  # mean log-ratio in units of the range's width
RANGES = {"token": (0.2, 0.28), "sequence": (3e-3, 4e-3)}
RATIO = {"grpo": "token", "grpo_sum": "token", "gspo": "sequence", "luspo": "sequence", "luspo_norm": "sequence"}
GLOBAL_BATCH = 16


@dataclass
class Row:
    """One response in plain numbers, the source of both the micro-batch and the expected columns."""

    prompt: list[int]
    response: list[int]
    old: list[float]
    new: list[float]
    entropy: list[float]
    rollout: list[float]
    advantage: float
    index: int
    session: int
    masked: bool = False
    reward: float = 0.0
    info: dict[str, float] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return 0 if self.masked else len(self.response)


def make_rows(ratio: str, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    rows = []
    for i, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS, strict=True)):
        spread = rng.normal(0, 0.25 if ratio == "token" else 0.01, length)
        low, high = RANGES[ratio]
        old = rng.normal(-1.5, 0.3, length).astype(np.float32).astype(float)
        new = old + spread - spread.mean() + POSITIONS[i] * (high if POSITIONS[i] > 0 else low)
        right = float(i % 2)
        rows.append(
            Row(
                prompt=rng.integers(0, 50, prompt).tolist(),
                response=rng.integers(0, 50, length).tolist(),
                old=old.tolist(),
                new=new.astype(np.float32).astype(float).tolist(),
                entropy=rng.uniform(0, 2, length).astype(np.float32).astype(float).tolist(),
                rollout=(old + rng.normal(0, 1e-3, length)).astype(np.float32).astype(float).tolist(),
                advantage=ADVANTAGES[i],
                index=100 + i // 2,
                session=i % 2,
                masked=i == len(LENGTHS) - 1,
                reward=0.0 if i == len(LENGTHS) - 1 else right - 0.25,
                info={"acc": right, "truncated": float(i == 2), "reward_accuracy": right, "reward_length": -0.25},
            )
        )
    return rows


def nested(rows: list[list[Any]], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged)


def micro_batch(rows: list[Row], dp_size: int = 1, without: tuple[str, ...] = (), **more: torch.Tensor) -> TensorDict:
    """The rows as verl's TransferQueue and engine hand them to the loss: jagged tensors, stacks and constants."""
    from verl.utils import tensordict_utils as tu

    mask = [[0 if row.masked else 1] * len(row.response) for row in rows]
    fields: dict[str, Any] = {
        "prompts": nested([row.prompt for row in rows], torch.int64),
        "responses": nested([row.response for row in rows], torch.int64),
        "input_ids": nested([row.prompt + row.response for row in rows], torch.int64),
        "response_mask": nested(mask, torch.int64),
        "loss_mask": nested(mask, torch.int64),
        "old_log_probs": nested([row.old for row in rows]),
        "advantages": nested([[row.advantage] * len(row.response) for row in rows]),
        "entropy": nested([row.entropy for row in rows]),
        "rm_scores": nested([[0.0] * (len(row.response) - 1) + [row.reward] for row in rows]),
        "rollout_log_probs": nested([row.rollout for row in rows]),
        "uid": NonTensorStack(*[f"uid{row.index}" for row in rows]),
        "index": NonTensorStack(*[row.index for row in rows]),
        "session_id": NonTensorStack(*[row.session for row in rows]),
        "extra_fields": NonTensorStack(
            *[{"reward_extra_info": row.info, "global_steps": 3, "min_global_steps": 2} for row in rows]
        ),
        **more,
    }
    data = TensorDict({name: value for name, value in fields.items() if name not in without}, batch_size=[len(rows)])
    return tu.assign_non_tensor(
        data,
        dp_size=dp_size,
        batch_num_tokens=sum(row.tokens for row in rows),
        global_batch_size=GLOBAL_BATCH,
        temperature=1.0,
    )


def model_output(rows: list[Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """verl's model output and its leaf; the log-probability of a token stands one place before it."""
    values, offsets = [], [0]
    for row in rows:
        values += [-9.0] * (len(row.prompt) - 1) + row.new + [-9.0]
        offsets.append(len(values))
    leaf = torch.tensor(values, requires_grad=True)
    log_probs = torch.nested.nested_tensor_from_jagged(leaf * 1.0, offsets=torch.tensor(offsets))
    return {"log_probs": log_probs}, leaf


def record(config: Any, rows: list[Row], dp_size: int = 1, without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    from verl.workers.utils.losses import ppo_loss

    from harness.plugin.recording import ROWS, RecordingLoss

    output, _ = model_output(rows)
    _, metrics = RecordingLoss(partial(ppo_loss, config=config), config)(output, micro_batch(rows, dp_size, without))
    return metrics[ROWS]
