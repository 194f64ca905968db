"""Real faults during real runs. Each ends done, with the record of an undisturbed run, or in one clear status."""

import contextlib
import re
import signal
import subprocess

import psutil
import pytest
from e2e.launching import assert_same_record
from faults.faulting import STEPS, Trial, undisturbed_run

from harness.run.checkpoints import intact
from harness.run.failures import CAUSES

pytestmark = pytest.mark.faults
WHOLE = range(1, STEPS + 1)


@pytest.fixture
def trial(tmp_path):
    trials = []

    def make(**more) -> Trial:
        trials.append(Trial(tmp_path / f"{len(trials)}", **more))
        return trials[-1]

    yield make
    for one in trials:
        one.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    return undisturbed_run(tmp_path_factory)


@pytest.fixture
def report(record_property):
    """``report(fault, during, trial, undisturbed)``: check the record and keep the row of the table."""

    def tell(fault, during, one, undisturbed):
        outcomes = one.run.outcomes()
        said = next((o for o in outcomes if o.get("error")), {})
        starts = [e["step"] for e in one.run.events() if e["kind"] == "attempt"]
        assert one.run.status()["state"] == "done"
        assert sorted(one.run.metrics()[0]) == list(WHOLE)
        assert_same_record(undisturbed, one.run, WHOLE)
        lost = "nothing: its watcher was gone" if {} in outcomes else "-"
        error = re.sub(r"(?<=\s)/\S+", "...", said.get("error", ""))  # a path of the test's own
        short = f"{said['cause']}: {error[:90]}" if said else lost
        record_property(
            "fault",
            {
                "fault": fault, "during": during, "said": short.replace("|", "/"), "attempts": len(outcomes),
                "resumed after step": ", ".join(map(str, starts[1:])) or "-", "ended": "done", "record": "identical",
            },
        )  # fmt: skip

    return tell


KILLED = {  # what is killed: a part of its command line
    "the training process": "",  # the first of its session
    "the process of Ray's nodes": "harness.plugin.nodes",
    "the task runner": "TaskRunner",
    "the FSDP worker": "ray::WorkerDict",
    "the rollout server": "ray::TransformersServer",
    "the raylet": "raylet/raylet",
    "Ray's control store": "gcs/gcs_server",
}


@pytest.mark.parametrize("victim", KILLED)
def test_killed_process(victim, trial, undisturbed, report):
    one = trial()
    controller = one.control()
    one.reached(5)
    one.members(KILLED[victim])[0].kill()
    one.finish(controller)
    first, *second = one.run.outcomes()
    if victim != "Ray's control store":  # which Ray can do without for a while
        assert second
    assert not second or CAUSES[first["cause"]].retry, first
    report(f"kill -9 of {victim}", "step 6", one, undisturbed)


def test_killed_watcher(trial, undisturbed, report):
    """The process between controller and training: the lifeline ends the training, the controller starts again."""
    one = trial()
    controller = one.control()
    one.reached(5)
    family = one.members("")
    one.watcher().kill()
    one.finish(controller)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    report("kill -9 of the watcher", "step 6", one, undisturbed)


def test_lost_node(trial, tmp_path, report):
    """Two Ray nodes, one rank each; the second one's raylet and all its workers die at once."""
    more = {"trainer.nnodes": 2}
    whole = trial(**more)
    whole.finish(whole.control())
    one = trial(**more)
    controller = one.control()
    one.reached(5)
    raylets = one.members("raylet/raylet")
    assert len(raylets) == 2
    second = raylets[1]
    for process in [*second.children(recursive=True), second]:
        with contextlib.suppress(psutil.NoSuchProcess):  # with its parent
            process.kill()
    one.finish(controller)
    report("a whole node lost", "step 6 of a run over 2 nodes", one, whole.run)


def test_preempted(trial, undisturbed, report):
    """SIGTERM to the watcher: a checkpoint at the end of the step, not at the next multiple of save_freq."""
    one = trial(**{"trainer.save_freq": 100})
    controller = one.control()
    one.reached(3)
    one.watcher().terminate()
    one.finish(controller)
    first = one.run.outcomes()[0]
    assert first["cause"] == "preempted"
    assert first["last_step"] in (3, 4, 5)
    assert [e["step"] for e in one.run.events() if e["kind"] == "attempt"] == [0, first["last_step"]]
    report("SIGTERM (preemption)", f"step {first['last_step']}", one, undisturbed)


def test_killed_controller_is_replaced_while_the_run_goes_on(trial, undisturbed, report, record_property):
    one = trial()
    controller = one.control()
    one.reached(2)
    training = one.trainer()
    controller.kill()
    controller.wait()
    second = one.control()
    one.reached(4)
    assert one.trainer() == training
    said = one.finish(second)
    assert len(one.run.attempts()) == 1, said
    report("kill -9 of the controller, another started", "step 3", one, undisturbed)


