"""What rounding can make of log-probabilities, and what it cannot."""

from typing import Any

import pytest

from harness.config import compose, flatten
from harness.run.arithmetic import comparable, engine_fault, token_noise
from harness.run.failures import CAUSES, classify
from harness.rundir.rounding import BF16_TOKEN_NOISE, FP32_TOKEN_NOISE


def row(**changes: float) -> dict[str, float]:
    return {"response_length": 17.0, "onpolicy_log_ratio_rms": 2.5e-3, "rollout_logprob_diff": 4e-3, **changes}


def test_the_arithmetic_is_the_forward_passs() -> None:
    noise = {name: token_noise(flatten(compose([f"experiment={name}", "algo=gspo"]))) for name in
             ("tiny", "text_dense", "text_moe")}  # fmt: skip
    assert noise == {"tiny": FP32_TOKEN_NOISE, "text_dense": BF16_TOKEN_NOISE, "text_moe": BF16_TOKEN_NOISE}
    tiny = flatten(compose(["experiment=tiny", "algo=gspo"]))
    assert comparable(tiny)
    assert not comparable({**tiny, "actor_rollout_ref.rollout.top_p": 0.7})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, None),
        ({"onpolicy_log_ratio_rms": 0.2}, "onpolicy_log_ratio_rms"),  # measured: sequence parallelism without flash
        ({"rollout_logprob_diff": 0.487}, "rollout_logprob_diff"),
        ({"response_length": 1000.0, "rollout_logprob_diff": 0.03}, None),  # experts chosen otherwise
        ({"onpolicy_log_ratio_rms": float("nan")}, None),  # not recorded
        ({"response_length": 0.0, "onpolicy_log_ratio_rms": 0.2}, None),
    ],
)
def test_what_no_rounding_explains(changes: dict[str, float], named: str | None) -> None:
    said = engine_fault(row(**changes), BF16_TOKEN_NOISE, gap=True)
    assert (said is None) == (named is None)
    if said:
        assert named in said
        assert classify(said) == "engine"
        assert not CAUSES["engine"].retry


def test_a_rollout_that_cuts_its_distribution_is_not_compared() -> None:
    assert engine_fault(row(rollout_logprob_diff=0.5), BF16_TOKEN_NOISE, gap=False) is None


def test_fp32_is_held_to_less(tmp_path: Any) -> None:
    assert engine_fault(row(), FP32_TOKEN_NOISE, gap=True) is not None
    measured = row(response_length=45.0, onpolicy_log_ratio_rms=0.0, rollout_logprob_diff=9e-6)  # SmolLM2
    assert engine_fault(measured, FP32_TOKEN_NOISE, gap=True) is None
