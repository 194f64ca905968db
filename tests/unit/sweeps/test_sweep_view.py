"""Tables of a sweep from run directories that are written here: what anybody sees who sees the files."""

import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_launcher import HOST, trial
from rich.console import Console, RenderableType

from harness.rundir import LAUNCH_LOG, STALE_SECONDS, SUBMISSION, write_json
from sweeps.definition import Sweep
from sweeps.lock import Lock
from sweeps.trials import Trial
from sweeps.view import next_step, plan_table, row, status_table


def shown(table: RenderableType, width: int = 300) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return [line.strip() for line in console.export_text().splitlines() if line.strip()]


def submit(one: Trial, ago: float = 0.0, **fields: Any) -> None:
    write_json(one.path / SUBMISSION, {"launcher": "slurm", "job": "7", "submitted": time.time() - ago, **fields})


@pytest.fixture
def one(tmp_path: Path) -> Trial:
    return trial(tmp_path, "gspo", 20)


def test_nothing_there_yet(one: Trial) -> None:
    found = row(one)
    assert (found.name, found.state, found.step, found.planned) == ("fake/gspo/seed=0", "open", 0, 20)
    assert (found.last, found.seconds_left, found.host, found.attempt, found.error) == ({}, None, "", None, None)


def test_a_run_that_waits_in_a_queue(one: Trial) -> None:
    submit(one, cluster="http://10.0.0.1:8265")
    assert (row(one).state, row(one).host) == ("submitted", "http://10.0.0.1:8265")


def test_a_run_that_runs_elsewhere(one: Trial) -> None:
    submit(one, ago=100)
    last = {"response_length": 31.25, "clip_frac_token": 0.0382, "reward": 0.75}
    one.run.write_status("running", host=HOST, attempt=3, last_step=7, last=last, seconds_left=7500.0)
    assert row(one).state == "running"
    head, line, foot = shown(status_table([one], one.path / "lock"))
    assert " ".join(head.split()) == "run state step length clipped % reward left host attempt"
    assert " ".join(line.split()) == "fake/gspo/seed=0 running 7/20 31.2 3.8 0.75 2 h 05 min a-node 3"
    assert foot == "1 running; no controller"


