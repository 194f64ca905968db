"""What a sweep that trains seeds until it is decided leaves beside its runs: the rule, its looks, why it stopped.

``<root>/.sweeps/<sweep>/decision-<pairs>.json``. The sweep writes it, the analysis reads from it that runs were looked
at more than once.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.rundir.files import RunDirError, read_json

SWEEPS = ".sweeps"
LONGEST = 120  # characters of a file's name that say what is compared


def decision_file(folder: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    """The file of a comparison of these pairs of arms, in the folder of a sweep's state."""
    name = "+".join(f"{first}-{second}" for first, second in pairs)
    if len(name) > LONGEST:
        name = hashlib.sha256(name.encode()).hexdigest()[:16]
    return folder / f"decision-{name}.json"


def find_decisions(root: Path) -> list[dict[str, Any]]:
    """What the sweeps whose runs are in ``root`` have found so far, by file; one that cannot be read is passed over."""
    found = []
    for file in sorted((root / SWEEPS).glob("*/decision-*.json")):
        try:
            found.append(read_json(file))
        except (RunDirError, OSError):
            continue
    return found
