"""A sweep that trains seeds until it is decided: the real rule on runs that a launcher in virtual time writes."""

import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_launcher import Act, FakeLauncher, Job
from fake_runs import write_run
from rich.console import Console

from analysis.report.decision import Decision
from analysis.statistics.sequential import FIRST_LOOK, Plan
from harness.config import ConfigError
from harness.rundir import RunDir, read_json
from sweeps import until as words
from sweeps.control import run_trials
from sweeps.decided import UntilDecided
from sweeps.launchers.local import Local
from sweeps.scheduler import Rules, Scheduler
from sweeps.trials import Trial

STEPS = 20
ARMS = ("gspo", "luspo")
Values = Callable[[str, int], tuple[float, float]]  # (arm, seed) -> length, accuracy in percent


def noisy(ratio: float, points: float, spread: float = 1.0) -> Values:
    """LUSPO by ratio and points more than GSPO, with noise of 4 % and 0.25 points times ``spread``."""

    def values(arm: str, seed: int) -> tuple[float, float]:
        if arm == "gspo":
            return 20.0, 50.0
        one, two = np.random.default_rng(seed).normal(size=2) * spread
        return 20 * ratio * math.exp(0.04 * one), 50 + points + 0.25 * two

    return values


EFFECT, SAME, OPEN = noisy(1.5, 0.0), noisy(1.0, 0.0), noisy(1.1, 1.0, spread=8)


class Trained(FakeLauncher):
    """Leaves runs that the analysis reads."""

    values: Values = EFFECT

    def end(self, job: Job) -> None:
        path = job.trial.path
        super().end(job)
        if job.attempt and RunDir(path).status()["state"] == "done":
            write_metrics(job.trial, self.values)


def write_metrics(trial: Trial, values: Values) -> None:
    """What a finished run has beside its status."""
    arm = trial.path.parent.name
    length, accuracy = values(arm, trial.seed)
    metrics = {"response_length": [length] * STEPS, "accuracy": [accuracy / 100] * STEPS, "reward": [0.5] * STEPS}
    aside = trial.path.parents[2] / "aside"
    made = write_run(aside, metrics, experiment="tiny", arm=arm, seed=trial.seed)
    (trial.path / "manifest.json").write_bytes((made.path / "manifest.json").read_bytes())
    (attempt,) = made.attempts()
    lines = (attempt / "metrics.jsonl").read_bytes()
    last = trial.run.attempts()[-1]
    (last / "metrics.jsonl").write_bytes(lines)


