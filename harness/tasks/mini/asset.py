"""The folder of a variant of ``mini_dense``: unpacked where its base model comes with the project, else built."""

from dataclasses import asdict
from pathlib import Path

from harness.tasks.cache import ensure
from harness.tasks.mini.task import recipe

TRAINED = Path(__file__).with_name("trained")  # as tiny's: floating-point sums differ between CPUs


def asset(variant: str, seed: int = 0) -> Path:
    """The folder of ``variant`` (of ``task.LASTS``) with the base model of ``seed``, by ``base_model.write``.

    What does not come with the project is trained on the first call, in about a minute of one core. ValueError for
    another variant.
    """
    wanted = recipe(variant, seed)

    def build(folder: Path) -> None:
        from harness.tasks.mini import base_model  # torch and transformers: only where something is built

        base_model.write(folder, wanted)

    return ensure(variant, asdict(wanted), build, TRAINED)
