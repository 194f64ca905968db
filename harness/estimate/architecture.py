"""A model's shape, and what follows from it: parameters, KV cache, arithmetic of a token."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.tasks.registry import asset_path

MODEL = "actor_rollout_ref.model"
FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe", "qwen2_5_vl")


@dataclass(frozen=True)
class Shape:
    """The numbers of a config.json that count parameters; sizes as there, ``experts`` 0 for a dense model."""

    family: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    experts: int = 0
    experts_per_token: int = 0
    vision: int = 0  # parameters of the vision tower

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Shape":
        """From a config.json or ``harness.shape``; raises ``ConfigError`` for a model of another family."""
        content = {**content, **(content.get("text_config") or {}), "model_type": content.get("model_type")}
        family = content["model_type"]
        if family not in FAMILIES:
            raise ConfigError(f"model_type={family}: no estimate; there are {', '.join(FAMILIES)}")
        try:
            heads = content["num_attention_heads"]
            moe = family.endswith("_moe")
            return cls(
                family=family,
                hidden=content["hidden_size"],
                intermediate=content["moe_intermediate_size" if moe else "intermediate_size"],
                layers=content["num_hidden_layers"],
                heads=heads,
                kv_heads=content["num_key_value_heads"],
                head_size=content.get("head_dim") or content["hidden_size"] // heads,
                vocabulary=content["vocab_size"],
                tied=bool(content.get("tie_word_embeddings", False)),
                experts=content["num_experts"] if moe else 0,
                experts_per_token=content["num_experts_per_tok"] if moe else 0,
                vision=_vision_parameters(content["vision_config"]) if family == "qwen2_5_vl" else 0,
            )
        except KeyError as error:
            raise ConfigError(f"the model's config.json (or harness.shape) lacks {error.args[0]}") from None

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, and of the output layer where it is another matrix."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def expert(self) -> int:
        """Parameters of one gated MLP: all of a dense layer's, or one expert's."""
        return 3 * self.hidden * self.intermediate

    @property
    def backbone(self) -> int:
        """Parameters of the language model's layers, less its experts or MLPs, and of the last norm."""
        query, key_value = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * self.hidden * (query + key_value)
        biases = query + 2 * key_value if self.family.startswith("qwen2") else 0
        head_norms = 2 * self.head_size if self.family.startswith("qwen3") else 0
        router = self.hidden * self.experts
        return self.layers * (attention + biases + head_norms + router + 2 * self.hidden) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding + self.backbone + self.vision + self.layers * max(1, self.experts) * self.expert

    @property
    def active(self) -> int:
        """Parameters that one token meets: of the experts its own, of the vision tower all."""
        return self.parameters - self.layers * (self.experts - self.experts_per_token) * self.expert

    @property
    def multiplied(self) -> int:
        """Active parameters of the language model that a token is multiplied with: the input embedding is looked up."""
        return self.active - self.vision - (0 if self.tied else self.vocabulary * self.hidden)

    def kv_bytes(self, width: int = 2) -> int:
        """Bytes of KV cache for a token, numbers of ``width`` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_size * width

    def forward_flops(self, context: float) -> float:
        """Floating-point operations of one token's forward pass in a sequence of ``context`` tokens."""
        return 2.0 * self.multiplied + 2.0 * self.layers * self.heads * self.head_size * context


def _vision_parameters(content: Mapping[str, Any]) -> int:
    """Qwen2.5-VL's vision tower: patches, blocks with biased gated MLPs, and the merger into the language model."""
    hidden, inner, out = content["hidden_size"], content["intermediate_size"], content["out_hidden_size"]
    channels = content.get("in_channels") or content.get("in_chans", 3)
    patches = channels * content["temporal_patch_size"] * content["patch_size"] ** 2 * hidden
    attention = 4 * hidden**2 + 4 * hidden
    mlp = 3 * hidden * inner + 2 * inner + hidden
    merged = hidden * content["spatial_merge_size"] ** 2
    merger = hidden + merged**2 + merged + merged * out + out
    return patches + content["depth"] * (attention + mlp + 2 * hidden) + merger


def shape_of(flat: Mapping[str, Any]) -> Shape:
    """The model's shape: its folder's config.json if that is there, else ``harness.shape``; raises ``ConfigError``."""
    path = Path(asset_path(f"{MODEL}.path", flat[f"{MODEL}.path"], flat["harness.asset_seed"])).expanduser()
    if (path / "config.json").is_file():
        return Shape.of(json.loads((path / "config.json").read_text()))
    prefix = "harness.shape."
    given: dict[str, Any] = {}
    for key, value in flat.items():
        if key.startswith(prefix):
            part, _, name = key.removeprefix(prefix).rpartition(".")
            (given.setdefault(part, {}) if part else given)[name] = value
    if not given:
        raise ConfigError(f"{MODEL}.path={path}: neither a folder with config.json nor a policy with harness.shape")
    return Shape.of(given)
