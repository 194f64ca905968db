"""Kubernetes manifests: what KubeRay's operator and Kubernetes demand of them, and what a run needs from them."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config import ConfigError
from harness.paths import ROOT
from sweeps.__main__ import main
from sweeps.launchers.kubernetes import defaults, merged, name_of, rayjob, take_settings, write_rayjobs
from sweeps.trials import Trial

GIVEN = {"image": "registry.example/rlvr-length:0.1.0", "claim": "results"}
MOE = Trial(
    overrides=("experiment=text_moe", "algo=luspo", "seed=1"),
    path=ROOT / "results/runs/text_moe/luspo/seed=1",
    planned=100, nodes=4, gpus=32, memory_gb=1000.0,
)  # fmt: skip
DENSE = replace(
    MOE, overrides=("experiment=text_dense", "algo=gspo", "clip=own"),
    path=ROOT / "results/runs/text_dense/gspo,clip=own/seed=0", nodes=1, gpus=8, memory_gb=256.0,
)  # fmt: skip
TINY = replace(
    DENSE, overrides=("experiment=tiny", "algo=grpo", "seed=3"),
    path=ROOT / "results/runs/tiny/grpo/seed=3", ranks=2, gpus=0, memory_gb=3.4,
)  # fmt: skip


def made(trial: Trial, **settings: Any) -> dict[str, Any]:
    return rayjob(trial, merged({**GIVEN, **settings}, defaults()))


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", []))]


def ray(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    return container


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in ray(pod)["env"]}


def test_rayjob() -> None:
    manifest = made(MOE, hours=48)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert manifest["metadata"]["annotations"] == {"rlvr-length/run": "text_moe/luspo/seed=1"}
    spec = manifest["spec"]
    assert spec["entrypoint"] == (
        "python -m harness.train experiment=text_moe algo=luspo seed=1 ray_kwargs.ray_init.address=auto"
    )
    assert spec["submissionMode"] == "SidecarMode"
    # The operator refuses these two together with this mode, and the cluster of another job for a run of ours.
    assert not {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & set(spec)
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == 6
    assert spec["ttlSecondsAfterFinished"] == 300
    assert spec["activeDeadlineSeconds"] == 48 * 3600
    assert "activeDeadlineSeconds" not in made(MOE)["spec"]


def test_nodes_and_gpus() -> None:
    cluster = made(MOE)["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [3, 3, 3]
    for pod in pods(made(MOE)):
        resources = ray(pod)["resources"]
        assert resources["limits"]["nvidia.com/gpu"] == "8"
        assert resources["limits"]["cpu"] == "96"
        assert resources["limits"]["memory"] == "1004G"
        assert resources["requests"] == resources["limits"]  # no node promises what it has not
    # Ray's counts come from these limits, and the operator refuses them in both places.
    assert cluster["headGroupSpec"]["rayStartParams"] == {"dashboard-host": "0.0.0.0"}
    assert workers["rayStartParams"] == {}


def test_a_run_on_one_node_trains_on_the_head() -> None:
    manifest = made(DENSE)
    assert "workerGroupSpecs" not in manifest["spec"]["rayClusterSpec"]
    (head,) = pods(manifest)
    assert ray(head)["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_a_run_without_gpus() -> None:
    manifest = made(TINY)
    (head,) = pods(manifest)
    assert ray(head)["resources"]["limits"] == {"cpu": "4", "memory": "8G"}
    assert not {"tolerations", "nodeSelector"} & set(head["spec"])
    start = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
    assert start == {"dashboard-host": "0.0.0.0", "num-cpus": "16", "num-gpus": "2"}


def test_storage_and_shared_memory() -> None:
    for pod in pods(made(MOE)):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert volumes["claim"]["persistentVolumeClaim"] == {"claimName": "results"}
        assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "402G"}
        mounts = {mount["mountPath"]: mount for mount in ray(pod)["volumeMounts"]}
        assert mounts["/dev/shm"]["name"] == "shm"
        assert mounts["/opt/rlvr-length/results/runs"] == {
            "name": "claim", "mountPath": "/opt/rlvr-length/results/runs", "subPath": "runs",
        }  # fmt: skip
        assert {"/opt/rlvr-length/results/assets", "/opt/rlvr-length/Qwen"} < set(mounts)
        assert {mount["name"] for mount in mounts.values()} == set(volumes)


def test_a_pod_that_has_to_go_waits_for_a_checkpoint() -> None:
    for pod in pods(made(MOE, grace_seconds=1200)):
        assert pod["spec"]["terminationGracePeriodSeconds"] == 1200
        assert pod["spec"]["restartPolicy"] == "Never"
        hook = ray(pod)["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == ["python", "-m", "sweeps.stop", "/opt/rlvr-length/results/runs/text_moe/luspo/seed=1"]


def test_access() -> None:
    manifest = made(MOE)
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52, 0)  # the operator's condition for tokens
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["enableIngress"] is False
    for pod in pods(manifest):
        assert environment(pod)["RAY_AUTH_MODE"] == "token"
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert ray(pod)["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])


def test_optional_values() -> None:
    manifest = made(
        MOE, queue="research", secret="keys", pull_secret="pull", gpu_type="H100", namespace="team",
        env={"NCCL_DEBUG": "INFO"}, resources={"rdma/hca": 8}, mounts={"models": "models"},
    )  # fmt: skip
    assert manifest["metadata"]["namespace"] == "team"
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    for pod in pods(manifest):
        assert ray(pod)["envFrom"] == [{"secretRef": {"name": "keys"}}]
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}]
        assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "H100"}
        assert pod["spec"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert environment(pod)["NCCL_DEBUG"] == "INFO"
        assert ray(pod)["resources"]["limits"]["rdma/hca"] == "8"
        mounted = {mount.get("subPath") for mount in ray(pod)["volumeMounts"]}
        assert {"runs", "assets", "models"} < mounted  # a mapping adds to what stands there


@pytest.mark.parametrize("trial", [MOE, DENSE, TINY], ids=["moe", "dense", "tiny"])
def test_pods_are_kubernetes(trial: Trial) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    for pod in pods(made(trial, queue="q", secret="keys", pull_secret="p", gpu_type="H100", env={"A": 1})):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": pod}
        kubernetes.validate(template, "1.31", strict=True)


def test_names_are_labels_and_unique() -> None:
    paths = [
        "tiny/luspo/seed=0", "tiny/luspo/seed=1", "Tiny/luspo/seed=0", "2024/gspo,lr=2e-06/seed=0", "__/_/seed=0",
        *(f"text_dense/luspo,a_long_key=0.{i},another_long_key=0.5,clip=own/seed={s}" for i in (1, 2) for s in (0, 1)),
    ]  # fmt: skip
    trials = [replace(MOE, path=ROOT / "results" / root / path) for root in ("runs", "runs/more") for path in paths]
    names = [name_of(trial) for trial in trials]
    assert len(set(names)) == len(trials)
    for name in names:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)  # DNS-1035
        assert len(name) <= 47
    assert name_of(MOE).startswith("run-text-moe-luspo-seed-1-")
    assert name_of(MOE) == name_of(replace(MOE, planned=200))  # the same run


def test_the_entrypoint_survives_the_submitters_shell() -> None:
    odd = ("algo=luspo", "+a='x y'", "b=[1,2]", "c={k: 1}", 'd="$HOME"', "e=a\\b", "f=`id`;ls")
    entrypoint = made(replace(DENSE, overrides=odd))["spec"]["entrypoint"]
    shown = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' {entrypoint}"
    done = subprocess.run(["bash", "-ce", "--", shown], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["python", "-m", "harness.train", *odd, "ray_kwargs.ray_init.address=auto"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"imagge": "x"}, r"kubernetes\.imagge: unknown; there are image, claim"),
        ({"retries": "many"}, r"kubernetes\.retries=many: expected a number, such as 6"),
        ({"retries": True}, r"kubernetes\.retries=True: expected a number"),
        ({"mounts": "runs"}, r"kubernetes\.mounts=runs: expected a mapping"),
        ({"gpu_label": 3}, r"kubernetes\.gpu_label=3: expected a text, such as nvidia"),
        ({"claim": {"a": 1}}, r"kubernetes\.claim=.*: expected a value"),
        ({"claim": ""}, r"kubernetes\.claim is missing"),
        ({"env": {"WANDB_API_KEY": "x"}}, r"env\.WANDB_API_KEY: a secret must not stand in a manifest"),
        ({"env": {"hf_token": "x"}}, r"env\.hf_token: a secret"),
    ],
)
def test_wrong_values_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        merged({**GIVEN, **settings}, defaults())
    assert "\n" not in str(caught.value)


def test_image_is_required() -> None:
    with pytest.raises(ConfigError, match=r"kubernetes\.image is missing"):
        merged({"claim": "results"}, defaults())


def test_runs_outside_the_claim_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"/elsewhere/tiny/luspo/seed=0 would be lost with its pod"):
        made(replace(MOE, path=Path("/elsewhere/tiny/luspo/seed=0")))


def test_settings_are_taken_from_overrides() -> None:
    overrides = ["kubernetes.image=a:1", "seed=3", "kubernetes.env.A=1", "kubernetes.hours=1.5"]
    assert take_settings(overrides) == ({"image": "a:1", "env": {"A": 1}, "hours": 1.5}, ["seed=3"])


def test_files(tmp_path: Path) -> None:
    files = write_rayjobs([MOE, DENSE], GIVEN, tmp_path / "new" / "out", defaults())
    assert [yaml.safe_load(file.read_text()) for file in files] == [made(MOE), made(DENSE)]
    assert [file.stem for file in files] == [name_of(MOE), name_of(DENSE)]
    assert all("&id" not in file.read_text() for file in files)  # plain YAML, nothing shared
    before = [file.read_text() for file in files]
    assert [
        file.read_text() for file in write_rayjobs([MOE, DENSE], GIVEN, tmp_path / "new" / "out", defaults())
    ] == before
    with pytest.raises(ConfigError, match="has other manifests"):
        write_rayjobs([MOE], GIVEN, tmp_path / "new" / "out", defaults())


SECRETS = {"WANDB_API_KEY": "wandb-3f9a", "HF_TOKEN": "hf-77c1", "RAY_AUTH_TOKEN": "ray-9e02"}


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    sweep = tmp_path / "two.yaml"
    sweep.write_text("grid: {experiment: [tiny], algo: [gspo, luspo], seed: [0, 1]}\n")
    out = tmp_path / "out"
    command = [
        "manifests",
        str(sweep),
        "--to",
        str(out),
        "kubernetes.image=i:1",
        "kubernetes.claim=c",
        "kubernetes.secret=s",
    ]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"4 manifests in {out}" in said
    files = sorted(out.glob("*.yaml"))
    assert [file.name.rsplit("-", 1)[0] for file in files] == [
        f"run-tiny-{algo}-seed-{seed}" for algo in ("gspo", "luspo") for seed in (0, 1)
    ]
    for file in files:
        assert not any(secret in file.read_text() for secret in SECRETS.values())
        for pod in pods(yaml.safe_load(file.read_text())):
            assert ray(pod)["envFrom"] == [{"secretRef": {"name": "s"}}]


def test_command_line_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifests", "factorial", "kubernetes.image=i:1"]) == 2
    assert main(["manifests", "factorial", "--to", str(tmp_path), "kubernetes.image=i:1", "kubernetes.claims=c"]) == 2
    said = capsys.readouterr().err
    assert "--to FOLDER is missing" in said
    assert "kubernetes.claims: unknown" in said
    assert not list(tmp_path.iterdir())
