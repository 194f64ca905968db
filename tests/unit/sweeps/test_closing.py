"""What a sweep says at its end: curves beside runs that are kept apart, and runs with more steps than asked for."""

import io
import time
from pathlib import Path

import pytest
from fake_launcher import trial
from fake_runs import training_like, write_run
from rich.console import Console

from sweeps import control, next_steps
from sweeps.scheduler import Progress
from sweeps.trials import Trial


def trials(root: Path, planned: int = 10) -> list[Trial]:
    runs = [write_run(root, training_like(10, 0), experiment="tiny", arm=arm) for arm in ("gspo", "luspo")]
    return [Trial((f"algo={run.path.parent.name}",), run.path, planned) for run in runs]


def said(act) -> str:
    out = io.StringIO()
    act(Console(file=out, width=200))
    return out.getvalue()


def test_curves_of_runs_kept_apart_are_written_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(lambda console: control.closing(trials(tmp_path / "smoke"), console))
    assert (tmp_path / "smoke" / "reports" / "tiny" / "figures" / "response_length.png").exists()
    assert (
        f"report: python -m analysis {tmp_path / 'smoke' / 'tiny'} --out {tmp_path / 'smoke' / 'reports' / 'tiny'}"
        in text
    )
    monkeypatch.setattr(next_steps, "RUNS", tmp_path / "runs")
    assert next_steps.report_folder([tmp_path / "runs" / "tiny" / "gspo" / "seed=0"]) is None


def test_runs_that_have_more_steps_than_asked_for_are_said(tmp_path: Path) -> None:
    assert said(lambda console: control.tell_longer(trials(tmp_path), console)) == ""
    text = said(lambda console: control.tell_longer(trials(tmp_path, planned=2), console))
    assert text.startswith("2 of 2 runs were finished before, with 10 steps, and not with the 2 asked for now")


def test_what_waits_is_named_once_and_then_with_the_time_for_all(tmp_path: Path) -> None:
    """One run 100 s old with 200 s left, two waiting: 200 + 2 x 300 s on one place."""
    running, *waiting = [Progress(trial(tmp_path, name)) for name in ("a", "b", "c")]
    running.state = "running"
    running.trial.run.write_status("running", started=time.time() - 100, seconds_left=None)
    told: dict[str, str] = {}
    trials = [running, *waiting]
    tell = lambda: said(lambda console: control.tell_queue(trials, told, console))  # noqa: E731
    assert tell() == "queued: fake/b/seed=0, fake/c/seed=0\n"
    assert tell() == ""
    running.trial.run.write_status("running", started=time.time() - 100, seconds_left=200.0)
    assert tell() == "queued: fake/b/seed=0, fake/c/seed=0; 13 min left for all\n"
    assert tell() == ""
    for one in waiting:
        one.state = "done"
    assert tell() == ""
