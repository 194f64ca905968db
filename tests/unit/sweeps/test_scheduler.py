"""The scheduler over real run directories, a launcher whose runs are scripts, and virtual time."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_launcher import HOST, Act, FakeLauncher, Simulation, trial, write_outcome, write_steps

from harness.run.failures import CAUSES
from harness.rundir import LAUNCH_LOG, STALE_SECONDS
from sweeps.scheduler import LONGEST_BACKOFF, Rules
from sweeps.trials import Trial

POLL = FakeLauncher.poll_seconds
RULES = Rules(retries=3, backoff=40.0)


@pytest.fixture
def simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``simulation(*acts)``: one trial with this script; ``simulation(trials=..., places=...)``: several."""

    def make(*acts: Act, trials: list[Trial] | None = None, rules: Rules = RULES, **fields: Any) -> Simulation:
        mine = trials or [trial(tmp_path, "a")]
        launcher = FakeLauncher(**{"scripts": {mine[0].name: acts}, **fields})
        monkeypatch.setattr("harness.rundir.run.time", SimpleNamespace(time=launcher.clock))
        return Simulation(mine, launcher, rules)

    return make


def failing(times: int, cause: str = "memory", **fields: Any) -> list[Act]:
    return [Act(cause=cause, **fields)] * times


def about(waits: Iterable[float], expected: Iterable[float]) -> bool:
    """Equal up to the time between two polls."""
    return all(want <= wait < want + 2 * POLL for wait, want in zip(waits, expected, strict=True))


def test_all_are_done_side_by_side(simulation: Any, tmp_path: Path) -> None:
    one = simulation(trials=[trial(tmp_path, arm) for arm in "abcd"])
    assert one.run() == dict.fromkeys("abcd", "done")
    assert {when for when, _ in one.launcher.starts} == {1e9}


def test_order_is_by_priority_then_size_then_hours(simulation: Any, tmp_path: Path) -> None:
    trials = [
        trial(tmp_path, "small", gpus=1, hours=9.0), trial(tmp_path, "large", gpus=4),
        trial(tmp_path, "long", gpus=1, hours=99.0),
        trial(tmp_path, "urgent", gpus=1, priority=2.0), trial(tmp_path, "none", priority=-1.0, gpus=4),
        trial(tmp_path, "urgent_large", gpus=2, priority=2.0),
    ]  # fmt: skip
    one = simulation(trials=trials, places=4)
    one.run()
    assert one.started() == ["urgent_large", "urgent", "long", "large", "small", "none"]


def test_places_are_used_and_never_more_than_there_are(simulation: Any, tmp_path: Path) -> None:
    """3 + 1 of 4 places fill with what fits, the launcher asserts the rest; 24 place-runs of 100 s fill 600 s."""
    trials = [trial(tmp_path, f"{size}_{n}", gpus=size) for n in range(6) for size in (3, 1)]
    one = simulation(trials=trials, places=4)
    assert set(one.run().values()) == {"done"}
    assert one.launcher.now - 1e9 == 600


def test_a_done_trial_is_never_started(simulation: Any, tmp_path: Path) -> None:
    done, short, fresh = (trial(tmp_path, name) for name in ("done", "short", "fresh"))
    done.run.write_status("done", last_step=6)
    short.run.write_status("done", last_step=5)  # of as many as were planned then
    one = simulation(trials=[done, short, fresh])
    assert set(one.run().values()) == {"done"}
    assert sorted(one.started()) == ["fresh", "short"]


@pytest.mark.parametrize("cause", [name for name, cause in CAUSES.items() if cause.retry and name != "preempted"])
def test_what_may_go_better_is_tried_again_later_and_later(simulation: Any, cause: str) -> None:
    one = simulation(*failing(3, cause))
    assert one.run() == {"a": "done"}
    assert about(one.waits(), [40, 80, 160])


