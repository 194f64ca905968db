"""Configurations that the doctor is asked about."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from doctoring import MODEL, Flat

from harness.tasks.registry import asset_path


@pytest.fixture
def tiny(flat: Callable[..., Flat], tmp_path: Path) -> Flat:
    """tiny's configuration, with runs in a folder of the test's own."""
    return flat("experiment=tiny") | {"harness.root": str(tmp_path / "runs")}


@pytest.fixture
def copied(tiny: Flat, tmp_path: Path) -> tuple[Flat, Path]:
    """The same with a copy of its model, and that copy."""
    folder = tmp_path / "model"
    shutil.copytree(asset_path(MODEL, tiny[MODEL], tiny["harness.asset_seed"]), folder)
    return tiny | {MODEL: str(folder)}, folder
