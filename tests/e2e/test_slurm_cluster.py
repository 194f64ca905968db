"""The tests' own Slurm does what a cluster's does: nodes, pretended GPUs, requeues, signals; and it leaves nothing."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from slurm import SlurmCluster, Unavailable, slurm_cluster

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("slurm_cluster")]  # one cluster for all

FINISHED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    try:
        with slurm_cluster(tmp_path_factory.mktemp("slurm"), gpus=2) as running:
            yield running
    except Unavailable as reason:
        pytest.skip(str(reason))


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


def submit(cluster: SlurmCluster, folder: Path, script: str, *options: str) -> str:
    """Submit a bash script; its job's number. What the job prints goes to ``folder``/out."""
    file = folder / "job.sh"
    file.write_text(f"#!/bin/bash\ncd {folder}\n{script}\n")
    output = f"--output={folder}/out"
    return cluster.run("sbatch", "--parsable", "--open-mode=append", output, *options, str(file))


def state(cluster: SlurmCluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T")


def finished(cluster: SlurmCluster, job: str) -> str:
    """Wait for the end of ``job``; its last state."""
    wait_for(lambda: state(cluster, job) in FINISHED)
    return state(cluster, job)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_batch_job_has_the_nodes_and_gpus_it_asked_for(cluster, tmp_path):
    script = "scontrol show hostnames; srun bash -c 'echo $SLURMD_NODENAME has $CUDA_VISIBLE_DEVICES' | sort"
    job = submit(cluster, tmp_path, script, "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--mem=8G")
    assert finished(cluster, job) == "COMPLETED"
    assert lines(tmp_path / "out") == ["node0", "node1", "node0 has 0", "node1 has 0"]


def test_more_than_a_node_has_is_refused(cluster, tmp_path):
    for option in ("--gpus-per-node=3", "--cpus-per-task=3"):
        with pytest.raises(RuntimeError, match="node configuration is not available"):
            submit(cluster, tmp_path, "true", option)


def test_two_jobs_of_a_whole_node_run_side_by_side_and_a_third_waits(cluster, tmp_path):
    script = "touch $SLURM_JOB_ID; until [ -e go ]; do sleep 0.1; done"
    jobs = [submit(cluster, tmp_path, script, "--gpus-per-node=2") for _ in range(3)]
    wait_for(lambda: all((tmp_path / job).exists() for job in jobs[:2]))
    assert state(cluster, jobs[2]) == "PENDING"
    (tmp_path / "go").touch()
    assert [finished(cluster, job) for job in jobs] == ["COMPLETED"] * 3


def test_requeued_job_knows_that_it_was_restarted(cluster, tmp_path):
    script = 'echo ${SLURM_RESTART_COUNT:-0} >> starts; [ -n "$SLURM_RESTART_COUNT" ] || sleep 60'
    job = submit(cluster, tmp_path, script)
    wait_for(lambda: lines(tmp_path / "starts"))
    cluster.run("scontrol", "requeue", job)
    wait_for(lambda: len(lines(tmp_path / "starts")) == 2)
    assert finished(cluster, job) == "COMPLETED"
    assert lines(tmp_path / "starts") == ["0", "1"]


def test_signal_comes_before_the_time_limit(cluster, tmp_path):
    """To the processes that srun started, as submitit's jobs have it; the script around them is not told."""
    script = "srun bash -c 'trap \"echo USR2; exit\" USR2; for i in {1..900}; do sleep 0.1; done; echo nothing'"
    job = submit(cluster, tmp_path, script, "--time=1", "--signal=USR2@45")
    assert finished(cluster, job) == "COMPLETED"  # and not TIMEOUT
    assert "USR2" in lines(tmp_path / "out")


def test_cancelled_batch_job_and_its_children_are_told(cluster, tmp_path):
    told = 'trap "echo child told; exit" TERM; echo ready; for i in {1..600}; do sleep 0.1; done'
    script = f"trap 'echo script told; wait; exit' TERM; bash -c '{told}' & wait"
    job = submit(cluster, tmp_path, script)
    wait_for(lambda: lines(tmp_path / "out"))
    cluster.run("scancel", job)
    assert finished(cluster, job) == "CANCELLED"
    assert {"script told", "child told"} <= set(lines(tmp_path / "out"))


def test_leaving_ends_daemons_and_jobs_and_nothing_else(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    before = psutil.Process().children(recursive=True)
    with slurm_cluster(folder, nodes=1) as other:
        daemons = [p for p in psutil.Process().children(recursive=True) if p not in before]
        assert {"munged", "slurmctld", "slurmd"} <= {p.name() for p in daemons}
        bystander = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=other.env)
        submit(other, folder, "(setsid sleep 60 & echo $! > escaped); echo $$ > script; sleep 60")
        wait_for(lambda: lines(folder / "script") and lines(folder / "escaped"))
        jobs = [psutil.Process(int(lines(folder / name)[0])) for name in ("script", "escaped")]
        assert all(map(alive, [*daemons, *jobs, bystander]))
    try:
        assert not [p for p in (*daemons, *jobs) if alive(p)]
        assert alive(bystander)
        assert cluster.run("sinfo", "--noheader", "--format=%D %T") == "2 idle"
    finally:
        bystander.kill()
        bystander.wait()


def test_without_slurm_the_reason_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(Unavailable, match=r"Slurm is not installed: no .*sinfo"), slurm_cluster(tmp_path):
        pass


def test_folder_too_deep_for_a_socket_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at most 75 characters"), slurm_cluster(tmp_path / ("x" * 80)):
        pass
