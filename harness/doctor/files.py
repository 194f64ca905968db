"""The files that a run reads, each found missing or wrong before it starts: model, checkpoint of a fork, data."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.config import ConfigError
from harness.run.checkpoints import intact

MODEL, FORK, ROLLOUT = "actor_rollout_ref.model.path", "harness.fork_from", "actor_rollout_ref.rollout"
DATA_COLUMNS = ("data_source", "prompt", "reward_model", "extra_info")
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def check(flat: dict[str, Any]) -> None:
    """Raise ``ConfigError`` for the first file that is missing or wrong: model, checkpoint of a fork, data.

    flat: with assets built.
    """
    model_folder(flat)
    heads(flat)
    fused_head(flat)
    fork_point(flat)
    for key in ("data.train_files", "data.val_files"):
        data_file(flat, key)


def model_folder(flat: dict[str, Any]) -> None:
    """Configuration, weights and tokenizer are there."""
    path = Path(flat[MODEL]).expanduser()
    how = f"hf download {flat['actor_rollout_ref.model.path']} --local-dir DIR, then actor_rollout_ref.model.path=DIR"
    if not path.is_dir():
        raise ConfigError(f"actor_rollout_ref.model.path={path}: no such folder; {how}")
    if not (path / "config.json").exists():
        raise ConfigError(f"{path} has no config.json, so it is not a transformers model folder")
    if not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
        raise ConfigError(f"{path} has no weights (*.safetensors or pytorch_model*.bin); {how}")
    if not any((path / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise ConfigError(f"{path} has no tokenizer files; {how}")


def fork_point(flat: dict[str, Any]) -> None:
    """A whole checkpoint, where the run starts from one."""
    folder = flat[FORK]
    if folder and not intact(Path(folder)):
        raise ConfigError(
            f"harness.fork_from={folder}: no whole checkpoint; a run's are in checkpoints/global_step_<n>"
        )


def heads(flat: dict[str, Any]) -> None:
    """vLLM's attention on a CPU knows some sizes of heads; of others it says so after minutes, in a worker's log."""
    config = Path(str(flat[MODEL])).expanduser() / "config.json"
    if flat["trainer.device"] != "cpu" or flat[f"{ROLLOUT}.name"] != "vllm" or not config.is_file():
        return
    model = json.loads(config.read_text())
    size = model.get("head_dim")
    if size is None and {"hidden_size", "num_attention_heads"} <= set(model):
        size = model["hidden_size"] // model["num_attention_heads"]
    if size is not None and size not in CPU_HEADS:
        raise ConfigError(
            f"{ROLLOUT}.name=vllm on a CPU needs heads of {', '.join(map(str, CPU_HEADS))} numbers, those of {config} "
            f"have {size}; use policy=tiny_vllm or another model"
        )


def fused_head(flat: dict[str, Any]) -> None:
    """FSDP 2 shards a head that is not also the embedding by itself, where verl's fused head finds a part of it."""
    config = Path(str(flat[MODEL])).expanduser() / "config.json"
    key = "actor_rollout_ref.model.use_fused_kernels"
    if not flat.get(key) or flat["actor_rollout_ref.actor.strategy"] != "fsdp2" or not config.is_file():
        return
    if not json.loads(config.read_text()).get("tie_word_embeddings"):
        raise ConfigError(
            f"{key}=true with fsdp2 needs a model with tie_word_embeddings, unlike {config}; set {key}=false"
        )


def data_file(flat: dict[str, Any], key: str) -> None:
    """The Parquet files of ``key``: readable, with verl's columns, each row with an index of its own."""
    files = flat[key] if isinstance(flat[key], list) else [flat[key]]
    rows, indices = 0, []
    for name in files:
        path = Path(name).expanduser()
        if not path.exists():
            raise ConfigError(f"{key}={path}: no such file; put a parquet file there or choose another task=")
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"{key}={path}: not a readable parquet file ({type(error).__name__})") from None
        missing = [column for column in DATA_COLUMNS if column not in schema.names]
        if missing:
            raise ConfigError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(schema.names)}")
        info = pq.read_table(path, columns=["extra_info"]).column("extra_info").to_pylist()
        rows += len(info)
        indices += [row.get("index") if isinstance(row, dict) else None for row in info]
    if any(not isinstance(index, int) for index in indices) or len(set(indices)) != rows:
        raise ConfigError(f"{key}: extra_info.index must be an integer that is unique in every row of {files}")
    if key == "data.train_files" and rows < flat["data.train_batch_size"]:
        raise ConfigError(f"{key} has {rows} prompts, fewer than data.train_batch_size={flat['data.train_batch_size']}")
