"""Things that are built once and then only read: base models and data sets, cached by the hash of their recipe."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.paths import assets_dir

RECIPE = "recipe.json"


def ensure(name: str, recipe: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """The folder of one asset, built by ``build(folder)`` if no finished one has this recipe.

    ``recipe`` is every number that the content depends on (JSON); its hash is part of the folder's name, so a
    changed recipe never finds an old folder. Two processes that ask at once build once. A build that fails or is
    killed leaves nothing behind under the final name.
    """
    text = json.dumps(recipe, sort_keys=True)
    folder = assets_dir() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if (folder / RECIPE).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / RECIPE).exists():
            draft = folder.with_name(folder.name + ".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            build(draft)
            (draft / RECIPE).write_text(text + "\n")
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
            draft.rename(folder)
    return folder
