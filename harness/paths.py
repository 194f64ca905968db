"""Where things lie: the checkout, its configuration, the folder of what is built once."""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
CLAIMS = ROOT / "results" / "paper" / "claims.yaml"  # the rules by which the analysis decides
# Characters of the folder in which a run makes that of its Ray: a socket's path has 107 at most, Ray needs about 70.
LONGEST_RAY_FOLDER = 28


def assets_dir() -> Path:
    """Where base models and data sets are built: ``$HARNESS_ASSETS``, else ``results/assets`` of this checkout."""
    return Path(os.environ.get("HARNESS_ASSETS", ROOT / "results" / "assets"))


def python() -> str:
    """How this Python is typed in a command that is shown: ``python`` where the shell would find it, else its path."""
    found, mine = shutil.which("python"), Path(sys.executable)
    if found and Path(found).absolute().parent == mine.parent:
        return "python"
    return os.path.relpath(mine) if mine.is_relative_to(Path.cwd()) else str(mine)


def typed(path: Path) -> str:
    """A path as it is typed from here: relative where it is below, else absolute."""
    return os.path.relpath(path) if path.absolute().is_relative_to(Path.cwd()) else str(path)
