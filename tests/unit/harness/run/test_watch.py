"""What the watcher of a run concludes from metrics that are made up here, against numbers worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_runs import write_attempt

from harness.run.failures import classify
from harness.run.watch import Watch
from harness.rundir import STAGE_FILE, RunDir

LIMITS = {
    "start_seconds": 100, "stall_seconds": 20, "stall_factor": 5,
    "collapse_share": 0.2, "cap_share": 0.9, "stop_on": [],
}  # fmt: skip
HEALTHY = {"response_length": 40.0, "reward": 0.5, "entropy": 1.0, "grad_norm": 2.0, "ppo_kl": 0.0, "truncated": 0.1}


class Attempt:
    """A run's attempt that grows row by row, a clock that stands still unless told, and its watcher."""

    def __init__(self, folder: Path, resumed: int = 0, planned: int = 0, **limits: Any):
        self.run, self.now = RunDir(folder), 1000.0
        self.folder = self.run.new_attempt()
        self.file = self.folder / "metrics.jsonl"
        self.watch = Watch(self.run, self.folder, {**LIMITS, **limits}, resumed, planned, clock=lambda: self.now)
        self.step = resumed

    def write(self, text: str) -> None:
        with self.file.open("a") as file:
            file.write(text)

    def add(self, **changes: Any) -> None:
        """The next step's row; a value of None leaves the metric out."""
        self.step += 1
        data = {key: value for key, value in {**HEALTHY, **changes}.items() if value is not None}
        self.write(json.dumps({"step": self.step, "data": data}) + "\n")

    def pass_steps(self, *lengths: float, seconds: float = 10.0) -> None:
        """One step every so many seconds, each seen as it comes."""
        for length in lengths:
            self.now += seconds
            self.add(response_length=length)
            assert self.watch.look() is None

    def alerts(self) -> list[tuple[str, int]]:
        return [(event["kind"], event["step"]) for event in self.run.events()]


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path, planned=20)


def feed(attempt: Attempt, key: str, values: list[Any]) -> None:
    for value in values:
        attempt.add(**{key: value})
        assert attempt.watch.look() is None


def test_a_healthy_run_raises_nothing(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, planned=500)
    attempt.pass_steps(*[40.0 + step % 3 for step in range(400)])
    assert attempt.alerts() == []
    assert attempt.watch.status()["seconds_left"] == 100 * 10.0  # every row was read once


def test_status_says_where_it_is(attempt: Attempt) -> None:
    assert attempt.watch.status() == {"last_step": 0, "last": {}, "seconds_left": None, "stage": ""}
    (attempt.folder / STAGE_FILE).write_text("loading the model")
    assert attempt.watch.status()["stage"] == "loading the model"
    attempt.now += 60  # the start-up is no step
    attempt.add(response_length=30.0)
    attempt.watch.look()
    assert (attempt.watch.status()["seconds_left"], attempt.watch.status()["stage"]) == (None, "")
    for seconds in (10, 30, 12):
        attempt.pass_steps(31.0, seconds=seconds)
    told = attempt.watch.status()
    assert told["last_step"] == 4
    assert told["last"] == {"response_length": 31.0, "reward": 0.5}
    assert told["seconds_left"] == pytest.approx(52 / 3 * 16)  # the mean of 10, 30, 12, and 16 steps are left


def test_steps_shorter_than_the_time_between_two_looks(attempt: Attempt) -> None:
    attempt.now += 60
    attempt.add()
    attempt.watch.look()
    for _ in range(3):  # 4 seconds a step, a look every 12
        attempt.now += 12
        for _ in range(3):
            attempt.add()
        attempt.watch.look()
    assert attempt.watch.status()["seconds_left"] == pytest.approx(4 * 10)


def test_no_first_step_within_its_time(attempt: Attempt) -> None:
    attempt.now += 100
    assert attempt.watch.look() is None
    attempt.now += 1
    said = attempt.watch.look()
    assert said
    assert said.startswith("no step for 101 s")
    assert "harness.watch.start_seconds" in said


def test_validation_before_the_first_step_is_no_step(attempt: Attempt) -> None:
    attempt.now += 90
    attempt.write('{"step": 0, "data": {"val_response_length": 12.0}}\n')
    assert attempt.watch.look() is None
    assert attempt.watch.status()["last_step"] == 0
    attempt.now += 11
    assert (attempt.watch.look() or "").startswith("no step for 101 s")


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [(2.0, 20.0), (4.0, 20.0), (10.0, 50.0), (30.0, 150.0)],  # at least 20, and 5 times the usual step
)
def test_a_stall_is_a_multiple_of_the_usual_step(attempt: Attempt, seconds: float, limit: float) -> None:
    attempt.now += 60
    attempt.pass_steps(*[40.0] * 6, seconds=seconds)
    attempt.now += limit
    assert attempt.watch.look() is None
    attempt.now += 0.5
    said = attempt.watch.look()
    assert said
    assert f"where one takes {seconds:g} s" in said
    assert "harness.watch.stall_factor" in said


