"""What the end of a sweep tells its user to type: a report of exactly these runs, and where a failure says why."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_launcher import FakeLauncher, trial
from rich.console import Console

from harness.rundir import LAUNCH_LOG
from sweeps import next_steps
from sweeps.control import MOST_SHOWN, tell_unfinished
from sweeps.next_steps import report_command, why
from sweeps.scheduler import Rules, Scheduler


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The usual folder of runs, of a checkout that is this test's own."""
    monkeypatch.setattr(next_steps, "ROOT", tmp_path)
    monkeypatch.setattr(next_steps, "RUNS", tmp_path / "results" / "runs")
    return tmp_path / "results" / "runs"


def made(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").write_text("{}")
    return [root / name for name in names]


def test_whole_experiments_in_the_usual_place(runs: Path) -> None:
    paths = made(runs, "tiny/grpo/seed=0", "tiny/gspo/seed=0")
    assert report_command(paths) == "make report EXPERIMENT=tiny"
    paths += made(runs, "other/grpo/seed=0")
    assert report_command(paths) == "make report EXPERIMENT=tiny,other"


def test_no_other_run_of_the_folder_is_reported(runs: Path) -> None:
    paths = made(runs, "tiny/grpo/seed=0", "tiny/grpo/seed=1", "tiny/gspo/seed=0")
    made(runs, "tiny/gspo/seed=1")
    assert report_command(paths) == (
        "python -m analysis results/runs/tiny/grpo results/runs/tiny/gspo/seed=0"
    )  # fmt: skip


def test_runs_elsewhere_are_named_by_their_paths(runs: Path, tmp_path: Path) -> None:
    paths = made(tmp_path / "my results", "tiny/grpo/seed=0")
    assert report_command(paths) == "python -m analysis 'my results/tiny' --out 'my results/reports/tiny'"
    assert report_command(made(tmp_path.parent / f"{tmp_path.name}-far", "tiny/a/seed=0")) == (
        f"python -m analysis {tmp_path}-far/tiny --out {tmp_path}-far/reports/tiny"
    )


def test_what_shows_why_a_run_failed(runs: Path) -> None:
    one = trial(runs, "a b")
    one.path.mkdir(parents=True)
    assert why(one) == "tail -n 50 'results/runs/fake/a b/seed=0/launch.log'"
    one.run.new_attempt()
    assert why(one) == "tail -n 50 'results/runs/fake/a b/seed=0/attempts/01/log.txt'"
    (one.path / LAUNCH_LOG).write_text("error: no such model\n")
    assert why(one) == "python -m harness.doctor 'algo=a b'"


@pytest.fixture
def said(runs: Path) -> Callable[..., list[str]]:
    """``said(states)``: what is told of a sweep whose runs are in these states."""

    def tell(*states: str) -> list[str]:
        scheduler = Scheduler([trial(runs, f"arm{i:02}") for i in range(len(states))], FakeLauncher(), Rules())
        for one, state in zip(scheduler.trials, states, strict=True):
            one.state = state
        console = Console(file=io.StringIO(), width=80, record=True)
        tell_unfinished(scheduler, console)
        return console.export_text().splitlines()

    return tell


def test_what_is_continued_and_what_was_given_up_are_told_apart(said: Callable[..., list[str]]) -> None:
    assert said("done", "done") == []
    assert said("done", "running", "waiting") == ["2 of 3 runs are not finished; the same command continues them"]
    first, reason, second = (*said("done", "failed")[:2], said("waiting", "failed")[0])
    assert first == "1 of 2 runs given up; once the cause is mended, the same command tries them again"
    assert reason == "why fake/arm01/seed=0: tail -n 50 results/runs/fake/arm01/seed=0/launch.log"
    assert second == "1 of 2 runs are not finished; the same command continues them"
    many = said(*["failed"] * (MOST_SHOWN + 2))
    assert len(many) == 1 + MOST_SHOWN + 1
    assert many[-1] == "and 2 more, whose errors are above"
