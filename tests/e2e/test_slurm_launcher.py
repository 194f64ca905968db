"""Runs through the Slurm launcher on a real Slurm of two nodes on this machine."""

import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
import yaml
from e2e.launching import ROOT, assert_same_record, run_dir
from faults import faulting
from faults.faulting import SEED, STEPS, undisturbed_run, words
from slurm import Unavailable, slurm_cluster

from harness.rundir import SUBMISSION, RunDir, read_json

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("slurm_launcher")]  # one cluster for all
SETTINGS = {**faulting.SETTINGS, "trainer.save_freq": 100}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with ExitStack() as stack:
        try:
            yield stack.enter_context(slurm_cluster(tmp_path_factory.mktemp("s"), nodes=2, cpus=8))
        except Unavailable as reason:
            pytest.skip(str(reason))


def start(slurm, root, **more):
    """``python -m sweeps run`` of one trial, and its run directory's parent."""
    file = root / "one.yaml"
    grid = {"experiment": ["tiny"], "algo": ["luspo"], "seed": [SEED]}
    file.write_text(yaml.safe_dump({"grid": grid, "set": {**SETTINGS, **more, "harness.root": str(root)}}))
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps", "run", str(file), "hydra/launcher=slurm", "hydra.launcher.time_minutes=60"],
        cwd=ROOT, env=slurm.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_preempted_job_is_queued_again_and_continues(slurm, tmp_path, tmp_path_factory):
    """Slurm's warning before the time limit: a checkpoint, the same job again, and the record of an undisturbed run."""
    whole = undisturbed_run(tmp_path_factory)
    controller = start(slurm, tmp_path)
    run = run_dir(tmp_path, "luspo", SEED)
    end = time.time() + 300
    while not (run.path / "status.json").exists() or run.last_step() < 3:
        assert time.time() < end, slurm.run("squeue")
        assert controller.poll() is None, controller.communicate()
        time.sleep(0.2)
    job = read_json(run.path / SUBMISSION)["job"]
    slurm.run("scancel", "--signal=USR2", job)
    said, _ = controller.communicate(timeout=600)
    assert controller.returncode == 0, said
    first, second = run.outcomes()
    assert first["cause"] == "preempted"
    assert second["state"] == "done"
    assert second["first_step"] == first["last_step"] >= 3
    assert read_json(run.path / SUBMISSION)["job"] == job
    assert_same_record(whole, run, range(1, STEPS + 1))


def test_run_over_two_nodes(slurm, tmp_path):
    """Ray's head on the first node of the allocation, a worker on the second; nothing is left when the run is done."""
    controller = start(slurm, tmp_path, **{"trainer.nnodes": 2, "trainer.total_training_steps": 2})
    said, _ = controller.communicate(timeout=600)
    assert controller.returncode == 0, said
    run = next(tmp_path.glob(f"tiny/*/seed={SEED}"))
    log = (run / "attempts" / "01" / "log.txt").read_text()
    assert "Connecting to existing Ray cluster" in log
    assert not list((run / "launcher").glob("*.token"))
    end = time.time() + 60
    while slurm.run("squeue", "--noheader").strip():
        assert time.time() < end
        time.sleep(0.5)


def test_run_without_a_sweep(slurm, tmp_path):
    """``sbatch sweeps/cluster/run.sbatch``: over two nodes, stopped by Slurm's warning, queued again and done."""
    steps = {**SETTINGS, "trainer.nnodes": 2, "harness.root": tmp_path}
    overrides = words(steps)
    options = ["--parsable", "--nodes=2", "--gpus-per-node=0", "--cpus-per-task=4", f"--output={tmp_path}/out"]
    job = subprocess.run(
        ["sbatch", *options, "sweeps/cluster/run.sbatch", "algo=luspo", f"seed={SEED}", *overrides],
        cwd=ROOT, env={**slurm.env, "PYTHON": sys.executable}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip

    def wait_for(condition, seconds):
        end = time.time() + seconds
        while not condition():
            assert time.time() < end, (slurm.run("squeue"), (tmp_path / "out").read_text())
            time.sleep(0.2)

    def trained(step):
        found = list(tmp_path.glob(f"tiny/*/seed={SEED}/status.json"))
        return bool(found) and RunDir(found[0].parent).last_step() >= step

    wait_for(lambda: trained(3), 300)
    slurm.run("scancel", "--signal=USR2", job)
    wait_for(lambda: not slurm.run("squeue", "--noheader").strip(), 600)
    run = next(tmp_path.glob(f"tiny/*/seed={SEED}"))
    first, second = RunDir(run).outcomes()
    assert first["cause"] == "preempted"
    assert (second["state"], second["first_step"], second["last_step"]) == ("done", first["last_step"], STEPS)
    said = (tmp_path / "out").read_text()
    assert "stopped after a checkpoint; the job is queued again" in said
    assert f"the run's output: {run}/launch.log" in said
    assert not list((run / "launcher").iterdir())  # neither a token nor a rendezvous file