def test_one_slow_step_does_not_move_the_limit_and_a_new_one_restarts_it(attempt: Attempt) -> None:
    attempt.pass_steps(*[40.0] * 4)
    attempt.pass_steps(40.0, seconds=49)
    attempt.pass_steps(40.0)
    attempt.now += 49
    assert attempt.watch.look() is None
    attempt.add()
    assert attempt.watch.look() is None
    attempt.now += 51
    assert attempt.watch.look()


def test_a_collapse_is_told_when_five_steps_are_under_the_share_and_once(attempt: Attempt) -> None:
    """Five steps of 40; a fifth of it is 8. Means of five with n steps of 4: (40 (5 - n) + 4 n) / 5 = 40 - 7.2 n,
    under 8 for n = 5 (4.0), not for n = 4 (11.2)."""
    attempt.pass_steps(*[40.0] * 5, *[4.0] * 4)
    assert attempt.alerts() == []
    attempt.pass_steps(*[4.0] * 6)
    assert attempt.alerts() == [("short", 10)]
    (event,) = attempt.run.events()
    assert event["attempt"] == 1
    assert "mean length 4.0 in the last 5 steps, 40.0 in the first" in event["message"]


def test_exactly_the_share_is_no_collapse(attempt: Attempt) -> None:
    attempt.pass_steps(*[40.0] * 5, *[8.0] * 10)
    assert attempt.alerts() == []


def test_responses_at_the_limit_in_five_steps_in_a_row(attempt: Attempt) -> None:
    feed(attempt, "truncated", [0.95, 0.95, 0.95, 0.95, 0.9, 0.91, 0.92, 0.93, 0.94])
    assert attempt.alerts() == []
    feed(attempt, "truncated", [0.95, 0.96])
    assert attempt.alerts() == [("long", 10)]


@pytest.mark.parametrize("key", ["reward", "entropy"])
def test_nothing_but_zero_in_five_steps_in_a_row(attempt: Attempt, key: str) -> None:
    feed(attempt, key, [0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0])
    assert attempt.alerts() == []
    feed(attempt, key, [0.0, 0.0, 0.5, 0.0])
    assert attempt.alerts() == [(f"no_{key}", 10)]


@pytest.mark.parametrize(
    ("key", "value"), [("grad_norm", float("nan")), ("grad_norm", float("inf")), ("entropy", None)]
)
def test_what_is_not_a_number_is_told_at_once(attempt: Attempt, key: str, value: float | None) -> None:
    attempt.pass_steps(40.0, 40.0)
    feed(attempt, key, [value, value, 1.0, value])
    assert attempt.alerts() == [("nan", 3)]
    assert key in attempt.run.events()[0]["message"]


def test_a_metric_that_the_run_never_had_is_not_missed(attempt: Attempt) -> None:
    feed(attempt, "ppo_kl", [None] * 8)
    assert attempt.alerts() == []


def test_several_alerts_are_told_each_once(attempt: Attempt) -> None:
    for _ in range(12):
        attempt.add(reward=0.0, entropy=0.0, truncated=1.0, grad_norm=2.0 if attempt.step < 6 else float("nan"))
        attempt.watch.look()
    assert sorted(attempt.alerts()) == [("long", 5), ("nan", 7), ("no_entropy", 5), ("no_reward", 5)]


def test_an_alert_ends_the_run_where_that_was_asked_for(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, stop_on=["no_reward"])
    for _ in range(4):
        attempt.add(reward=0.0, entropy=0.0)
        assert attempt.watch.look() is None
    attempt.add(reward=0.0, entropy=0.0)
    assert attempt.watch.look() == "alert no_reward: reward is 0 in the last 5 steps"
    assert ("no_reward", 5) in attempt.alerts()


def test_a_torn_last_line_waits_for_its_end(attempt: Attempt) -> None:
    attempt.pass_steps(40.0)
    line = json.dumps({"step": 2, "data": {**HEALTHY, "response_length": 33.0}}) + "\n"
    attempt.write(line[:20])
    assert attempt.watch.look() is None
    assert attempt.watch.status()["last_step"] == 1
    attempt.write(line[20:-1])
    attempt.watch.look()
    assert attempt.watch.status()["last_step"] == 1
    attempt.write(line[-1:])
    attempt.watch.look()
    assert attempt.watch.status()["last"]["response_length"] == 33.0


