"""The scheduler against random sequences of failures, with an account of its own of what must become of each trial."""

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_launcher import Act, FakeLauncher, Simulation, trial

from harness.run.failures import CAUSES
from sweeps.scheduler import Rules, status_of

RETRIES, STEPS = 2, 6
FORGIVEN = ("memory", "lost", "timeout", "checkpoint", "preempted")


def draw(rng: random.Random) -> Act:
    """One submission's fate; about one in twelve would end the trial at once."""
    kind = rng.choices(("ended", "lost", "silent", "cannot", "refused"), (10, 3, 2, 2, 0.5))[0]
    cause = rng.choices((*FORGIVEN, "error", "disk"), (3, 3, 3, 1, 3, 0.5, 0.5))[0]
    return Act(kind, cause, rng.randrange(STEPS), rng.choice((None, None, 0, 2)), seconds=rng.uniform(5, 400))


def fate(acts: list[Act]) -> tuple[str, int]:
    """(state, number of starts) that the rules give a trial with this script, done if it outlives the script."""
    failed_starts = stuck = furthest = recorded = 0
    for number, act in enumerate(acts, 1):
        if act.kind == "refused":
            return "failed", number
        if act.kind in ("silent", "cannot"):
            failed_starts += 1
            if failed_starts > RETRIES:
                return "failed", number
            continue
        failed_starts = 0
        first = recorded if act.first is None else act.first
        last = max(act.last, first)
        if last > first:
            recorded = last
        cause = "lost" if act.kind == "lost" else str(act.cause)
        if not CAUSES[cause].retry:
            return "failed", number
        stuck = 0 if last > max(furthest, first) or cause == "preempted" else stuck + 1
        if act.kind == "ended" or last > first:  # nobody saw what a lost one had continued from
            furthest = max(furthest, last)
        if stuck > RETRIES:
            return "failed", number
    return "done", len(acts) + 1


def sweep(folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Simulation, dict[str, list[Act]]]:
    rng = random.Random(seed)
    trials = [trial(folder, f"c{number}", STEPS, gpus=rng.choice((1, 1, 2, 3))) for number in range(10)]
    scripts = {one.name: [draw(rng) for _ in range(rng.randrange(7))] for one in trials}
    launcher = FakeLauncher(places=rng.choice((3, 5)), scripts=scripts)
    monkeypatch.setattr("harness.rundir.run.time", SimpleNamespace(time=launcher.clock))
    return Simulation(trials, launcher, Rules(RETRIES, 15.0)), scripts


@pytest.mark.parametrize("seed", range(8))
def test_every_trial_gets_what_the_rules_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The launcher asserts on the way that no trial runs twice at a time and no place is used twice."""
    simulation, scripts = sweep(tmp_path, seed, monkeypatch)
    states = simulation.run()
    started = simulation.started()
    for name, acts in scripts.items():
        arm = name.split("/")[1]
        assert (states[arm], started.count(arm)) == fate(acts), (arm, acts)


@pytest.mark.parametrize("seed", range(8))
def test_schedulers_may_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A new one every few polls, then one that stays: all is done or given up, and done only where the run is."""
    simulation, scripts = sweep(tmp_path, 100 + seed, monkeypatch)
    rng = random.Random(seed)
    for _ in range(30):
        simulation.polls(rng.randrange(6))
        simulation.restart()
    done = [one.trial.path.parts[-2] for one in simulation.scheduler.trials if one.state == "done"]
    before = len(simulation.started())
    states = simulation.run()
    assert set(states.values()) <= {"done", "failed"}
    assert not set(done) & set(simulation.started()[before:])
    for one in simulation.trials:
        arm = one.path.parts[-2]
        assert (states[arm] == "done") == (status_of(one.run)["state"] == "done")
        assert simulation.started().count(arm) <= len(scripts[one.name]) + 1  # nothing was started for nothing
