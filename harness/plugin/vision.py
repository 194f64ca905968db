"""Pictures in prompts, as a vision-language model in the layout of Qwen2.5-VL reads them. Imports no verl."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig

Pictures = dict[str, torch.Tensor]  # of one prompt: pixel_values (patches, numbers of a patch), image_grid_thw (n, 3)
INPUTS = ("pixel_values", "image_grid_thw")


def sees(config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration reads pictures."""
    return hasattr(config, "vision_config")


def auto_model(config: PreTrainedConfig) -> Any:
    """transformers' Auto class of a language model, or of one that sees."""
    return AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM


def placeholders(config: PreTrainedConfig) -> list[int]:
    """Tokens that stand for pixels, which a response must not have: verl would look for their picture and fail
    (``verl.models.transformers.qwen2_vl._get_input_embeds``)."""
    return [config.image_token_id, config.video_token_id] if sees(config) else []


def positions_of(
    owner: Any, ids: torch.Tensor, mask: torch.Tensor, pictures: Sequence[Pictures | None]
) -> torch.Tensor:
    """verl's position ids, (4, batch, length): the place among the tokens, then M-RoPE's time, height and width.

    owner: whoever has ``get_rope_index`` and the model's ``config``, which are the model and verl's processor.
    ids, mask: (batch, length). pictures: of each prompt, or None.
    """
    grids = [one["image_grid_thw"] for one in pictures if one]
    of_pixels = (ids == owner.config.image_token_id).int()
    seen, _ = owner.get_rope_index(
        ids, of_pixels, image_grid_thw=torch.cat(grids) if grids else None, attention_mask=mask
    )
    return torch.cat([text_positions(mask)[None], seen])


def text_positions(mask: torch.Tensor) -> torch.Tensor:
    """Each token's place among those that ``mask`` (batch, length) shows; 0 for padding on the left."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def first_inputs(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, pictures: Sequence[Pictures | None] | None
) -> tuple[torch.Tensor, Pictures]:
    """What a model reads beside the ids of padded prompts: position ids (batch, length), or (4, batch, length) of one
    that sees, and the pictures' pixels."""
    if not sees(model.config):
        return text_positions(mask), {}
    pictures = pictures or [None] * len(ids)
    found = [one for one in pictures if one]
    pixels = {name: torch.cat([one[name] for one in found]).to(ids.device) for name in INPUTS} if found else {}
    return positions_of(model.model, ids, mask, pictures), pixels
