"""What the training process passes to its workers."""

import pytest

from harness.config import compose
from harness.plugin.job import forwarded
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
