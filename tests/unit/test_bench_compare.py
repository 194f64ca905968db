"""What `make bench` says of its numbers beside those of the last commit."""

from typing import Any

import pytest
from bench.compare import compared, costs


def one_round(step: float) -> dict[str, Any]:
    """Three contestants of two steps; TRL takes 1 s a step, verl 2 s, the harness ``step`` seconds."""
    seconds = {"trl": 1.0, "verl": 2.0, "harness": step}
    return {name: {"steps": [{"seconds": s}, {"seconds": 2 * s}], "peak_bytes": 1e9 * s} for name, s in seconds.items()}


def test_runs_are_compared_as_ratios_within_a_round() -> None:
    before, after = {"rounds": [one_round(3.0)]}, {"rounds": [one_round(4.0), one_round(5.0), one_round(9.0)]}
    found = {name: row for name, *row in compared(before, after)}
    assert found["one step, harness / trl"] == pytest.approx([3.0, 5.0, 5 / 3])
    assert found["one step, harness / verl"] == pytest.approx([1.5, 2.5, 5 / 3])
    assert len(found) == 6


def test_processor_seconds_count_where_they_were_taken_and_rounds_are_pooled() -> None:
    case = [{"seconds": 9.0, "cpu_seconds": cpu, "peak_bytes": 5} for cpu in (1.0, 3.0, 2.0)]
    result = {"sizes": {"small": {"cases": {"load": case}}}, "sweep": [{"seconds": 7.0}]}
    assert costs(result) == {"small, load, cpu_seconds": 2.0, "small, load, peak_bytes": 5, "sweep, seconds": 7.0}


def test_what_only_one_of_them_holds_is_left_out_and_the_worst_is_first() -> None:
    before = {"a": {"seconds": 1.0}, "b": {"seconds": 1.0}, "gone": {"seconds": 1.0}}
    after = {"a": {"seconds": 1.5}, "b": {"seconds": 3.0}, "new": {"seconds": 1.0}}
    assert compared(before, after) == [("b, seconds", 1.0, 3.0, 3.0), ("a, seconds", 1.0, 1.5, 1.5)]
