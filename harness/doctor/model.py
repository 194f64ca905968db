"""Checks of the model's folder: all its weights, the architecture that was asked for, a tokenizer that can chat."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.config import ConfigError
from harness.doctor import files
from harness.doctor.finding import Finding, Flat, describe, failure, ok, warning
from harness.tasks.registry import asset_path

MODEL = "actor_rollout_ref.model"
SHAPE = "harness.shape."
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
DOWNLOAD = "`.venv/bin/hf download MODEL --local-dir` that folder once more: it fetches what is missing"
EXCHANGE = [{"role": "user", "content": "1 + 1"}]


def weights(flat: Flat) -> Iterator[Finding]:
    """Every file that the index names, none of them cut short. Raises ``ConfigError`` where there is no folder."""
    folder = Path(asset_path(f"{MODEL}.path", flat[f"{MODEL}.path"], flat["harness.asset_seed"])).expanduser()
    files.model_folder({**flat, f"{MODEL}.path": str(folder)})
    missing = missing_shards(folder)
    if missing:
        yield failure(f"{folder} lacks {len(missing)} files of weights: {', '.join(missing)}", DOWNLOAD)
    cut = {file.name: reason for file in sorted(folder.glob("*.safetensors")) if (reason := damage(file))}
    for name, reason in cut.items():
        yield failure(f"{folder / name} is not whole ({reason})", f"delete it, then {DOWNLOAD}")
    if not missing and not cut:
        count = parameters(folder)
        yield ok(f"{folder}" + (f": {count:,} parameters, all there" if count else ""))


def architecture(flat: Flat) -> Iterator[Finding]:
    """The class that config.json names is one of transformers', or comes with the folder and is trusted, and its sizes
    are those of the policy."""
    folder, content = model_folder(flat), model_config(flat)
    if folder is None or content is None:
        return  # `weights` says so
    import transformers

    names = content.get("architectures") or []
    own_code = bool(content.get("auto_map")) and flat[f"{MODEL}.trust_remote_code"]
    unknown = [name for name in names if name not in dir(transformers)]
    if not names:
        yield failure(f"{folder / 'config.json'} names no architecture", "the config.json that came with the weights")
    elif unknown and not own_code:
        yield failure(
            f"{folder / 'config.json'} names {', '.join(unknown)}, which transformers {transformers.__version__} lacks",
            "another model, or a newer transformers in pyproject.toml"
            + (f", or {MODEL}.trust_remote_code=true" if content.get("auto_map") else ""),
        )
    elif "vision_config" in content and not (folder / "preprocessor_config.json").is_file():
        yield failure(f"{folder} has no preprocessor_config.json for its images", DOWNLOAD)
    elif differing := other_sizes(flat, content):
        yield warning(
            f"{folder} is another model than the policy names: {', '.join(differing)}",
            f"another {MODEL}.path, or the policy= that goes with this one",
        )
    else:
        yield ok(", ".join(names))


def tokenizer(flat: Flat) -> Iterator[Finding]:
    """The tokenizer loads and renders a question."""
    folder = model_folder(flat)
    if folder is None:
        return  # `weights` says so
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=flat[f"{MODEL}.trust_remote_code"])
    except Exception as error:  # noqa: BLE001  (transformers raises whatever its many formats raise)
        yield failure(f"the tokenizer of {folder} does not load ({describe(error)})", DOWNLOAD)
        return
    template = flat.get(f"{MODEL}.custom_chat_template") or loaded.chat_template
    if not template:
        yield failure(
            f"the tokenizer of {folder} has no chat template",
            f"an instruct model's chat_template.jinja in that folder, or {MODEL}.custom_chat_template='...'",
        )
        return
    text = loaded.apply_chat_template(EXCHANGE, chat_template=template, add_generation_prompt=True, tokenize=False)
    if EXCHANGE[0]["content"] not in text:
        yield failure(f"the chat template of {folder} leaves the question out", f"another {MODEL}.custom_chat_template")
    else:
        yield ok(f"{len(loaded):,} tokens, with a chat template")


def model_folder(flat: Flat) -> Path | None:
    """The model's folder, None where there is none."""
    try:
        path = asset_path(f"{MODEL}.path", flat[f"{MODEL}.path"], flat["harness.asset_seed"])
    except ConfigError:
        return None
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else None


def model_config(flat: Flat) -> dict[str, Any] | None:
    """The content of the folder's config.json, None where there is none."""
    folder = model_folder(flat)
    file = folder / "config.json" if folder else None
    return json.loads(file.read_text()) if file and file.is_file() else None


def other_sizes(flat: Flat, content: dict[str, Any]) -> list[str]:
    """What config.json has otherwise than ``harness.shape`` of the policy; parts (vision tower) are left out."""
    there = {**content.get("text_config", {}), **content}
    wanted = {key.removeprefix(SHAPE): value for key, value in flat.items() if key.startswith(SHAPE)}
    return [f"{name} {there[name]}, not {size}" for name, size in wanted.items() if there.get(name, size) != size]


def missing_shards(folder: Path) -> list[str]:
    """Files that an index of the folder names and that are not there."""
    indices = [json.loads((folder / name).read_text()) for name in INDICES if (folder / name).is_file()]
    named = {file for index in indices[:1] for file in index["weight_map"].values()}
    return sorted(file for file in named if not (folder / file).is_file())


def damage(file: Path) -> str | None:
    """Why a safetensors file cannot be read, None if it can; its header says how long it must be."""
    try:
        with safe_open(file, framework="numpy"):
            return None
    except (SafetensorError, OSError) as error:
        return describe(error)


def parameters(folder: Path) -> int:
    """Numbers in the folder's safetensors files, from their headers; 0 where there are none that can be read."""
    total = 0
    for file in folder.glob("*.safetensors"):
        if damage(file) is None:
            with safe_open(file, framework="numpy") as content:
                total += sum(math.prod(content.get_slice(name).get_shape()) for name in content.keys())  # noqa: SIM118
    return total
