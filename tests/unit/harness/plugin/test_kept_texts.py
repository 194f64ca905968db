"""Which validation responses are kept as text."""

from harness.config.matching import is_execution, may_make_an_arm
from harness.plugin.texts import of_validation
from harness.rundir import TEXT_COLUMNS


def test_the_first_response_to_each_of_the_first_prompts_is_kept() -> None:
    uids = ["c", "c", "a", "a", "b", "b"]  # two responses to each of three prompts, in the data's order
    inputs = [f"prompt {uid}" for uid in uids]
    outputs = [f"response {at}" for at in range(6)]
    info = {
        "acc": [1.0, 0.0, 0.0, 1.0, 1.0, 1.0],
        "response_length": [3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
        "truncated": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        "reward_format": [1.0],  # of a length that says nothing
    }
    rows = list(of_validation(20, 2, uids, inputs, outputs, info))
    assert all(set(row) == set(TEXT_COLUMNS) for row in rows)
    assert [(r["prompt_id"], r["prompt"], r["response"]) for r in rows] == [
        (0, "prompt c", "response 0"),
        (1, "prompt a", "response 2"),
    ]
    assert [(r["accuracy"], r["tokens"], r["truncated"], r["clipped"]) for r in rows] == [
        (1.0, 3, False, None),
        (0.0, 5, True, None),
    ]
    assert {(r["of"], r["step"], r["sample"]) for r in rows} == {("validation", 20, 0)}


def test_what_a_reward_manager_does_not_say_is_unknown() -> None:
    (row,) = of_validation(0, 8, ["a"], ["prompt"], ["response"], {"reward": [0.5]})
    assert (row["accuracy"], row["tokens"], row["truncated"]) == (None, None, None)


def test_how_much_is_kept_changes_nothing_that_is_learnt() -> None:
    assert is_execution("harness.text_prompts", {})
    assert not may_make_an_arm("harness.text_prompts=0", {"harness.text_prompts": 0})
