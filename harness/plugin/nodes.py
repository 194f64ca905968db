"""The Ray nodes of a run on this machine: started, and ended, by a process of their own beside the run's.

Ray's daemons take about six seconds to start, and so do the imports of the run's process: side by side they take half.

    python -m harness.plugin.nodes     # one line of JSON on standard input; its end ends the nodes
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any

import psutil
from omegaconf import DictConfig, open_dict

from harness.run import ray_worker

SHARED, LEAST_SHARED = "/dev/shm", 1e9  # bytes
ON_DISK = 2e9  # bytes of an object store that is not in shared memory; Ray refuses larger ones, on macOS from here on
GRACE_SECONDS = 10.0


class Nodes:
    """``trainer.nnodes`` Ray nodes (Ray's own ``Cluster``), each with ``n_gpus_per_node`` logical GPUs.

    fork_server: address of the server that their workers come from, or None. Only a ``Cluster`` can be told:
    ``ray.init`` does not ask which script starts a worker.
    They end with this object's process, after its connection to them.
    """

    def __init__(self, config: DictConfig, fork_server: str | None):
        if fork_server:
            os.environ[ray_worker.SERVER] = fork_server
        init = config.ray_kwargs.ray_init
        node: dict[str, Any] = {
            "num_cpus": init.num_cpus,
            "num_gpus": config.trainer.n_gpus_per_node,
            "include_dashboard": False,
            "no_monitor": True,  # nothing here scales
            "object_store_memory": init.get("object_store_memory") or object_store_bytes(config.trainer.nnodes),
        }
        if fork_server:
            node["worker_path"] = node["setup_worker_path"] = ray_worker.__file__
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness.plugin.nodes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"nodes": config.trainer.nnodes, "node": node}) + "\n")
        self.process.stdin.flush()
        atexit.register(self.end)  # before ray is imported here, so after ray has disconnected

    def use(self, config: DictConfig) -> None:
        """Let ``ray.init`` of this configuration join the nodes. Raises RuntimeError if they did not start."""
        assert self.process.stdout
        address = self.process.stdout.readline().strip()
        if not address:
            raise RuntimeError("Ray did not start on this machine; the reason is above in this log")
        init = config.ray_kwargs.ray_init
        with open_dict(config):
            init.address = address
            # A cluster that exists decides these itself.
            for name in ("num_cpus", "num_gpus", "include_dashboard", "object_store_memory"):
                init.pop(name, None)

    def end(self) -> None:
        """End the nodes, and wait for it."""
        self.process.terminate()  # the other end of its standard input is in the fork server's hands too
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)


def object_store_bytes(nodes: int) -> int:
    """Of each node's object store: 30 % of this machine's memory, as Ray itself takes, and no more than shared memory
    has room for. Where that is tiny, as in a container, Ray puts the store on disk, with a warning."""
    wanted = 0.3 * psutil.virtual_memory().total
    room = 0.9 * psutil.disk_usage(SHARED).free if os.path.isdir(SHARED) else 0.0
    return int(min(wanted, ON_DISK if room < LEAST_SHARED else room) / nodes)


def main() -> None:
    """Start the nodes that standard input asks for, print their address, and end them when standard input ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    answer = os.dup(1)
    os.dup2(2, 1)  # what Ray prints belongs into the log
    asked = json.loads(sys.stdin.readline())
    # Ray notes the newest cluster in its folder, where other programs' `ray.init` looks: not in theirs.
    folder = tempfile.mkdtemp(prefix="r", dir=os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["RAY_TMPDIR"] = folder

    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=asked["node"])
    for _ in range(asked["nodes"] - 1):
        cluster.add_node(**asked["node"])
    cluster.wait_for_nodes()
    os.write(answer, f"{cluster.address}\n".encode())
    sys.stdin.read()


if __name__ == "__main__":
    main()
