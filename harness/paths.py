"""Where things lie: the checkout, its configuration, the folder of what is built once."""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def assets_dir() -> Path:
    """Where base models and data sets are built: ``$HARNESS_ASSETS``, else ``results/assets`` of this checkout."""
    return Path(os.environ.get("HARNESS_ASSETS", ROOT / "results" / "assets"))


def python() -> str:
    """How this Python is typed in a command that is shown: ``python`` where the shell would find it, else its path."""
    found, mine = shutil.which("python"), Path(sys.executable)
    if found and Path(found).absolute().parent == mine.parent:
        return "python"
    return os.path.relpath(mine) if mine.is_relative_to(Path.cwd()) else str(mine)