def test_second_controller_is_refused(trial, undisturbed, report, record_property):
    one = trial()
    controller = one.control()
    one.reached(1)
    said = one.finish(one.control(), status=2)
    assert f"held by process {controller.pid}" in said
    one.finish(controller)
    assert len(one.run.attempts()) == 1
    report("a second controller", "step 2", one, undisturbed)


def test_cancelled(trial, undisturbed, report):
    one = trial()
    controller = one.control()
    one.reached(3)
    family = one.members("")
    one.finish(one.control("cancel"))
    one.finish(controller, status=1)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert one.run.status()["cause"] == "interrupted"
    one.finish(one.control())
    report("cancelled, run again", "step 4", one, undisturbed)


def test_full_disk(tmp_path, trial, undisturbed, report):
    disk = tmp_path / "0"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        one = trial()
        controller = one.control()
        one.reached(3)
        with (disk / "filler").open("wb") as filler:
            filler.write(bytes(50_000_000))
        said = one.finish(controller, status=1)
        assert "no room for a checkpoint" in said
        status = one.run.status()
        assert (status["state"], status["cause"]) == ("failed", "disk")
        (disk / "filler").unlink()
        one.finish(one.control())
        report("disk full, then emptied and run again", "step 4", one, undisturbed)
        one.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def stopped_after(one: Trial, step: int) -> None:
    """Kill everything, controller first, once the record has this step."""
    controller = one.control()
    one.reached(step)
    controller.kill()
    controller.wait()
    family = one.members("")
    one.watcher().kill()
    psutil.wait_procs(family, timeout=60)


def test_torn_metrics_line(trial, undisturbed, report):
    one = trial()
    stopped_after(one, 5)
    file = one.metrics(1)
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    one.finish(one.control())
    report("kill -9 of everything, last line of metrics torn", "step 6", one, undisturbed)


@pytest.mark.parametrize("damage", ["a byte changed", "cut short", "a file missing"])
def test_broken_checkpoint(damage, trial, undisturbed, report):
    """The newest checkpoint is passed over, and the events say so."""
    one = trial()
    stopped_after(one, 5)
    newest = one.run.checkpoints / "global_step_4"
    assert intact(newest, content=True)
    shard = next((newest / "actor").glob("model*.pt"))
    content = bytearray(shard.read_bytes())
    if damage == "a byte changed":
        content[len(content) // 2] ^= 0xFF
        shard.write_bytes(content)
    elif damage == "cut short":
        shard.write_bytes(content[: len(content) // 2])
    else:
        shard.unlink()
    one.finish(one.control())
    passed = [e for e in one.run.events() if e["kind"] == "checkpoint"]
    assert passed[0]["step"] == 2
    assert "global_step_4" in passed[0]["message"]
    report(f"newest checkpoint: {damage}", "between attempts", one, undisturbed)


def test_killed_between_checkpoint_and_metrics(trial, undisturbed, report):
    one = trial()
    controller = one.control()
    one.reached(3)
    runner = one.members("TaskRunner")[0]
    mark = one.run.checkpoints / "global_step_4" / "complete.json"
    one.wait(mark.exists, every=0.001)
    runner.send_signal(signal.SIGKILL)
    assert 4 not in one.run.steps_in(one.metrics(1))
    one.finish(controller)
    starts = [e["step"] for e in one.run.events() if e["kind"] == "attempt"]
    assert starts == [0, 2]
    report("kill -9 between checkpoint 4 and its metrics", "step 4", one, undisturbed)


def test_settings_that_cannot_work_are_not_tried_again(trial, record_property):
    one = trial(**{"actor_rollout_ref.model.path": "/no/such/model"})
    said = one.finish(one.control(), status=1)
    assert "/no/such/model: no such folder" in said
    assert not one.run.attempts()
    record_property(
        "fault",
        {"fault": "settings that cannot work", "during": "start", "said": "settings: no such model folder",
         "attempts": 0, "ended": "refused, not tried again"},
    )  # fmt: skip


def test_hanging_worker_is_a_timeout(trial, undisturbed, report):
    """A worker that is stopped, as one that waits for ever in a collective: the watchdog ends the attempt."""
    one = trial(**{"harness.watch.stall_seconds": 20, "harness.watch.stall_factor": 2})
    controller = one.control()
    one.reached(5)
    worker = one.members("ray::WorkerDict")[0]
    worker.suspend()
    one.finish(controller)
    outcome = one.run.outcomes()[0]
    assert outcome["cause"] == "timeout"
    assert "no step for" in outcome["error"]
    report("a worker hangs (SIGSTOP)", "step 6", one, undisturbed)
