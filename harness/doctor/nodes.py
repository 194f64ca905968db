"""What each node of a Ray cluster says about itself: package, versions, shared folder, model and data."""

import contextlib
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.doctor.finding import Flat, describe
from harness.doctor.software import installed, training_packages
from harness.paths import ROOT
from harness.tasks.registry import asset_path

FILES = ("actor_rollout_ref.model.path", "data.train_files", "data.val_files")
PROBE_SECONDS = 60


@dataclass(frozen=True)
class Node:
    """What one node said.

    gpus, cpus: as Ray counts them; error: why the probe did not run there; problem: why harness does not import;
    others: packages with another version than here; read: the node read our file in harness.root; wrote: we read the
    node's; lacks: paths that are not there.
    """

    name: str
    gpus: float
    cpus: float
    error: str | None = None
    problem: str | None = None
    others: tuple[str, ...] = ()
    read: bool = False
    wrote: bool = False
    lacks: tuple[str, ...] = ()


Probe = Callable[[str, str, str, list[str], list[str]], dict[str, Any]]
Ask = Callable[[str, Probe, tuple], Any]


def survey(flat: Flat, nodes: Sequence[tuple[str, str, float, float]], ask: Ask) -> list[Node]:
    """Ask all nodes at once; a file with a token goes to and fro through ``harness.root`` and is deleted.

    nodes: (id, name, GPUs, CPUs); ask: runs a probe with its arguments on the node of an id, raises what went wrong.
    """
    root, token = ROOT / flat["harness.root"], uuid.uuid4().hex
    packages, paths = training_packages(), _paths(flat)
    ours = root / f".doctor-{token}"

    def one(number: int) -> Node:
        identity, name, gpus, cpus = nodes[number]
        theirs = root / f"{ours.name}-{number}"
        try:
            answer = ask(identity, make_probe(), (str(ours), str(theirs), token, paths, packages))
        except Exception as error:  # noqa: BLE001  (a node that cannot be asked is a finding)
            return Node(name, gpus, cpus, error=describe(error))
        return Node(
            *(name, gpus, cpus),
            problem=answer["problem"],
            others=tuple(_others(answer["versions"], gpus)),
            read=answer["read"],
            wrote=theirs.is_file() and theirs.read_text() == token,
            lacks=tuple(answer["lacks"]),
        )

    root.mkdir(parents=True, exist_ok=True)
    try:
        ours.write_text(token)
        with ThreadPoolExecutor(max(1, len(nodes))) as threads:
            return list(threads.map(one, range(len(nodes))))
    finally:
        for file in root.glob(f"{ours.name}*"):
            file.unlink(missing_ok=True)


def make_probe() -> Probe:
    """What runs on a node. A nested function, which Ray sends by value: harness need not be importable there."""

    def probe(ours: str, theirs: str, token: str, paths: list[str], packages: list[str]) -> dict[str, Any]:
        import contextlib
        import importlib
        from importlib import metadata
        from pathlib import Path

        said: dict[str, Any] = {"problem": None, "read": False, "versions": dict.fromkeys(packages)}
        for name in packages:
            with contextlib.suppress(metadata.PackageNotFoundError):
                said["versions"][name] = metadata.version(name)
        try:
            importlib.import_module("harness.plugin")
        except Exception as error:  # noqa: BLE001  (travels home as text)
            said["problem"] = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            said["read"] = Path(ours).read_text() == token
            if said["read"]:  # else the folder may not be ours at all
                Path(theirs).write_text(token)
        said["lacks"] = [path for path in paths if not Path(path).exists()]
        return said

    return probe


def ray_nodes() -> list[tuple[str, str, float, float]]:
    """(id, address, GPUs, CPUs) of the living nodes of the cluster that this process has joined."""
    import ray

    alive = [(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [(identity, name, has.get("GPU", 0.0), has.get("CPU", 0.0)) for identity, name, has in alive]


def ray_probe(identity: str, probe: Probe, arguments: tuple) -> Any:
    """Run ``probe`` on the node of that id, and nowhere else."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there: Any = NodeAffinitySchedulingStrategy(identity, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(probe)
    return ray.get(task.remote(*arguments), timeout=PROBE_SECONDS)


def environment() -> dict[str, str]:
    """The workers' environment as ``harness.plugin.job`` makes it, as far as imports depend on it."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def _others(there: dict[str, str | None], gpus: float) -> list[str]:
    """Packages with another version there; builds of one version (2.13.0+cpu) are equal, and vLLM is for GPUs only."""
    found = []
    for name, version in there.items():
        here = installed(name)
        if (version or "").partition("+")[0] != (here or "").partition("+")[0] and (gpus or name != "vllm"):
            found.append(f"{name} {version or 'not installed'} where this machine has {here or 'none'}")
    return found


def _paths(flat: Flat) -> list[str]:
    """Model and data, as the nodes must find them; what is not there on this machine either is said elsewhere."""
    found = []
    for key in FILES:
        for value in flat[key] if isinstance(flat[key], list) else [flat[key]]:
            with contextlib.suppress(ConfigError):
                path = Path(asset_path(key, str(value), flat["harness.asset_seed"])).expanduser().absolute()
                found += [str(path)] if path.exists() else []
    return found
