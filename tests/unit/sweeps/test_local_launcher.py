"""Runs side by side on this machine: real processes in the place of training, with GPUs that exist by name only."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_launcher import trial

from harness.config import ConfigError
from harness.rundir import LAUNCH_LOG
from sweeps.launchers.base import LaunchError
from sweeps.launchers.local import Local, visible_gpus
from sweeps.trials import Trial

# What `sys.executable` is for a launcher under test: says what it was asked for, and goes on until it is ended.
STAND_IN = """#!/bin/sh
echo "arguments $@"
echo "gpus ${CUDA_VISIBLE_DEVICES-unset}" >&2
echo "folder $PWD"
echo ready
exec sleep 60
"""


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``starts(launcher, trial, place)``: the submission, once the process has said all; ends what is left."""
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pids: list[int] = []

    def start(launcher: Local, one: Trial, place: dict[str, Any]) -> dict[str, Any]:
        one.path.mkdir(parents=True, exist_ok=True)
        submission = {**place, **launcher.start(one, place)}
        pids.append(submission["pid"])
        while "ready" not in said(one):
            time.sleep(0.005)
        return submission

    yield start
    for pid in pids:
        if psutil.pid_exists(pid) and os.getsid(pid) == pid:
            os.kill(pid, signal.SIGKILL)


def said(one: Trial) -> list[str]:
    return (one.path / LAUNCH_LOG).read_text().splitlines()


def ended(launcher: Local, submission: dict[str, Any]) -> bool:
    end = time.monotonic() + 20
    while launcher.alive(submission) and time.monotonic() < end:
        time.sleep(0.01)
    return not launcher.alive(submission)


def test_a_trial_is_a_process_of_training_with_its_overrides(starts: Any, tmp_path: Path) -> None:
    one = Trial(("algo=luspo", "seed=3", "a.b=[1, 2]"), tmp_path / "run", 6)
    submission = starts(Local(), one, {})
    assert said(one)[0] == "arguments -m harness.train algo=luspo seed=3 a.b=[1, 2]"
    assert said(one)[1:] == ["gpus unset", f"folder {Path(__file__).resolve().parents[3]}", "ready"]
    assert submission["host"] == os.uname().nodename
    assert os.getsid(submission["pid"]) == submission["pid"]  # in a session of its own: a terminal's end is not its


def test_it_lives_until_it_is_cancelled(starts: Any, tmp_path: Path) -> None:
    launcher = Local(n_jobs=2)
    one, other = (starts(launcher, trial(tmp_path, arm), {}) for arm in "ab")
    assert launcher.alive(one)
    launcher.cancel(one)
    assert ended(launcher, one)
    assert launcher.alive(other)
    launcher.cancel(one)  # one that is gone is no error


def test_the_next_launcher_finds_what_the_last_one_left(starts: Any, tmp_path: Path) -> None:
    submission = starts(Local(), trial(tmp_path, "a"), {})
    later = Local()
    assert later.alive(submission)
    later.cancel(submission)
    assert ended(later, submission)  # though nobody has asked for its exit status


def test_cancel_works_where_a_script_started_the_sweep_in_the_background(starts: Any, tmp_path: Path) -> None:
    """There SIGINT is ignored, and processes inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        launcher = Local()
        submission = starts(launcher, trial(tmp_path, "a"), {})
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    launcher.cancel(submission)
    assert ended(launcher, submission)


@pytest.mark.parametrize("change", [{"created": 0.0}, {"host": "elsewhere"}, {"pid": 2**22 + 1}])
def test_another_process_of_the_same_number_is_not_it(starts: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    launcher = Local()
    submission = starts(launcher, trial(tmp_path, "a"), {})
    other = {**submission, **change}
    assert not Local().alive(other)
    Local().cancel(other)
    time.sleep(0.1)
    assert launcher.alive(submission)


def test_a_process_that_ends_at_once_is_not_alive(starts: Any, tmp_path: Path) -> None:
    Path(sys.executable).write_text("#!/bin/sh\necho ready\necho 'error: no such key' >&2\nexit 2\n")
    launcher, one = Local(), trial(tmp_path, "a")
    submission = starts(launcher, one, {})
    assert ended(launcher, submission)
    assert said(one) == ["ready", "error: no such key"]


def test_a_program_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    one = trial(tmp_path, "a")
    one.path.mkdir(parents=True)
    with pytest.raises(LaunchError, match=r"fake/a/seed=0: .*No such file") as caught:
        Local().start(one, {})
    assert "\n" not in str(caught.value)


def test_as_many_at_once_as_told(tmp_path: Path) -> None:
    one, launcher = trial(tmp_path, "a"), Local(n_jobs=2)
    assert [launcher.place(one, [{}] * running) for running in range(4)] == [{}, {}, None, None]
    for wrong in (0, -1, 1.5, "two"):
        with pytest.raises(ConfigError, match=f"n_jobs must be a whole number of at least 1, got {wrong}"):
            Local(n_jobs=wrong)  # type: ignore[arg-type]


def test_runs_on_gpus_have_them_to_themselves(starts: Any, tmp_path: Path) -> None:
    """Of 4 GPUs: 2 + 1 + 1, and nothing more; what one gives back another gets."""
    launcher = Local(gpus=4)
    trials = [trial(tmp_path, f"{number}_{size}", gpus=size) for number, size in enumerate((2, 1, 1))]
    running: list[dict[str, Any]] = []
    for one in trials:
        place = launcher.place(one, running)
        assert place
        running.append(starts(launcher, one, place))
    seen = [said(one)[1].removeprefix("gpus ").split(",") for one in trials]
    assert [len(one) for one in seen] == [2, 1, 1]
    assert sorted(device for one in seen for device in one) == ["0", "1", "2", "3"]
    for size in (1, 2, 4):
        assert launcher.place(trial(tmp_path, "next", gpus=size), running) is None
    del running[0]
    assert launcher.place(trial(tmp_path, "next", gpus=3), running) is None
    assert launcher.place(trial(tmp_path, "next", gpus=2), running) == {"gpus": seen[0]}


def test_the_number_of_jobs_does_not_limit_runs_on_gpus(tmp_path: Path) -> None:
    launcher = Local(n_jobs=1, gpus=2)
    assert launcher.place(trial(tmp_path, "a", gpus=1), [{"gpus": ["0"]}]) == {"gpus": ["1"]}


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"gpus": 5}, "needs 1 x 5 GPUs, here are 4"), ({"gpus": 4, "nodes": 2}, "needs 2 x 2 GPUs")],
)
def test_what_never_fits_is_refused(tmp_path: Path, fields: dict[str, int], said: str) -> None:
    fits = trial(tmp_path, "fits", gpus=4)
    Local(gpus=4).check([fits, trial(tmp_path, "none")])
    with pytest.raises(ConfigError, match=said) as caught:
        Local(gpus=4).check([fits, trial(tmp_path, "a", **fields)])
    assert "slurm" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gpus_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("3, 5", ["3", "5"]), ("GPU-8a2b", ["GPU-8a2b"]), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == expected
        assert Local().devices == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []  # no driver
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\necho 'GPU 1: H100 (UUID: GPU-2)'\n")
    driver.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
    driver.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert visible_gpus() == []


def test_a_machines_own_choice_of_gpus_is_divided_by_name(starts: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    launcher, one = Local(), trial(tmp_path, "a", gpus=1)
    place = launcher.place(one, [{"gpus": ["5"]}])
    assert place == {"gpus": ["7"]}
    starts(launcher, one, place)
    assert said(one)[1] == "gpus 7"