@pytest.mark.parametrize("cause", [name for name, cause in CAUSES.items() if not cause.retry])
def test_what_would_come_again_is_not(simulation: Any, cause: str) -> None:
    one = simulation(*failing(1, cause, error="why it ended"))
    assert one.run() == {"a": "failed"}
    assert one.started() == ["a"]
    assert one.error() == "why it ended"


def test_after_the_forgiven_attempts_it_is_given_up(simulation: Any) -> None:
    one = simulation(*failing(9))
    assert one.run() == {"a": "failed"}
    assert len(one.started()) == 4  # one, and three retries
    assert one.error() == "4 attempts without a new step; the last: said the run"
    assert [progress.trial.path.parts[-2] for progress in one.scheduler.failed] == ["a"]


def test_waits_have_a_limit(simulation: Any) -> None:
    one = simulation(*failing(7), rules=Rules(retries=9, backoff=600.0))
    one.run()
    assert about(one.waits(), [600, 1200, *[LONGEST_BACKOFF] * 5])


def test_a_new_step_starts_the_count_again(simulation: Any) -> None:
    stuck = failing(3)
    one = simulation(*stuck, Act(cause="lost", last=2), *stuck, Act(cause="lost", last=3), *stuck)
    assert one.run() == {"a": "done"}
    assert about(one.waits(), [40, 80, 160, 40, 40, 80, 160, 40, 40, 80, 160])


def test_the_same_steps_again_are_no_progress(simulation: Any) -> None:
    """It reaches 4, and then 4 again and again from the checkpoint of 2."""
    one = simulation(Act(cause="lost", last=4), *failing(9, first=2, last=4))
    assert one.run() == {"a": "failed"}
    assert len(one.started()) == 5


def test_preempted_runs_start_again_at_once_and_are_never_counted(simulation: Any) -> None:
    one = simulation(*failing(12, "preempted"), *failing(3), Act(cause="preempted"), *failing(3))
    assert one.run() == {"a": "done"}
    assert about(one.waits(), [*[0] * 12, 40, 80, 160, 0, 40, 80, 160])


@pytest.mark.parametrize("before", [0, 1])
def test_a_refused_run_is_given_up_with_its_last_words(simulation: Any, before: int) -> None:
    one = simulation(*failing(before), Act("refused", error="actor.grad_clip=1: use optim.clip_grad"))
    assert one.run() == {"a": "failed"}
    assert len(one.started()) == before + 1
    assert one.error() == "actor.grad_clip=1: use optim.clip_grad"


@pytest.mark.parametrize(("kind", "said"), [("cannot", "said the run"), ("silent", LAUNCH_LOG)])
def test_starts_that_fail(simulation: Any, kind: str, said: str) -> None:
    one = simulation(*[Act(kind)] * 3)
    assert one.run() == {"a": "done"}
    other = simulation(*[Act(kind)] * 9, trials=[trial(one.trials[0].path, "b")])
    assert other.run() == {"b": "failed"}
    assert len(other.started()) == 4
    assert said in other.error()
    mixed = simulation(*([*[Act(kind)] * 3, *failing(1)] * 3), trials=[trial(one.trials[0].path, "c")])
    assert mixed.run() == {"c": "done"}  # an attempt says that it can be started


def test_one_that_cannot_start_does_not_hold_up_the_others(simulation: Any, tmp_path: Path) -> None:
    one = simulation(*[Act("cannot")] * 9, trials=[trial(tmp_path, "a", priority=1.0), trial(tmp_path, "b")], places=1)
    assert one.run() == {"a": "failed", "b": "done"}
    assert one.started()[:2] == ["a", "b"]


def test_a_lost_run_is_waited_for_until_its_heartbeat_is_stale(simulation: Any) -> None:
    one = simulation(Act("lost", last=2))
    assert one.run() == {"a": "done"}
    (wait,) = one.waits()
    assert STALE_SECONDS - POLL <= wait <= STALE_SECONDS + 40 + 2 * POLL


