"""The folder of a variant of ``tiny``: unpacked where its base model comes with the project, else built."""

from dataclasses import asdict
from pathlib import Path

from harness.tasks.cache import ensure
from harness.tasks.tiny.task import recipe

# Floating-point sums differ between CPUs, so that a base model trained elsewhere would be another one. These are the
# folders that the runs in results/reference began with.
TRAINED = Path(__file__).with_name("trained")


def asset(variant: str, seed: int = 0) -> Path:
    """The folder of ``variant`` (of ``task.PHASES``) with the base model of ``seed``.

    ``model/``, ``train.parquet`` and ``heldout.parquet``, as ``base_model.build`` writes them. Seed 0 comes with the
    project; another one is trained on the first call (about half a minute of one core). ValueError for another variant.
    """

    def build(folder: Path) -> None:
        from harness.tasks.tiny import base_model  # torch and transformers: only where something is built

        base_model.build(folder, variant, seed)

    return ensure(variant, asdict(recipe(variant, seed)), build, TRAINED)
