"""Checks of a Ray cluster that runs already (``ray_init.address`` is not ``local``), from what each node reports."""

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.assets import ROOT
from harness.config import ConfigError, asset_path
from harness.doctor_finding import Finding, Flat, describe, failure, local, ok

ADDRESS = "ray_kwargs.ray_init.address"
FILES = ("actor_rollout_ref.model.path", "data.train_files", "data.val_files")
QUEUE = "TransferQueueController"  # TransferQueue's named actor, in one fixed namespace: one verl job a cluster
PROBE_SECONDS = 60


@dataclass(frozen=True)
class Node:
    """What one node said.

    gpus: as Ray counts them; error: why the probe did not run there; problem: why harness does not import;
    read: the node read our file in harness.root; wrote: we read the node's; lacks: paths that are not there.
    """

    name: str
    gpus: float
    error: str | None = None
    problem: str | None = None
    read: bool = False
    wrote: bool = False
    lacks: tuple[str, ...] = ()


def cluster(flat: Flat) -> Iterator[Finding]:
    """Reachable, free for a job, large enough, and every node has the package, the run's folder, model and data."""
    if local(flat):
        yield ok("the run starts a Ray of its own")
        return
    address = flat.get(ADDRESS)
    if address is None:  # asking would start a Ray where there is none
        yield failure(f"{ADDRESS} is not set, so a run would join whatever is there", f"{ADDRESS}=local or =auto")
        return
    import ray

    try:
        environment = {"env_vars": _environment()}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except Exception as error:  # noqa: BLE001  (Ray raises errors of many libraries)
        yield failure(f"{ADDRESS}={address} cannot be reached ({describe(error)})", "`ray start` on every node")
        return
    try:
        actors = ray.util.list_named_actors(all_namespaces=True)
        yield from job_findings(actors)
        yield from node_findings(survey(flat, _ray_nodes(), _ray_probe), flat)
    finally:
        ray.shutdown()


def job_findings(actors: Sequence[Any]) -> Iterator[Finding]:
    """``actors``: Ray's named actors, as mappings with a name. A second verl job would share the first one's queue."""
    if any(isinstance(actor, Mapping) and actor.get("name") == QUEUE for actor in actors):
        yield failure("another verl job runs on this cluster", "wait for it, or a Ray cluster of its own")


def node_findings(nodes: Sequence[Node], flat: Flat) -> Iterator[Finding]:
    """A failure for each node that the run could not use, and one if too few have the GPUs it asks for."""
    wanted, gpus = flat["trainer.nnodes"], flat["trainer.n_gpus_per_node"]
    root = ROOT / flat["harness.root"]
    broken = False
    for node in nodes:
        for found, remedy in _faults(node, root):
            broken = True
            yield failure(f"node {node.name}: {found}", remedy)
    fit = sum(node.gpus >= gpus for node in nodes)
    counted = f"{len(nodes)} nodes, {sum(node.gpus for node in nodes):g} GPUs"
    if fit < wanted:
        yield failure(
            f"{counted}; {fit} of {wanted} nodes have {gpus} GPUs",
            "`ray start` on more nodes, or trainer.nnodes and trainer.n_gpus_per_node",
        )
    elif not broken:
        yield ok(f"{counted}; package, {root}, model and data seen by all")


def _faults(node: Node, root: Path) -> Iterator[tuple[str, str]]:
    if node.error:
        yield f"does not answer ({node.error})", "see `ray status`, and `ray start` there again"
        return
    if node.problem:
        yield f"harness does not import ({node.problem})", f"the checkout at {ROOT} there, and make setup"
    if not (node.read and node.wrote):
        yield f"does not share {root} with this machine", "harness.root on a file system of all nodes"
    elif node.lacks:
        yield f"has no {', '.join(node.lacks)}", "put it on a file system of all nodes, under the same path"


Probe = Callable[[str, str, str, list[str]], dict[str, Any]]


def survey(flat: Flat, nodes: Sequence[tuple[str, str, float]], ask: Callable[[str, Probe, tuple], Any]) -> list[Node]:
    """Ask every node; a file with a token goes to and fro through ``harness.root`` and is deleted.

    nodes: (id, name, GPUs); ask: runs a probe with its arguments on the node of an id, raises what went wrong.
    """
    root, token = ROOT / flat["harness.root"], uuid.uuid4().hex
    root.mkdir(parents=True, exist_ok=True)
    ours = root / f".doctor-{token}"
    said = []
    try:
        ours.write_text(token)
        for number, (identity, name, gpus) in enumerate(nodes):
            theirs = root / f".doctor-{token}-{number}"
            try:
                answer = ask(identity, make_probe(), (str(ours), str(theirs), token, _paths(flat)))
            except Exception as error:  # noqa: BLE001  (a node that cannot be asked is a finding)
                said.append(Node(name, gpus, error=describe(error)))
                continue
            wrote = theirs.is_file() and theirs.read_text() == token
            said.append(Node(name, gpus, None, answer["problem"], answer["read"], wrote, tuple(answer["lacks"])))
    finally:
        for file in root.glob(f".doctor-{token}*"):
            file.unlink(missing_ok=True)
    return said


def make_probe() -> Probe:
    """What runs on a node. A nested function, which Ray sends by value: harness need not be importable there."""

    def probe(ours: str, theirs: str, token: str, paths: list[str]) -> dict[str, Any]:
        import importlib
        from pathlib import Path

        said: dict[str, Any] = {"problem": None, "read": False}
        try:
            importlib.import_module("harness.plugin")
        except Exception as error:  # noqa: BLE001  (travels home as text)
            said["problem"] = f"{type(error).__name__}: {error}"
        try:
            said["read"] = Path(ours).read_text() == token
            if said["read"]:  # else the folder may not be ours at all
                Path(theirs).write_text(token)
        except OSError:
            pass
        said["lacks"] = [path for path in paths if not Path(path).exists()]
        return said

    return probe


def _paths(flat: Flat) -> list[str]:
    """Model and data, as the nodes must find them; what is not there on this machine either is said elsewhere."""
    found = []
    for key in FILES:
        for value in flat[key] if isinstance(flat[key], list) else [flat[key]]:
            with contextlib.suppress(ConfigError):
                path = Path(asset_path(key, str(value), flat["harness.asset_seed"])).expanduser().absolute()
                found += [str(path)] if path.exists() else []
    return found


def _environment() -> dict[str, str]:
    """The workers' environment as ``harness.launch`` and ``harness.job`` make it, as far as imports depend on it."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def _ray_nodes() -> list[tuple[str, str, float]]:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [(node["NodeID"], node["NodeManagerAddress"], node["Resources"].get("GPU", 0.0)) for node in alive]


def _ray_probe(identity: str, probe: Probe, arguments: tuple) -> Any:
    """Run ``probe`` on the node of that id, and nowhere else."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there: Any = NodeAffinitySchedulingStrategy(identity, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(probe)
    return ray.get(task.remote(*arguments), timeout=PROBE_SECONDS)
