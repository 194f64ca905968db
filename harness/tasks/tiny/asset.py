"""The folder of ``tiny`` or ``tiny_neutral``, built where it is first asked for."""

from dataclasses import asdict
from pathlib import Path

from harness.tasks.cache import ensure
from harness.tasks.tiny.task import recipe


def asset(variant: str, seed: int = 0) -> Path:
    """The folder of ``variant`` ("tiny" or "tiny_neutral") with the base model of ``seed``, built on the first call.

    ``model/``, ``train.parquet`` and ``heldout.parquet``, as ``base_model.build`` writes them (about half a minute of
    one core). ValueError for another variant.
    """

    def build(folder: Path) -> None:
        from harness.tasks.tiny import base_model  # torch and transformers: only where something is built

        base_model.build(folder, variant, seed)

    return ensure(variant, asdict(recipe(variant, seed)), build)
