"""Small base models in the layout of Qwen2.5-VL, and the processor that turns pictures into what they read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.tasks.supervised import ENDS, Shape, make_tokenizer, text_fields

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The tokens that Qwen2.5-VL's processor looks for in a vocabulary.
START, END, IMAGE, VIDEO = MEDIA = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
PATCH, TOKEN = 14, 28  # pixels of a patch and of a visual token, both ways
MOST_TOKENS = 64  # of a picture; a larger one is made smaller
# A picture is one placeholder, which the processor repeats for each of its visual tokens.
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + START + IMAGE + END + "{% else %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Tower:
    """The numbers of the vision tower: its last layer attends to a whole picture, those before it to windows.

    mrope: pairs of the rotary dimensions of a head of the language model for time, height and width.
    """

    layers: int = 2
    width: int = 48
    heads: int = 2
    mlp_width: int = 96
    mrope: tuple[int, int, int] = (1, 1, 6)  # pictures of one row, whose tokens differ in width alone


def make_model(shape: Shape, tower: Tower, tokens: Sequence[str], seed: int) -> "PreTrainedModel":
    """The untrained model; its weights are a function of the arguments alone, torch's own generator stays as it was."""
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = text_fields(shape)
    text["rope_parameters"] = {**text["rope_parameters"], "mrope_section": list(tower.mrope)}
    vision: dict[str, Any] = {
        "depth": tower.layers,
        "hidden_size": tower.width,
        "num_heads": tower.heads,
        "intermediate_size": tower.mlp_width,
        "out_hidden_size": shape.width,
        "patch_size": PATCH,
        "fullatt_block_indexes": [tower.layers - 1],
        "initializer_range": shape.initializer_range,
    }
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        dtype="float32",
        **{name: list(tokens).index(token) for name, token in zip(names, MEDIA, strict=True)},
        **ENDS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**ENDS)
    return model


@cache
def stills_processor() -> type:
    """transformers' ``Qwen2_5_VLProcessor`` without its part for videos, under the same name, by which verl knows it.

    That part needs torchvision, and PyPI has no torchvision for a CPU build of torch.
    """
    from transformers import ProcessorMixin
    from transformers import Qwen2_5_VLProcessor as WithVideos

    class Qwen2_5_VLProcessor(WithVideos):  # noqa: N801
        def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any):
            self.image_token, self.video_token = IMAGE, VIDEO
            self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([IMAGE, VIDEO])
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return Qwen2_5_VLProcessor


def register_processor() -> None:
    """Let ``AutoProcessor`` load a folder in the layout of Qwen2.5-VL where torchvision is missing.

    A folder whose files name a ``processor_class`` still gets transformers' own, and fails.
    """
    from transformers import AutoProcessor, Qwen2_5_VLConfig
    from transformers.utils.import_utils import is_torchvision_available

    if not is_torchvision_available():
        AutoProcessor.register(Qwen2_5_VLConfig, stills_processor(), exist_ok=True)


def make_image_processor() -> Any:
    """Qwen2.5-VL's image processor, but for its smallest picture, which is one visual token here."""
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(size={"shortest_edge": TOKEN**2, "longest_edge": MOST_TOKENS * TOKEN**2})


def save_processor(tokens: Sequence[str], folder: Path) -> None:
    """Tokenizer, image processor and chat template of a model's folder; without a ``processor_class``, so that
    ``AutoProcessor`` takes the one that is registered for the model's configuration."""
    tokenizer = make_tokenizer(tokens)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    make_image_processor().save_pretrained(folder)
