"""The doctor asks a real Ray cluster of two, then three nodes on this machine with logical GPUs, and none at all."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.run.process import end_session, session_processes

ROOT = Path(__file__).resolve().parents[2]
# The head has a GPU by Ray's count. Each line "node GPUS" adds a node, "job" what a verl job leaves on a cluster.
CLUSTER = """
import sys
import ray
from ray.cluster_utils import Cluster

node = {"num_cpus": 4, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={**node, "num_gpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
for line in sys.stdin:
    word, *gpus = line.split()
    if word == "node":
        cluster.add_node(**node, num_gpus=int(gpus[0]))
    else:
        cluster.connect(namespace="transfer_queue")
        actor = ray.remote(type("Queue", (), {})).options(name="TransferQueueController", num_cpus=0).remote()
        ray.get(actor.__ray_ready__.remote())
    print("done", flush=True)
"""
Tell = Callable[[str], str]


@pytest.fixture
def cluster() -> Iterator[tuple[str, Tell]]:
    """The address of a cluster of one node, and a function that gives its process a line and returns its answer."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # short: sockets are in there; and no other Ray's
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env={**os.environ, "RAY_TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        stdin, stdout = process.stdin, process.stdout
        assert stdin
        assert stdout

        def tell(line: str) -> str:
            print(line, file=stdin, flush=True)
            return stdout.readline().strip()

        try:
            yield stdout.readline().strip(), tell
        finally:
            end_session(process.pid)
            process.wait()
        assert session_processes(process.pid) == []


def start(root: Path, address: str, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness.doctor", "experiment=tiny", f"harness.root={root}", *overrides]
    return subprocess.Popen(
        [*command, f"ray_kwargs.ray_init.address={address}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def findings(doctor: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and what the doctor says about the cluster, in one line."""
    out, err = doctor.communicate(timeout=150)
    assert "Traceback" not in err, err
    said = out[out.index(" cluster ") :].split()
    return doctor.returncode, " ".join(said[: said.index("weights")])  # the check that comes next


def test_a_cluster_is_asked_by_the_doctor(cluster: tuple[str, Tell], tmp_path: Path) -> None:
    address, tell = cluster
    assert [tell("node 0"), tell("node 1")] == ["done", "done"]
    with socket.socket() as bound:  # nothing listens there, and nobody else can
        bound.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{bound.getsockname()[1]}"
        nowhere = start(tmp_path, nobody)
        two, three = (start(tmp_path, address, f"trainer.nnodes={n}") for n in (2, 3))

        status, said = findings(two)
        assert (status, said.count("failure")) == (0, 0), said
        assert "Ray counts 3 nodes, 2 GPUs, 12 CPUs; package," in said
        assert "seen by all" in said

        status, said = findings(three)
        assert status == 1
        assert "Ray counts 3 nodes, 2 GPUs, 12 CPUs; nodes with 1 GPUs and 3 CPUs: 2, trainer.nnodes=3" in said
        assert "remedy: `ray start` on more nodes" in said

        status, said = findings(nowhere)
        assert status == 1
        assert f"no Ray cluster can be joined at ray_kwargs.ray_init.address={nobody}" in said
        assert "Failed to connect to Ray cluster" in said
        assert "remedy: `ray start --head`" in said

    assert tell("job") == "done"
    status, said = findings(start(tmp_path, address, "trainer.nnodes=2"))
    assert status == 1
    assert "another verl job runs on this cluster" in said
    assert list(tmp_path.iterdir()) == []  # what went to and fro is gone
