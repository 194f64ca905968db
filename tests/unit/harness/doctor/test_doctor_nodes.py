"""A Ray cluster: its nodes, and what they share."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from doctoring import ADDRESS, Flat, levels, only

from harness.config import ConfigError
from harness.doctor import checkup, cluster, nodes
from harness.doctor.cluster import job_findings, node_findings
from harness.doctor.finding import Finding
from harness.doctor.nodes import Node, make_probe, survey

TWO = {ADDRESS: "10.0.0.1:6379", "trainer.nnodes": 2, "trainer.n_gpus_per_node": 8}
NODES = [("id-a", "10.0.0.1", 8.0, 96.0), ("id-b", "10.0.0.2", 8.0, 96.0)]


def here(_: str, probe: Callable[..., Any], arguments: tuple) -> Any:
    return probe(*arguments)


def good(name: str, gpus: float, cpus: float) -> Node:
    return Node(name, gpus, cpus, read=True, wrote=True)


def test_nodes_that_share_everything(tiny: Flat, tmp_path: Path) -> None:
    nodes = survey(tiny | TWO, NODES, here)
    assert nodes == [good(name, 8.0, 96.0) for _, name, _, _ in NODES]
    only(node_findings(nodes, tiny | TWO), "ok", "2 nodes, 16 GPUs, 192 CPUs")
    assert list((tmp_path / "runs").iterdir()) == []  # nothing is left behind


def test_nodes_that_fail_are_named_with_what_they_lack(copied: tuple[Flat, Path], tmp_path: Path) -> None:
    flat = copied[0] | TWO

    def ask(identity: str, probe: Callable[..., Any], arguments: tuple) -> Any:
        ours, theirs, token, paths, packages = arguments
        if identity == "dead":
            raise TimeoutError("no answer")
        if identity == "apart":  # its own disk under the same path
            (tmp_path / "apart").mkdir()
            return probe(ours.replace("runs", "apart"), theirs.replace("runs", "apart"), token, paths, packages)
        if identity == "read-only":
            return probe(ours, str(tmp_path / "nowhere" / "file"), token, paths, packages)
        if identity == "modelless":
            absent = [f"{path}-not-there" for path in paths if "model" in path]
            return probe(ours, theirs, token, absent, packages)
        answer = probe(*arguments)
        if identity == "bare":
            return {**answer, "problem": "ModuleNotFoundError: No module named 'harness'"}
        torch_there = f"{metadata.version('torch').partition('+')[0]}+cu999"  # another build of the same version
        return {**answer, "versions": {**answer["versions"], "verl": "0.8.0", "ray": None, "torch": torch_there}}

    names = ("dead", "apart", "read-only", "modelless", "bare", "older")
    found = list(node_findings(survey(flat, [(name, name, 8.0, 96.0) for name in names], ask), flat))
    words = (
        *("TimeoutError: no answer", "does not share", "does not share", "model-not-there", "does not import"),
        f"verl 0.8.0 where this machine has {metadata.version('verl')}, ray not installed where",
    )
    assert levels(found) == ["failure"] * 6
    for name, word, finding in zip(names, words, found, strict=True):
        assert finding.found.startswith(f"node {name}: ") or (name == "older" and "node older: " in finding.found)
        assert word in finding.found
        assert "torch" not in finding.found
    assert list((tmp_path / "runs").iterdir()) == []


def test_vllm_is_asked_of_nodes_with_gpus_only(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "training_packages", lambda: ["vllm"])
    monkeypatch.setattr(nodes, "installed", lambda _: "0.20.0")
    found = survey(tiny | TWO, [("a", "head", 0.0, 8.0), ("b", "worker", 8.0, 96.0)], here)
    assert [bool(node.others) for node in found] == [False, True]


def test_too_few_nodes_with_enough_gpus_or_cpus(tiny: Flat) -> None:
    nodes = [good(str(gpus), gpus, cpus) for gpus, cpus in ((8.0, 96.0), (4.0, 96.0), (8.0, 23.0))]
    found = only(node_findings(nodes, tiny | TWO), "failure", "3 nodes, 20 GPUs", "8 GPUs and 24 CPUs: 1")
    assert "trainer.nnodes" in found.remedy
    for cpus, level in ((24.0, "failure"), (25.0, "ok")):  # 48 for the ranks, the queue's controller and its one unit
        only(node_findings([good("a", 8.0, cpus), good("b", 8.0, 25.0)], tiny | TWO), level, "2 nodes, 16 GPUs")


def test_a_ray_of_the_run_s_own_must_count_the_cpus_that_verl_waits_for(
    flat: Callable[..., Flat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of tiny with num_cpus=5 trains, with 4 it waits without end: tried."""
    num_cpus = "ray_kwargs.ray_init.num_cpus"
    tiny = flat("experiment=tiny")
    only(cluster.cluster(tiny | {num_cpus: 5}), "ok")
    assert f"{num_cpus}=5" in only(cluster.cluster(tiny | {num_cpus: 4}), "failure", "have 4 CPUs").remedy
    many = tiny | {"trainer.n_gpus_per_node": 6}  # of its 16 CPUs the ranks alone take 18, on one node
    assert f"{num_cpus}=20" in only(cluster.cluster(many), "failure", "have 16 CPUs").remedy
    only(cluster.cluster(tiny | {"trainer.n_gpus_per_node": 5, "trainer.nnodes": 2}), "ok")
    assert cluster.cpus_counted() == os.cpu_count() or Path("/sys/fs/cgroup/cpu.max").is_file()
    card = flat("experiment=text_dense_1gpu") | {"trainer.nnodes": 1, ADDRESS: "local"}
    needed = 3 + 1 + card[cluster.UNITS]
    for cores, level in ((needed - 1, "failure"), (needed, "ok")):
        monkeypatch.setattr(cluster, "cpus_counted", lambda cores=cores: cores)
        only(cluster.cluster(card), level)


