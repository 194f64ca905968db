"""How large the object stores of a run's own Ray nodes are."""

from types import SimpleNamespace

import psutil
import pytest

from harness.plugin.nodes import object_store_bytes


@pytest.mark.parametrize(
    ("free", "nodes", "expected"),
    [(40e9, 1, 6e9), (40e9, 2, 3e9), (5e9, 1, 4.5e9), (64e6, 1, 2e9)],  # the last: a container's shared memory
)
def test_the_object_store_fits_into_shared_memory_or_goes_to_disk(
    monkeypatch: pytest.MonkeyPatch, free: float, nodes: int, expected: float
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=20e9))
    monkeypatch.setattr(psutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert object_store_bytes(nodes) == expected
