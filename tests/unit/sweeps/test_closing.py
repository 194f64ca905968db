"""What a sweep says at its end: curves beside runs that are kept apart, and runs with more steps than asked for."""

import io
from pathlib import Path

import pytest
from fake_runs import training_like, write_run
from rich.console import Console

from sweeps import control, next_steps
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
