"""Things that are built once and then only read: base models and data sets, cached by the hash of their recipe."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from filelock import FileLock

from harness.config import ConfigError
from harness.paths import assets_dir

RECIPE = "recipe.json"
_may_build = ContextVar("may_build", default=True)


class NotBuiltError(ConfigError):
    """The asset is not there, and this command starts nothing."""


def ensure(name: str, recipe: dict[str, Any], build: Callable[[Path], None], shipped: Path | None = None) -> Path:
    """The folder of one asset, built by ``build(folder)`` if no finished one has this recipe.

    ``recipe`` is every number that the content depends on (JSON); its hash is part of the folder's name, so a
    changed recipe never finds an old folder. ``shipped``: a folder with what comes with the project, ``<folder's
    name>.zip``, which is unpacked instead: the same bytes on every machine. Two processes that ask at once build once.
    A build that fails or is killed leaves nothing behind under the final name. Raises ``NotBuiltError`` within
    ``nothing_built``.
    """
    text = json.dumps(recipe, sort_keys=True)
    folder = assets_dir() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if (folder / RECIPE).exists():
        return folder
    archive = shipped / f"{folder.name}.zip" if shipped else None
    packed = archive is not None and archive.is_file()
    if not packed and not _may_build.get():
        raise NotBuiltError(f"{name} is not built yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / RECIPE).exists():
            draft = folder.with_name(folder.name + ".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            if packed:
                shutil.unpack_archive(str(archive), draft)
            else:
                build(draft)
            (draft / RECIPE).write_text(text + "\n")
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
            draft.rename(folder)
    return folder


@contextlib.contextmanager
def nothing_built() -> Iterator[None]:
    """For commands that only plan: whatever would take its time to build raises ``NotBuiltError``."""
    token = _may_build.set(False)
    try:
        yield
    finally:
        _may_build.reset(token)
