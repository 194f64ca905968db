"""From a prompt's messages to what the model reads, with verl's tokenizer, chat template and processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from harness.plugin.vision import INPUTS, Pictures, positions_of


@dataclass(frozen=True)
class Prompt:
    """One prompt: token ids, position ids (length,), or (4, length) of a model that sees, and its pictures."""

    ids: list[int]
    positions: torch.Tensor
    pictures: Pictures | None = None

    def fields(self, response: int) -> dict[str, Any]:
        """What verl's ``AgentLoopWorkerTQ`` stores of a prompt and ``response`` tokens after it, beside their ids."""
        further = self.positions[..., -1:] + torch.arange(1, response + 1)
        fields: dict[str, Any] = {"position_ids": torch.cat([self.positions, further], dim=-1)}
        if self.positions.dim() == 2:
            fields["multi_modal_inputs"] = self.pictures or {}
        return fields


class Reader:
    """Reads the prompts of one model; ``processor`` is None for a model of text alone."""

    def __init__(self, tokenizer: Any, processor: Any, model_type: str | None, data: Mapping[str, Any]):
        self.processor = processor
        self.builder = create_continuous_token_builder(
            tokenizer,
            hf_model_type=model_type,
            chat_template_kwargs=dict(data.get("apply_chat_template_kwargs", {})),
            mm_processor_kwargs={},
            processor=processor,
        )

    def read(self, messages: Sequence[dict[str, Any]]) -> Prompt:
        """The prompt of ``raw_prompt``, as verl's ``RLHFDataset`` makes it.

        verl would pass its pictures through ``qwen_vl_utils`` first, which needs torchvision. That resizes them by the
        same rule as the processor does (``smart_resize``); none that it would not is changed twice.
        """
        if self.processor is None:
            ids = self.builder.build_initial_tokens(list(messages))
            return Prompt(ids, torch.arange(len(ids)))
        seen: dict[str, Any] = {}
        ids = self.builder.build_initial_tokens(list(messages), images=images_of(messages), mm_inputs_out=seen)
        pictures = {name: seen[name] for name in INPUTS} if "pixel_values" in seen else None
        batch = torch.tensor([ids])
        return Prompt(ids, positions_of(self.processor, batch, torch.ones_like(batch), [pictures])[:, 0], pictures)


def images_of(messages: Sequence[dict[str, Any]]) -> list[Any]:
    """The pictures of messages in their order, as Pillow's in RGB."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [part["image"].convert("RGB") for part in parts if part["type"] == "image"]
