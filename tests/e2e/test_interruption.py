"""Runs that are stopped, killed and continued; the record must be the uninterrupted run's."""

import signal
import time

import psutil
import pytest
from e2e.launching import assert_same_record, run_dir, start, train, trainer

from harness.run.checkpoints import resume_point
from harness.run.process import session_processes

STEPS = "trainer.total_training_steps=6"
SETTINGS = ("algo=luspo", "seed=40", "trainer.save_freq=2", "trainer.val_before_train=false",
            "trainer.test_freq=-1")  # fmt: skip


def wait_for(condition, seconds=300.0):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "did not happen in time"
        time.sleep(0.1)


def all_gone(processes, seconds=30.0):
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    train(root, *SETTINGS, STEPS)
    return run_dir(root, "luspo", 40)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_run_leaves_no_process_and_continues_without_a_hole(uninterrupted, tmp_path, number):
    """SIGTERM to the command after step 1; or SIGKILL, with the record cut to what a kill leaves between the
    checkpoint of step 4 and its metrics."""
    run = run_dir(tmp_path, "luspo", 40)
    process = start(
        tmp_path, *SETTINGS, "trainer.total_training_steps=8"
    )  # planned steps are no part of what is matched
    target = 1 if number == signal.SIGTERM else 4
    wait_for(lambda: (run.path / "status.json").exists() and run.last_step() >= target)
    family = [psutil.Process(process.pid), *session_processes(trainer(run).pid)]
    assert any("raylet" in p.name() for p in family)
    process.send_signal(number)
    process.wait(timeout=60)
    assert not all_gone(family)
    assert run.status()["state"] == "incomplete"

    if number == signal.SIGKILL:
        attempt = run.attempts()[0]
        for step in [s for s in run.step_files() if s >= 4]:
            run.step_files()[step].unlink()
        kept = [line for line in (attempt / "metrics.jsonl").read_text().splitlines() if '"step":4' not in line]
        kept = [line for line in kept if not line.startswith(('{"step":5', '{"step":6'))]
        (attempt / "metrics.jsonl").write_text("\n".join(kept) + "\n" + '{"step":4,"data":{"resp')
        assert (run.checkpoints / "global_step_4").exists()
        assert resume_point(run)[0] == 2  # not 4, whose metrics are missing

    train(tmp_path, *SETTINGS, STEPS)
    assert run.status()["state"] == "done"
    assert len(run.attempts()) == 2
    assert sorted(run.metrics()[0]) == list(range(1, 7))
    assert_same_record(uninterrupted, run, range(1, 7))
