"""Asking a run on another machine to stop: through its directory, its present attempt alone, and waiting for it."""

import threading
import time
from pathlib import Path

import pytest

from harness.rundir import RunDir
from sweeps.stop import main, stop


def running(folder: Path, attempts: int = 2) -> RunDir:
    """A run whose last attempt trains on some other host."""
    run = RunDir(folder)
    for _ in range(attempts):
        run.new_attempt()
    run.write_status("running", attempt=attempts, pid=1, host="elsewhere")
    return run


def stop_files(run: RunDir) -> list[int]:
    return [int(attempt.name) for attempt in run.attempts() if (attempt / "stop").exists()]


def asked(run: RunDir) -> threading.Thread:
    thread = threading.Thread(target=stop, args=[run], daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not stop_files(run):
        assert time.monotonic() < end
        time.sleep(0.02)
    return thread


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.stop.POLL_SECONDS", 0.02)


def test_waits_until_the_attempt_has_ended(tmp_path: Path) -> None:
    run = running(tmp_path)
    thread = asked(run)
    assert stop_files(run) == [2]
    assert thread.is_alive()
    run.write_status("incomplete")
    thread.join(20)
    assert not thread.is_alive()


def test_a_later_attempt_is_not_touched(tmp_path: Path) -> None:
    run = running(tmp_path)
    thread = asked(run)
    run.new_attempt()
    run.write_status("running", attempt=3)
    thread.join(20)
    assert not thread.is_alive()
    assert stop_files(run) == [2]


@pytest.mark.parametrize("state", ["done", "failed", "incomplete", "planned"])
def test_a_run_that_does_not_train_is_left_alone(tmp_path: Path, state: str) -> None:
    run = running(tmp_path)
    run.write_status(state)
    assert main([str(tmp_path)]) == 0
    assert stop_files(run) == []


def test_nothing_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 0
    assert main([]) == 2
    assert "python -m sweeps.stop results/runs/tiny/gspo/seed=0" in capsys.readouterr().out
