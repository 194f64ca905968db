"""Checks of Ray: enough CPUs by its count, and of a cluster that runs already what its nodes say about themselves."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.doctor.finding import Finding, Flat, failure, local, ok
from harness.doctor.nodes import Node, environment, ray_nodes, ray_probe, survey
from harness.paths import ROOT

ADDRESS = "ray_kwargs.ray_init.address"
CPUS = "ray_kwargs.ray_init.num_cpus"
UNITS = "transfer_queue.backend.SimpleStorage.num_data_storage_units"
QUEUE = "TransferQueueController"  # TransferQueue's named actor, in one fixed namespace: one verl job a cluster
RANK_CPUS = 3  # that verl has Ray reserve for each rank (max_colocate_count), for those of a node in one piece
CONNECT_SECONDS = 90
# One try of a few seconds: Ray's own patience with an address where nothing listens is a quarter of an hour.
HASTE = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}
CONNECT = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except Exception as error:
    print(type(error).__name__ + ":", " ".join(str(error).split()))
    sys.exit(1)
"""


def cluster(flat: Flat) -> Iterator[Finding]:
    """Reachable, free for a job, large enough, and every node has the package, the run's folder, model and data."""
    if local(flat):
        yield from own_findings(flat)
        return
    address = flat.get(ADDRESS)
    if address is None:  # asking would start a Ray where there is none
        yield failure(f"{ADDRESS} is not set, so a run would join whatever is there", f"{ADDRESS}=local or =auto")
        return
    reason = unreachable(address)
    if reason:
        yield failure(
            f"no Ray cluster can be joined at {ADDRESS}={address} ({reason})",
            "`ray start --head` on one node, the `ray start` that it prints on the others, and the run on one of them "
            f"with {ADDRESS}=auto",
        )
        return
    import ray

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": environment()})
    try:
        yield from job_findings(ray.util.list_named_actors(all_namespaces=True))
        yield from node_findings(survey(flat, ray_nodes(), ray_probe), flat)
    finally:
        ray.shutdown()


def unreachable(address: str) -> str | None:
    """Why the cluster at ``address`` cannot be joined, None if it can. Tried in a process of its own, with a limit."""
    command = [sys.executable, "-c", CONNECT, address]
    try:
        done = subprocess.run(
            command, env={**os.environ, **HASTE}, capture_output=True, text=True, timeout=CONNECT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {CONNECT_SECONDS} s"
    lines = done.stdout.strip().splitlines()
    return (lines[-1] if lines else f"Ray ended with status {done.returncode}") if done.returncode else None


def cpus_held(flat: Flat) -> tuple[int, int]:
    """Ray's CPUs that a run holds: on a node for its ranks, and on all nodes, TransferQueue's actors included.

    While Ray counts fewer, verl waits, without a limit and without a word.
    """
    node = RANK_CPUS * flat["trainer.n_gpus_per_node"]
    return node, node * flat["trainer.nnodes"] + 1 + flat[UNITS]  # its controller and its units take one each


def cpus_counted() -> int:
    """The CPUs that Ray counts on this machine unless told otherwise; a container's limit is among what it looks at."""
    from ray._private.utils import get_num_cpus

    return int(get_num_cpus(override_docker_cpu_warning=True))


def own_findings(flat: Flat) -> Iterator[Finding]:
    """Whether a Ray that the run starts by itself, with equal nodes, will count enough CPUs."""
    nodes, counted = flat["trainer.nnodes"], flat.get(CPUS) or cpus_counted()
    on_node, in_all = cpus_held(flat)
    needed = max(on_node, -(-in_all // nodes))
    if counted < needed:
        yield failure(
            f"a node of the run's Ray will have {counted} CPUs and verl would wait for {needed} without end",
            f"{CPUS}={needed} (Ray only counts them, they need not be cores), or fewer {UNITS}",
        )
    else:
        yield ok("the run starts a Ray of its own")


def job_findings(actors: Sequence[Any]) -> Iterator[Finding]:
    """``actors``: Ray's named actors, as mappings with a name. A second verl job would share the first one's queue."""
    if any(isinstance(actor, Mapping) and actor.get("name") == QUEUE for actor in actors):
        yield failure(
            f"another verl job runs on this cluster (it has an actor {QUEUE}), and the two would mix their responses",
            "wait until it has ended, or start a Ray cluster for this run alone",
        )


def node_findings(nodes: Sequence[Node], flat: Flat) -> Iterator[Finding]:
    """A failure for each node that the run could not use, and one if too few have the GPUs it asks for."""
    wanted, gpus = flat["trainer.nnodes"], flat["trainer.n_gpus_per_node"]
    on_node, in_all = cpus_held(flat)
    root = ROOT / flat["harness.root"]
    broken = False
    for node in nodes:
        for found, remedy in _faults(node, root):
            broken = True
            yield failure(f"node {node.name}: {found}", remedy)
    fit = sum(node.gpus >= gpus and node.cpus >= on_node for node in nodes)
    cpus = sum(node.cpus for node in nodes)
    counted = f"Ray counts {len(nodes)} nodes, {sum(node.gpus for node in nodes):g} GPUs, {cpus:g} CPUs"
    if fit < wanted:
        yield failure(
            f"{counted}; nodes with {gpus} GPUs and {on_node} CPUs: {fit}, trainer.nnodes={wanted}",
            "`ray start` on more nodes (--num-gpus and --num-cpus say what Ray counts there), or a smaller "
            "trainer.nnodes or trainer.n_gpus_per_node",
        )
    elif cpus < in_all:
        yield failure(
            f"{counted}; verl would wait for {in_all} CPUs without end",
            f"`ray start` with a larger --num-cpus (Ray only counts them, they need not be cores), or fewer {UNITS}",
        )
    elif not broken:
        yield ok(f"{counted}; package, {root}, model and data seen by all")


def _faults(node: Node, root: Path) -> Iterator[tuple[str, str]]:
    if node.error:
        yield f"does not answer ({node.error})", "see `ray status`, then `ray stop` and `ray start` on that node"
        return
    if node.problem:
        yield f"harness does not import ({node.problem})", f"the same checkout there, at {ROOT}"
    if node.others:
        yield f"has {', '.join(node.others)}", "`make -B setup` there, or one environment that all nodes mount"
    if not (node.read and node.wrote):
        yield f"does not share {root} with this machine", "harness.root=FOLDER, on a file system that all nodes mount"
    elif node.lacks:
        yield f"has no {', '.join(node.lacks)}", "put it on a file system that all nodes mount, under the same path"