def test_killed_between_its_outcome_and_its_status(simulation: Any) -> None:
    one = simulation(Act("lost", last=6))
    one.polls(11)
    write_outcome(one.trials[0].run, one.trials[0].run.attempts()[0], state="done", ended=one.launcher.now, last_step=6)
    assert one.run() == {"a": "done"}


def test_a_new_scheduler_goes_on_where_the_old_one_was(simulation: Any, tmp_path: Path) -> None:
    """a runs, b is done, c waits for its next attempt, d for a place."""
    trials = [trial(tmp_path, arm, priority=-ord(arm)) for arm in "abcd"]
    scripts = {trials[0].name: [Act(last=6, seconds=500)], trials[2].name: failing(1, seconds=150)}
    one = simulation(trials=trials, scripts=scripts, places=3)
    one.polls(13)
    assert [progress.state for progress in one.scheduler.trials] == ["running", "done", "running", "running"]
    one.polls(4)
    one.restart()
    assert [progress.state for progress in one.scheduler.trials] == ["running", "done", "waiting", "running"]
    assert one.run() == dict.fromkeys("abcd", "done")
    assert one.started() == ["a", "b", "c", "d", "c"]


def test_another_launchers_submission_is_not_asked_for(simulation: Any) -> None:
    one = simulation(Act(last=6, seconds=500))
    one.polls(2)
    one.launcher.name = "other"  # its number means nothing there
    one.restart()
    assert one.scheduler.trials[0].submission is None
    assert one.run() == {"a": "done"}
    assert one.started() == ["a"]  # alive by its heartbeat


@pytest.mark.parametrize(("last", "state", "starts"), [(6, "done", 0), (4, "done", 1), (4, "failed", 1)])
def test_a_run_that_somebody_else_started_is_waited_for(simulation: Any, last: int, state: str, starts: int) -> None:
    one = simulation()
    run, launcher = one.trials[0].run, one.launcher
    attempt = run.new_attempt()
    run.write_status("running", host=HOST)
    one.restart()
    for _ in range(30):
        one.polls(1)
        run.write_status("running", host=HOST)
    assert one.started() == []
    write_steps(attempt, range(1, last + 1), launcher.now)
    cause = None if state == "done" else "lost"
    write_outcome(run, attempt, state=state, cause=cause, ended=launcher.now, last_step=last)
    run.write_status(state, last_step=last, host=None)
    assert one.run() == {"a": "done"}
    assert len(one.started()) == starts


def test_a_run_that_somebody_else_starts_while_it_waits_is_not_started_twice(simulation: Any, tmp_path: Path) -> None:
    first, waiting = trial(tmp_path, "first"), trial(tmp_path, "waiting")
    one = simulation(trials=[first, waiting], places=1)
    one.polls(3)
    waiting.run.new_attempt()
    for _ in range(20):  # the first ends meanwhile
        waiting.run.write_status("running", host=HOST)
        one.polls(1)
    assert one.started() == ["first"]
    waiting.run.write_status("done", last_step=6, host=None)
    assert one.run() == {"first": "done", "waiting": "done"}
    assert one.started() == ["first"]


def test_a_silent_foreign_run_is_taken_over(simulation: Any) -> None:
    one = simulation()
    write_steps(one.trials[0].run.new_attempt(), [], one.launcher.now)
    one.trials[0].run.write_status("running", host=HOST)
    one.restart()
    assert one.run() == {"a": "done"}
    assert one.launcher.starts[0][0] - 1e9 >= STALE_SECONDS - POLL


def test_cancel_asks_all_that_run_and_only_those(simulation: Any, tmp_path: Path) -> None:
    one = simulation(trials=[trial(tmp_path, arm) for arm in "abc"], places=2)
    one.scheduler.run(one.launcher.sleep, each=lambda: False)
    one.scheduler.cancel()
    assert one.launcher.cancelled == ["fake/a/seed=0", "fake/b/seed=0"]
    assert not one.scheduler.over
