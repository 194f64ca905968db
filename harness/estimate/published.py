"""Steps that others have measured and published, by which the estimate of seconds is calibrated: ``published.csv``.

All on-policy GRPO rows in bfloat16 on DGX-H100 of the tables "Performance" of NeMo RL's documentation, of its versions
0.4, 0.5 and 0.6 (docs.nvidia.com/nemo/rl), whose model is of a family that is counted here. Rows one step off-policy
overlap sampling with training, which verl's ``sync`` mode does not; those on GB200 are of another GPU.

Columns: engine_gpus: that share one vLLM engine; responses: of a step; mean_length: tokens of prompt and response;
longest: the limit; seconds: of a whole step.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.estimate.architecture import Shape

PUBLISHED = Path(__file__).with_name("published.csv")
QWEN3 = {"model_type": "qwen3", "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False}
EXPERTS = {**QWEN3, "model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8}
MODELS: dict[str, dict[str, Any]] = {  # of their config.json
    "llama3.1-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    },
    "qwen3-32b": {
        **QWEN3, "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8,
    },
    "qwen3-30b-a3b": {
        **EXPERTS, "hidden_size": 2048, "moe_intermediate_size": 768, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4,
    },
    "qwen3-235b-a22b": {
        **EXPERTS, "hidden_size": 4096, "moe_intermediate_size": 1536, "num_hidden_layers": 94,
        "num_attention_heads": 64, "num_key_value_heads": 4,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One published row; the fields are the columns."""

    source: str
    model: str
    engine_gpus: int
    gpus: int
    responses: int
    mean_length: int
    longest: int
    seconds: float

    @property
    def shape(self) -> Shape:
        return Shape.of(MODELS[self.model])


def measured(file: Path = PUBLISHED) -> list[Measured]:
    """All rows of the file."""
    kinds = {"source": str, "model": str, "seconds": float}
    with file.open(newline="") as stream:
        return [
            Measured(**{name: kinds.get(name, int)(value) for name, value in row.items()})
            for row in csv.DictReader(stream)
        ]