class Sweep:
    """A controller: what ``run_trials`` does with a scheduler and an ``UntilDecided``, without a console."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, values: Values = EFFECT, **fields: Any):
        self.root, self.said, self.values = root, [], values
        self.fields = {"places": 2, **fields}
        self.monkeypatch = monkeypatch
        self.started: list[str] = []

    def trials(self, most: int, start: tuple[int, ...] = (0, 1, 2)) -> list[Trial]:
        seeds = [*start, *range(max(start) + 1, max(start) + 1 + most - len(start))]
        return [
            Trial((f"algo={arm}", f"seed={seed}"), self.root / "runs" / "tiny" / arm / f"seed={seed}", STEPS)
            for arm in ARMS
            for seed in seeds
        ]

    def run(
        self,
        most: int = 20,
        start: tuple[int, ...] = (0, 1, 2),
        decision: Decision | None = None,
        stop_at: int = 10**9,
        scripts: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """To the end, or until so many runs have been started; returns what is in the file."""
        launcher = Trained(scripts=scripts or {}, **self.fields)
        launcher.values = self.values
        self.monkeypatch.setattr("harness.rundir.run.time", SimpleNamespace(time=launcher.clock))
        rule = decision or Decision.of(ARMS, ["luspo:gspo"], most)
        self.until = UntilDecided(self.trials(most, start), start, rule, self.root / "state", self.said.append)
        self.scheduler = Scheduler(self.until.trials, launcher, Rules(), launcher.clock)
        self.until.advance(self.scheduler)

        def each() -> bool:
            self.until.advance(self.scheduler)
            return len(launcher.starts) < stop_at

        self.scheduler.run(launcher.sleep, each=each)
        for _ in range(200 * (stop_at < 10**9)):  # what runs goes on without its controller
            launcher.sleep(10)
        self.started += [name for _, name in launcher.starts]
        return read_json(self.until.file) if self.until.file.exists() else {}

    def seeds(self) -> list[int]:
        """Seeds of which every arm was trained."""
        return sorted({int(p.name[5:]) for p in self.root.glob("runs/tiny/luspo/*")})


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sweep]:
    return lambda values=EFFECT, name="a", **fields: Sweep(tmp_path / name, monkeypatch, values, **fields)


def by_the_rule(values: Values, most: int) -> int:
    """The seed after which both intervals decide, found here without any sweep or run directory."""
    plan = Plan((("luspo", "gspo"),), most)
    pairs = [[values(arm, seed) for arm in ARMS] for seed in range(most)]
    ratios = [math.log(there[0] / here[0]) for here, there in pairs]
    points = [there[1] - here[1] for here, there in pairs]
    for n in range(FIRST_LOOK, most + 1):
        length, accuracy = plan.interval(ratios[:n]), plan.interval(points[:n])
        longer, as_long = length.low > 0, -math.log(1.1) < length.low and length.high < math.log(1.1)
        if (longer or as_long or length.high < 0) and (accuracy.low > -1 and accuracy.high < 1):
            return n
    return 0


@pytest.mark.parametrize(("values", "verdict"), [(EFFECT, "more"), (SAME, "no difference")])
def test_it_stops_at_an_effect_and_at_equivalence(sweep: Any, values: Values, verdict: str) -> None:
    one = sweep(values)
    found = one.run()
    last = found["looks"][-1]
    assert found["stop"] == "decided"
    assert [part["verdict"] for part in last["comparisons"]] == [verdict, "no difference"]
    n = by_the_rule(values, 20)
    assert FIRST_LOOK < n < 20
    assert last["seeds"] == n
    assert one.seeds() == list(range(n))
    assert sorted(one.started) == sorted(f"tiny/{arm}/seed={seed}" for arm in ARMS for seed in range(n))
    assert one.said[-1] == one.until.text == found["text"]
    assert found["text"].startswith(f"Decided after {n} of 20 seeds: ")


def test_it_stops_at_the_most_seeds(sweep: Any) -> None:
    one = sweep(OPEN)
    found = one.run(6)
    assert found["stop"] == "max_seeds"
    assert one.seeds() == list(range(6))
    assert [look["seeds"] for look in found["looks"]] == [3, 4, 5, 6]
    assert found["text"].startswith("Not decided by all 6 seeds: ")


def test_interrupted_and_started_again_it_decides_the_same(sweep: Any) -> None:
    whole = sweep(name="whole").run()
    one = sweep(name="parts")
    for stop_at in (3, 3, 2, 1, 10**9):
        found = one.run(stop_at=stop_at)
    assert {key: found[key] for key in ("looks", "stop", "text", "rule")} == whole
    assert len(one.started) == len(set(one.started))  # nothing was trained twice
    before = list(one.started)
    assert one.run() == whole  # decided: nothing more is started
    assert one.started == before


def test_without_its_file_it_finds_the_same_again(sweep: Any) -> None:
    one = sweep()
    found = one.run()
    for content in (None, "{"):
        one.until.file.unlink() if content is None else one.until.file.write_text(content)
        assert one.run() == found


def test_a_failed_run_ends_it_and_mended_it_goes_on(sweep: Any) -> None:
    whole = sweep(name="whole").run()
    one = sweep(name="failed")
    found = one.run(scripts={"tiny/luspo/seed=4": [Act(cause="error")]})
    assert found["stop"] == "lost"
    assert found["text"].startswith("No further seeds: seed 4: ")
    assert [p.trial.name for p in one.scheduler.failed] == ["tiny/luspo/seed=4"]
    assert one.seeds() == [0, 1, 2, 3, 4]
    assert one.run() == whole


def test_a_run_that_is_tried_again_is_waited_for(sweep: Any) -> None:
    one = sweep()
    found = one.run(scripts={"tiny/luspo/seed=1": [Act(cause="memory"), Act(kind="lost", last=3)]})
    assert found["stop"] == "decided"
    assert one.started.count("tiny/luspo/seed=1") == 3


def test_all_seeds_asked_for_are_trained_and_looked_at_in_their_order(sweep: Any) -> None:
    one = sweep(places=100)
    start = tuple(range(12))
    found = one.run(start=start)
    n = by_the_rule(EFFECT, 20)
    assert one.seeds() == list(start)
    assert found["looks"][-1]["seeds"] == n < 12


def test_as_many_seeds_at_once_as_there_is_room_for_but_half_as_many_again_at_most(sweep: Any) -> None:
    wide, narrow = sweep(OPEN, "wide", places=100), sweep(OPEN, "narrow", places=5)
    sizes = {}
    for one in (wide, narrow):
        one.run(12)
        batches: dict[float, int] = {}
        for when, _ in one.scheduler.launcher.starts:
            batches[when] = batches.get(when, 0) + 1
        sizes[one] = [count // 2 for count in batches.values()]
    assert sizes[wide] == [3, 1, 2, 3, 3]
    assert max(sizes[narrow][1:]) <= 2


def test_what_waits_beyond_the_deciding_seed_is_not_started(sweep: Any) -> None:
    """With six seeds done and room for three, three are begun together and the first of them may decide."""
    one = sweep(places=6)
    found = one.run()
    n, trained = found["looks"][-1]["seeds"], one.seeds()
    assert trained[:n] == list(range(n))
    assert all(run.trial.path.exists() for run in one.scheduler.trials)
    assert len(trained) - n <= 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Decision.of(ARMS, ["luspo:gspo"], 12), "looks were made with max_seeds=20, and now it is 12"),
        (
            Decision(Plan((("luspo", "gspo"),), 20, margins={"ratio": 1.2, "points": 1.0})),
            "looks were made with margins={'points': 1.0, 'ratio': 1.1}, and now it is {'ratio': 1.2, 'points': 1.0}",
        ),
    ],
)
def test_a_rule_that_changes_after_a_look_is_refused(sweep: Any, other: Decision, said: str) -> None:
    one = sweep(OPEN)
    found = one.run(stop_at=10)
    assert found["looks"]
    with pytest.raises(ConfigError) as caught:
        one.run(other.plan.max_seeds, decision=other)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert json.loads(one.until.file.read_text()) == found


def test_before_the_first_look_the_rule_may_change(sweep: Any) -> None:
    one = sweep()
    one.run(stop_at=2)
    assert one.run(12)["rule"]["max_seeds"] == 12


def test_the_first_look_is_the_rules(sweep: Any) -> None:
    assert words.FIRST_LOOK == FIRST_LOOK


def test_the_closing_says_what_was_decided(sweep: Any) -> None:
    """The whole way through ``run_trials``, where every run is done already: the rule is asked, nothing is started."""
    one = sweep()
    found = one.run()
    one.monkeypatch.undo()
    until = UntilDecided(one.trials(20), (0, 1, 2), one.until.decision, one.until.file.parent, lambda line: None)
    out = io.StringIO()
    console = Console(file=out, width=400)
    assert run_trials(until.trials, Local(1, gpus=0), Rules(), console, until=until) == 0
    *_, last = out.getvalue().splitlines()
    assert last == found["text"]