def test_the_cpus_are_those_that_verl_and_its_queue_ask_for() -> None:
    from transfer_queue.controller import TransferQueueController
    from transfer_queue.storage.simple_storage import SimpleStorageUnit
    from verl.single_controller.ray import ResourcePoolManager

    assert ResourcePoolManager.max_colocate_count == cluster.RANK_CPUS
    for actor in (TransferQueueController, SimpleStorageUnit):
        options: dict[str, Any] = getattr(actor, "_default_options")  # noqa: B009  (Ray's)
        assert options["num_cpus"] == 1


def test_another_verl_job_is_seen() -> None:
    others = [{"name": "something", "namespace": "else"}]
    assert list(job_findings(others)) == []
    queue = {"name": "TransferQueueController", "namespace": "transfer_queue"}
    only(job_findings([*others, queue]), "failure", "another verl job")


def test_a_cluster_that_cannot_be_joined(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(cluster.cluster(tiny | {ADDRESS: None}), "failure", "is not set")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stub = tmp_path / "ray.py"
    stub.write_text("def init(**_):\n    raise ConnectionError('Could not find\\n   any running Ray instance.')\n")
    found = only(cluster.cluster(tiny | TWO), "failure", "ConnectionError: Could not find any running Ray")
    assert "ray start --head" in found.remedy
    stub.write_text("def init(**_):\n    import os\n    os._exit(7)\n")
    only(cluster.cluster(tiny | TWO), "failure", "status 7")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    stub.write_text("def init(**_):\n    import time\n    time.sleep(600)\n")
    only(cluster.cluster(tiny | TWO), "failure", "no answer within 1 s")


def test_the_probe_travels_to_a_node_without_the_package(tmp_path: Path) -> None:
    cloudpickle: Any = importlib.import_module("ray.cloudpickle")
    (tmp_path / "probe.pickle").write_bytes(cloudpickle.dumps(make_probe()))
    (tmp_path / "ours").write_text("token")
    code = (
        "import sys, pickle, json; sys.modules['harness'] = None; probe = pickle.load(open('probe.pickle', 'rb'));"
        "print(json.dumps(probe('ours', 'theirs', 'token', ['ours', 'absent'], ['ray', 'absent'])))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert "harness" in said["problem"]
    assert (said["read"], said["lacks"]) == (True, ["absent"])
    assert said["versions"] == {"ray": metadata.version("ray"), "absent": None}
    assert (tmp_path / "theirs").read_text() == "token"


def test_a_failure_keeps_a_run_on_gpus_from_starting(tiny: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "gpus": lambda flat: [Finding("failure", "0 GPUs", "a node with 8")],
        "disk": lambda flat: [Finding("failure", "full", "room"), Finding("ok", "there")],
        "settings": lambda flat: [Finding("failure", "checked by the run itself", "")],
    }
    monkeypatch.setattr("harness.doctor.checkup.checks", lambda: found)
    with pytest.raises(ConfigError, match=r"gpus: 0 GPUs; remedy: a node with 8 .1 more"):
        checkup.before_run(tiny)
    found["gpus"] = lambda flat: [Finding("warning", "busy", "wait")]
    found["disk"] = lambda flat: [Finding("ok", "there")]
    assert checkup.before_run(tiny) == ["gpus: busy"]
