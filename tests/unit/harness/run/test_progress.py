"""What a waiting user is told: the stage of a start, the time left, which runs wait, how W&B's records are sent."""

import io
import time
from pathlib import Path

import pytest
from fake_runs import training_like, write_run
from rich.console import Console

from harness.run.offline import sync_hint
from harness.run.progress import Monitor, duration
from harness.rundir import RunDir


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.0, "0 s"), (40.4, "40 s"), (89.0, "89 s"), (90.0, "2 min"), (720.0, "12 min"),
     (3570.0, "1 h 00 min"), (7500.0, "2 h 05 min"), (360_000.0, "100 h 00 min")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_start_names_its_stage_and_a_run_the_time_left(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200)
    run = RunDir(tmp_path / "tiny" / "gspo" / "seed=0")
    run.write_manifest({"experiment": "tiny", "arm": "gspo", "algo": "gspo", "seed": 0, "planned_steps": 10})
    with Monitor(console) as monitor:
        monitor.watch(run)
        for stage in ("importing verl and starting Ray", "validating the model"):
            run.write_status("running", last_step=0, planned_steps=10, stage=stage, heartbeat=time.time())
            monitor.update()
            monitor.update()
        write_run(tmp_path, training_like(3, 0), experiment="tiny", arm="gspo", seed=0, planned_steps=10)
        run.write_status("running", last_step=3, planned_steps=10, stage="", seconds_left=300.0)
        monitor.update()
    lines = [line[9:] for line in out.getvalue().splitlines()]
    assert lines[:2] == [
        "gspo seed=0: running, step 0/10 starting: importing verl and starting Ray",
        "gspo seed=0: running, step 0/10 starting: validating the model",
    ]
    assert lines[2].startswith("gspo seed=0: running, step 3/10 length ")
    assert lines[2].endswith(", 5 min left")
    assert len(lines) == 3


def test_records_that_wandb_kept_are_sent_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [RunDir(tmp_path / "a run"), RunDir(tmp_path / "b")]
    assert sync_hint(runs) == ""
    (runs[0].path / "wandb" / "offline-run-20261127_101112-abc").mkdir(parents=True)
    assert sync_hint(runs) == "W&B: 1 run kept offline; to send: wandb sync 'a run/wandb'/offline-run-*"