def test_silence_is_not_shown_as_running(one: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    one.run.write_status("running", host=HOST, last_step=7)
    now = time.time() + STALE_SECONDS + 1
    monkeypatch.setattr("harness.rundir.run.time", SimpleNamespace(time=lambda: now))
    assert row(one).state == "incomplete"
    assert "gone" in (row(one).error or "")


def test_done_is_done_for_the_steps_that_are_planned(one: Trial, tmp_path: Path) -> None:
    one.run.write_status("done", last_step=20)
    assert row(one).state == "done"
    assert row(trial(tmp_path, "gspo", 30)).state == "incomplete"


def test_a_failed_run_says_why_until_it_is_submitted_again(one: Trial) -> None:
    submit(one, ago=100)
    one.run.write_status("failed", last_step=3, attempt=1, error="MemoryError: no", cause="memory")
    assert (row(one).state, row(one).error) == ("failed", "MemoryError: no")
    submit(one, ago=-1)
    assert (row(one).state, row(one).error) == ("submitted", None)


@pytest.mark.parametrize("before", ["nothing", "failed"])
def test_a_refused_run_says_why(one: Trial, before: str) -> None:
    if before == "failed":
        one.run.write_status("failed", last_step=3, error="older")
    submit(one, ago=-1)
    (one.path / LAUNCH_LOG).write_text("warning: x\nerror: first\nerror: use optim.clip_grad\nlog\n")
    assert (row(one).state, row(one).error) == ("refused", "use optim.clip_grad")


def test_files_that_are_being_written_or_damaged_do_not_stop_the_table(one: Trial) -> None:
    one.path.mkdir(parents=True)
    for content in ("", '{"state": "runn'):
        (one.path / "status.json").write_text(content)
        (one.path / SUBMISSION).write_text(content)
        (one.path / "lock").write_text(content)
        assert row(one).state == "open"
        assert shown(status_table([one], one.path / "lock"))[-1] == "1 open; no controller"


def test_only_small_files_are_read(one: Trial) -> None:
    """A record that cannot be read, and would take minutes for hundreds of runs, is not looked at."""
    attempt = one.run.new_attempt()
    (attempt / "metrics.jsonl").write_text("no JSON\n\n\n")
    (attempt / "outcome.json").write_text("{")
    one.run.write_status("done", last_step=20, attempt=1)
    assert row(one).state == "done"


def test_a_table_of_many(tmp_path: Path) -> None:
    trials = [trial(tmp_path, f"arm{number}", 20) for number in range(5)]
    for done in trials[:2]:
        done.run.write_status("done", last_step=20, error="an older attempt's")
    trials[2].run.write_status("failed", last_step=4, error="KeyError: [red]'a'")
    lines = shown(status_table(trials, tmp_path / "lock"))
    assert [line.split()[1] for line in lines[1:6]] == ["done", "done", "failed", "open", "open"]
    assert lines[6:] == [
        "fake/arm2/seed=0: KeyError: [red]'a'",  # as it was said, and none of the done ones'
        f"why: tail -n 50 {trials[2].path}/launch.log",
        "2 done, 2 open, 1 failed; no controller",
    ]


def test_who_controls_the_sweep(one: Trial, tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with Lock(file):
        assert (
            shown(status_table([one], file))[-1]
            == f"1 open; controller: process {os.getpid()} on {os.uname().nodename}"
        )
    holder = {"token": "x", "pid": 3, "created": 0.0, "host": "login-2", "heartbeat": time.time() - STALE_SECONDS + 9}
    file.write_text(json.dumps(holder))
    assert shown(status_table([one], file))[-1] == "1 open; controller: process 3 on login-2"
    file.write_text(json.dumps({**holder, "heartbeat": time.time() - STALE_SECONDS - 1}))
    assert shown(status_table([one], file))[-1] == "1 open; no controller"


def test_the_next_step_is_what_the_table_asks_for(tmp_path: Path) -> None:
    trials, file = [trial(tmp_path, arm, 20) for arm in "ab"], tmp_path / "lock"

    def after(*overrides: str) -> str:
        return next_step("mine", overrides, trials, file)

    assert after("a.b=[1, 2]") == "python -m sweeps run mine 'a.b=[1, 2]'"
    trials[0].run.write_status("done", last_step=20)
    assert after() == "python -m sweeps run mine continues what is not done"
    with Lock(file):
        assert after() == "python -m sweeps watch mine; python -m sweeps cancel mine ends it"
    trials[1].run.write_status("done", last_step=20)
    for one in trials:
        (one.path / "manifest.json").write_text("{}")
    assert after() == f"python -m analysis {tmp_path}/fake --out {tmp_path}/reports/fake"


def sweep(about: str = "what it is for") -> Sweep:
    return Sweep("mine", about, {"seed": [0]}, {}, [], [], 3, 30.0)


def test_the_plan_adds_up_and_is_in_the_order_of_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [
        trial(tmp_path, "small", 100, gpus=8, nodes=1, hours=12.5, disk=30e9),
        trial(tmp_path, "first", 100, gpus=8, nodes=1, hours=12.5, disk=30e9, priority=1.0),
        trial(tmp_path, "large", 200, gpus=16, nodes=2, hours=100.0, disk=60e9),
    ]
    trials[0].run.write_status("done", last_step=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1, used=0, free=500e9))
    about, head, *lines, total = shown(plan_table(sweep(), trials))
    assert about == "what it is for"
    assert " ".join(head.split()) == "run steps nodes GPUs GPU-hours disk GB now"
    assert [line.split() for line in lines] == [
        ["fake/first/seed=0", "100", "1", "8", "12.5", "30", "open"],
        ["fake/large/seed=0", "200", "2", "16", "100", "60", "open"],
        ["fake/small/seed=0", "100", "1", "8", "12.5", "30", "done"],
    ]
    assert total.startswith("3 runs, 125 GPU-hours, 120 GB of checkpoints; 500 GB free at ")
    assert str(tmp_path) in total


def test_a_plan_without_gpus_whose_folder_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shown(plan_table(sweep(""), [trial(tmp_path / "not" / "yet", "a", disk=2e6)]))
    assert found[0] == "mine"
    assert found[2].split() == ["fake/a/seed=0", "6", "-", "0.002", "open"]
    assert found[3].startswith("1 runs, no GPUs, 0.002 GB of checkpoints; ")
    assert found[3].endswith(f"free at {tmp_path}")
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    found = shown(plan_table(sweep(""), [trial(tmp_path, "a", minutes=45.0), trial(tmp_path, "b", minutes=60.0)]))
    assert " ".join(found[1].split()) == "run steps core-minutes disk GB now"
    assert found[-1].startswith("2 runs, no GPUs, about 1 h 45 min of one core, 26 min on 4, ")
