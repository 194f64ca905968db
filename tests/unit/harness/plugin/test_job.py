"""What the training process passes to its workers."""

import pytest

from harness.plugin.job import forwarded


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
