"""What tests of the doctor share."""

from collections.abc import Iterable
from typing import Any

from harness.doctor.finding import Finding

MODEL = "actor_rollout_ref.model.path"
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
ADDRESS = "ray_kwargs.ray_init.address"
TINY_PARAMETERS = 94_720  # conf/policy/tiny.yaml
Flat = dict[str, Any]


def cuda(flat: Flat, count: int = 2) -> Flat:
    return flat | {"trainer.device": "cuda", "trainer.n_gpus_per_node": count, f"{ROLLOUT}.name": "vllm"}


def levels(found: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in found]


def only(found: Iterable[Finding], level: str, *words: str) -> Finding:
    """The one finding, of that level and with these words in what was found."""
    (finding,) = list(found)
    assert finding.level == level, finding
    assert all(word in finding.found for word in words), finding
    assert level == "ok" or finding.remedy or level == "warning", finding
    return finding
