"""What W&B kept on this disk: where it is and how it is sent."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.paths import python, typed
from harness.rundir import RunDir


def sync_hint(runs: Sequence[RunDir]) -> str:
    """One line with the command that sends the W&B records of these runs; "" where none was kept offline.

    W&B writes each attempt offline into ``<run>/wandb/offline-run-*`` unless WANDB_MODE says otherwise.
    """
    kept = [run.path for run in runs if any((run.path / "wandb").glob("offline-run-*"))]
    if not kept:
        return ""
    wandb = Path(python()).with_name("wandb") if python() != "python" else Path("wandb")
    folders = " ".join(f"{shlex.quote(typed(path / 'wandb'))}/offline-run-*" for path in kept)
    return f"W&B: {len(kept)} run{'s' * (len(kept) > 1)} kept offline; to send: {wandb} sync {folders}"
