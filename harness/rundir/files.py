"""Small JSON files: written whole or not at all, read with one line that names the file where that fails."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class RunDirError(Exception):
    """A run directory that cannot be read; the message is one line that names the file."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write atomically: a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file; raises ``RunDirError`` where it is missing or torn."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunDirError(f"{path}: missing; is this a run directory?") from None
    except ValueError as error:
        raise RunDirError(f"{path}: not valid JSON ({error})") from None


def content_hash(file: Path) -> str:
    """Sixteen hex digits of a file's bytes; raises OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def settings_hash(settings: dict[str, Any]) -> str:
    """Sixteen hex digits that say how an evaluation was sampled and graded: of all its settings but the step."""
    content = json.dumps({key: value for key, value in settings.items() if key != "step"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def responses_hash(rows: Iterable[tuple[int, int, int]]) -> str:
    """Sixteen hex digits of all responses of a step, (prompt_id, sample, response_hash), whatever their order: equal at
    step 1 for matched runs."""
    lines = [
        "prompt_id,sample,response_hash",
        *(f"{prompt},{sample},{value}" for prompt, sample, value in sorted(rows)),
    ]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()[:16]


def flattened(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as ``{"a.b.c": value}``; lists stay values, an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            flat.update(flattened(value, f"{key}."))
        else:
            flat[key] = value
    return flat
