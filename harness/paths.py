"""Where things lie: the checkout, its configuration, the folder of what is built once."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def assets_dir() -> Path:
    """Where base models and data sets are built: ``$HARNESS_ASSETS``, else ``results/assets`` of this checkout."""
    return Path(os.environ.get("HARNESS_ASSETS", ROOT / "results" / "assets"))
