"""What the training process passes to its workers."""

from types import SimpleNamespace

import psutil
import pytest

from harness.config import compose
from harness.plugin.job import forwarded
from harness.plugin.nodes import object_store_bytes
from harness.run import fork_server


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HF_HUB_OFFLINE", True),
        ("NCCL_SOCKET_IFNAME", True),
        ("VLLM_CPU_KVCACHE_SPACE", True),
        ("HF_HUB_TOKEN", False),  # verl prints and logs its configuration
        ("VLLM_API_KEY", False),
        ("HF_TOKEN", False),
        ("EDITOR", False),
    ],
)
def test_what_workers_of_a_standing_cluster_need_is_forwarded_and_no_secret(name: str, expected: bool) -> None:
    assert forwarded(name) is expected


@pytest.mark.parametrize(
    ("overrides", "shared"),
    [
        (("experiment=tiny",), True),
        (("experiment=tiny", "trainer.nnodes=2"), True),  # Ray nodes of this machine
        (("experiment=tiny", "harness.fork_server=false"), False),
        (("experiment=tiny", "ray_kwargs.ray_init.address=auto"), False),
        (("experiment=tiny_vllm",), False),
        (("experiment=text_dense",), False),
    ],
)
def test_workers_are_forks_on_this_machines_cpu_alone(overrides: tuple[str, ...], shared: bool) -> None:
    assert fork_server.wanted(compose(overrides)) is shared


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