def test_a_bad_line_does_not_end_the_watch(attempt: Attempt) -> None:
    attempt.pass_steps(40.0)
    attempt.write('{"step": 2, "da\n')
    attempt.pass_steps(41.0)
    assert attempt.watch.status()["last_step"] == 2


def test_a_resumed_attempt_knows_what_came_before(tmp_path: Path) -> None:
    """Steps 1 to 5 at 40 in an earlier attempt, which also went to 7; this one continues after 5."""
    write_attempt(RunDir(tmp_path), {step: {**HEALTHY, "response_length": 40.0} for step in range(1, 8)})
    attempt = Attempt(tmp_path, resumed=5, planned=20)
    assert attempt.watch.status() == {
        "last_step": 5, "last": {"response_length": 40.0, "reward": 0.5}, "seconds_left": None, "stage": "",
    }  # fmt: skip
    attempt.pass_steps(*[4.0] * 4)
    assert attempt.alerts() == []
    attempt.pass_steps(4.0)
    assert attempt.alerts() == [("short", 10)]
    assert attempt.run.events()[0]["attempt"] == 2


VLLM_SAID = """(vLLMHttpServer pid=7) INFO ready
(Worker pid=9) ERROR 11-26 WorkerProc hit an exception.
(Worker pid=9) ERROR Traceback (most recent call last):
(Worker pid=9) ERROR   File "layers.py", line 7, in load
(Worker pid=9) ERROR AssertionError: weights are packed
"""


def test_a_broken_rollout_engine_ends_the_attempt_in_its_own_words(attempt: Attempt) -> None:
    """vLLM's worker fails in a weight sync; the trainer would wait for it without a limit."""
    log = attempt.folder / "log.txt"
    log.write_text("".join(VLLM_SAID.splitlines(keepends=True)[:1]))
    assert attempt.watch.look() is None
    log.write_text("".join(VLLM_SAID.splitlines(keepends=True)[:3]))
    assert attempt.watch.look() is None  # the reason comes after its traceback
    log.write_text(VLLM_SAID)
    said = attempt.watch.look()
    assert said == "the rollout engine broke down: AssertionError: weights are packed"
    assert classify(said) == "lost"
    assert classify("the rollout engine broke down: torch.OutOfMemoryError: CUDA out of memory") == "memory"


def test_an_engine_that_says_no_reason_is_quoted(attempt: Attempt) -> None:
    log = attempt.folder / "log.txt"
    log.write_text("(EngineCore pid=3) ERROR EngineCore encountered a fatal error.\nan unfinished line")
    assert attempt.watch.look() is None
    assert attempt.watch.look() == (
        "the rollout engine broke down: (EngineCore pid=3) ERROR EngineCore encountered a fatal error."
    )


def test_an_engine_may_die_once_all_steps_are_done(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, planned=2)
    attempt.pass_steps(40.0, 40.0)
    (attempt.folder / "log.txt").write_text(VLLM_SAID)
    assert (attempt.watch.look(), attempt.watch.look()) == (None, None)


def test_the_start_has_its_limit_for_each_stage(attempt: Attempt) -> None:
    stage = attempt.folder / STAGE_FILE
    for name in ("loading the model", "validating"):
        stage.write_text(name)
        assert attempt.watch.look() is None
        attempt.now += 90
        assert attempt.watch.look() is None
    attempt.now += 20
    assert attempt.watch.look() == "no step for 110 s after the start at validating (harness.watch.start_seconds)"


def test_a_first_step_that_no_rounding_explains_ends_the_attempt(tmp_path: Path) -> None:
    limits = {"check_engine": True, "token_noise": 1e-2, "comparable": True}
    wrong = Attempt(tmp_path / "a", **limits)
    wrong.add(onpolicy_log_ratio_rms=0.2)
    said = wrong.watch.look()
    assert said is not None
    assert said.startswith("the engine cannot be right: the first update's log-ratio of the policy with itself is 0.2")
    later = Attempt(tmp_path / "b", **limits)
    later.add(onpolicy_log_ratio_rms=1e-3)
    later.add(onpolicy_log_ratio_rms=0.2)  # a policy that has moved: not judged
    assert later.watch.look() is None
    switched_off = Attempt(tmp_path / "c", **{**limits, "check_engine": False})
    switched_off.add(onpolicy_log_ratio_rms=0.2)
    assert switched_off.watch.look() is None
