"""Kubernetes manifests: a KubeRay RayJob for each run, which makes a Ray cluster for it, and a new one for each retry.

Fields as in the types of KubeRay's API ``ray.io/v1`` and in what its operator checks (``ValidateRayJobSpec``).
"""

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config import ConfigError, digest
from harness.paths import ROOT
from sweeps.launchers.slurm_job import ADDRESS, LOGICAL_CORES
from sweeps.trials import Trial

VALUES = Path(__file__).parents[1] / "cluster" / "rayjob.yaml"
PREFIX = "kubernetes."
REQUIRED = ("image", "claim")
APP = "rlvr-length"
NAME_LENGTH = 47  # KubeRay's limit for a RayJob; it appends to the name
SECRETIVE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
# A submitter in the head's pod ends with it, and then the run gets a new cluster. One in a pod of its own (K8sJobMode)
# needs the image on a further node and can be lost alone; with HTTPMode a lost head comes back, and the run starts
# again on what is left of its old cluster.
SUBMISSION = "SidecarMode"
STOP_SECONDS = 30  # from SIGTERM to SIGKILL when a RayJob is deleted; Ray's 3 are too short to write down how it ended

Json = dict[str, Any]
NUMBER = ("a number", (int, float))
KINDS: dict[type, tuple[str, tuple[type, ...]]] = {  # what may be given, by the type of what stands there
    int: NUMBER,
    float: NUMBER,
    str: ("a text", (str,)),
    dict: ("a mapping", (dict,)),
    type(None): ("a value", (str, int, float)),
}


def defaults() -> Json:
    """The values of ``sweeps/cluster/rayjob.yaml``."""
    return yaml.safe_load(VALUES.read_text())


def take_settings(overrides: Iterable[str]) -> tuple[Json, list[str]]:
    """(settings, the other overrides): what ``kubernetes.KEY=VALUE`` set. Raises ``ConfigError``."""
    overrides = list(overrides)
    mine = [one.removeprefix(PREFIX) for one in overrides if one.startswith(PREFIX)]
    try:
        settings: Any = OmegaConf.to_container(OmegaConf.from_dotlist(mine), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"{PREFIX}*: {str(error).splitlines()[0]}") from None
    return settings, [one for one in overrides if not one.startswith(PREFIX)]


def write_rayjobs(trials: Sequence[Trial], settings: Json, folder: Path, values: Mapping[str, Any]) -> list[Path]:
    """Write a manifest for each trial, ``<name>.yaml``; returns the files.

    settings: what was asked for instead of ``values``, which have all keys (``defaults``). Raises ``ConfigError``, also
    for a folder with other manifests: ``kubectl apply`` would take them along.
    """
    chosen = merged(settings, values)
    manifests = {folder / f"{name_of(trial)}.yaml": rayjob(trial, chosen) for trial in trials}
    others = sorted(set(folder.glob("*.yaml")) - set(manifests))
    if others:
        raise ConfigError(f"{folder} has other manifests, {others[0].name} for one; use an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for file, manifest in manifests.items():
        file.write_text(yaml.safe_dump(manifest, sort_keys=False, width=1000))
    return list(manifests)


def merged(settings: Mapping[str, Any], values: Mapping[str, Any]) -> Json:
    """``values`` with the ``settings`` in their place; raises ``ConfigError`` for one that is wrong or missing."""
    for key, given in settings.items():
        if key not in values:
            raise ConfigError(f"{PREFIX}{key}: unknown; there are {', '.join(values)}")
        wanted, types = KINDS[type(values[key])]
        if not isinstance(given, types) or isinstance(given, bool):
            raise ConfigError(f"{PREFIX}{key}={given}: expected {wanted}, such as {values[key]}")
    chosen = {
        key: {**default, **settings.get(key, {})} if isinstance(default, dict) else settings.get(key, default)
        for key, default in values.items()
    }
    for key in REQUIRED:
        if not chosen[key]:
            raise ConfigError(f"{PREFIX}{key} is missing; {VALUES} explains it")
    for name in chosen["env"]:
        if SECRETIVE.search(name):
            raise ConfigError(f"{PREFIX}env.{name}: a secret must not stand in a manifest; {PREFIX}secret=NAME")
    return chosen


def name_of(trial: Trial) -> str:
    """A DNS-1035 label, as KubeRay demands. One run has one name, so it is never applied twice side by side."""
    words = re.sub(r"[^a-z0-9]+", "-", f"run-{trial.name}".lower())
    tail = digest(os.path.relpath(trial.path, ROOT))[:8]
    return f"{words[: NAME_LENGTH - len(tail) - 1].strip('-')}-{tail}"


def rayjob(trial: Trial, values: Mapping[str, Any]) -> Json:
    """The manifest of one trial; ``values`` as of ``merged``. Raises ``ConfigError``."""
    labels = {"app.kubernetes.io/name": APP}
    if values["queue"]:
        labels["kueue.x-k8s.io/queue-name"] = str(values["queue"])
    spec: Json = {
        "entrypoint": shlex.join(["python", "-m", "harness.train", *trial.overrides, f"{ADDRESS}=auto"]),
        "submissionMode": SUBMISSION,
        "backoffLimit": int(values["retries"]),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": int(values["keep_seconds"]),
    }
    if values["hours"]:
        spec["activeDeadlineSeconds"] = round(values["hours"] * 3600)
    spec["rayClusterSpec"] = _cluster(trial, values)
    metadata = {
        "name": name_of(trial),
        "namespace": str(values["namespace"]),
        "labels": labels,
        "annotations": {f"{APP}/run": trial.name},
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _cluster(trial: Trial, values: Mapping[str, Any]) -> Json:
    """A head that trains as well, and a worker for each further node."""
    # KubeRay has Ray count what the pod gets; on CPU verl's ranks are logical GPUs and its actors logical cores.
    start = {} if trial.gpus else {"num-cpus": str(LOGICAL_CORES), "num-gpus": str(trial.ranks)}
    head = {
        # The operator asks the dashboard how the run is, from another pod; nobody does without the token, and neither
        # an ingress nor a node's port leads to it.
        "serviceType": "ClusterIP",
        "enableIngress": False,
        "rayStartParams": {"dashboard-host": "0.0.0.0", **start},
        "template": _pod("head", trial, values),
    }
    head["template"]["spec"]["containers"][0]["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
    ]
    # The operator makes a token for each cluster and keeps it in a Secret.
    cluster = {"rayVersion": str(values["ray_version"]), "authOptions": {"mode": "token"}, "headGroupSpec": head}
    if trial.nodes > 1:
        count = trial.nodes - 1
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": count,
                "minReplicas": count,
                "maxReplicas": count,
                "rayStartParams": {**start},
                "template": _pod("worker", trial, values),
            }
        ]
    return cluster


def _pod(role: str, trial: Trial, values: Mapping[str, Any]) -> Json:
    """The template of a node's pod."""
    memory = math.ceil(trial.memory_gb + values["spare_gb"])
    shm = {"medium": "Memory", "sizeLimit": f"{math.ceil(memory * values['shm_share'])}G"}
    spec: Json = {
        "restartPolicy": "Never",  # a process that comes back would join with nothing of its state
        "terminationGracePeriodSeconds": int(values["grace_seconds"]),
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": int(values["user"]),
            "runAsGroup": int(values["user"]),
            "fsGroup": int(values["user"]),
            "fsGroupChangePolicy": "OnRootMismatch",  # else every start walks through all checkpoints
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(role, trial, values, memory)],
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": str(values["claim"])}},
            {"name": "shm", "emptyDir": shm},
        ],
    }
    if values["pull_secret"]:
        spec["imagePullSecrets"] = [{"name": str(values["pull_secret"])}]
    if trial.gpus:
        spec["tolerations"] = [{"key": values["gpu_resource"], "operator": "Exists", "effect": "NoSchedule"}]
        if values["gpu_type"]:
            spec["nodeSelector"] = {values["gpu_label"]: str(values["gpu_type"])}
    return {"metadata": {"labels": {"app.kubernetes.io/part-of": APP}}, "spec": spec}


def _container(role: str, trial: Trial, values: Mapping[str, Any], memory: int) -> Json:
    """Ray's container; KubeRay writes its command. memory: GB."""
    gpus = trial.gpus // trial.nodes
    amounts = {"cpu": str(gpus * values["cpus_per_gpu"] if gpus else values["cpus"]), "memory": f"{memory}G"}
    if gpus:
        amounts |= {values["gpu_resource"]: str(gpus), **{name: str(n) for name, n in values["resources"].items()}}
    environment = {
        # KubeRay sets it too; one that is too old to know tokens now fails instead of running without.
        "RAY_AUTH_MODE": "token",
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS),
        **{name: str(value) for name, value in values["env"].items()},
    }
    workdir = PurePosixPath(values["workdir"])
    container: Json = {
        "name": f"ray-{role}",
        "image": str(values["image"]),
        "workingDir": str(workdir),
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        # SIGTERM comes after this, and Ray's processes die of it: until then the run has its checkpoint.
        "lifecycle": {"preStop": {"exec": {"command": ["python", "-m", "sweeps.stop", _run_path(trial, values)]}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            *(
                {"name": "claim", "mountPath": str(workdir / where), "subPath": folder}
                for folder, where in values["mounts"].items()
            ),
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    if values["secret"]:
        container["envFrom"] = [{"secretRef": {"name": str(values["secret"])}}]
    return container


def _run_path(trial: Trial, values: Mapping[str, Any]) -> str:
    """The run directory as the pods see it, which must be on the claim."""
    mounted = [ROOT / where for where in values["mounts"].values()]
    if not any(trial.path.is_relative_to(folder) for folder in mounted):
        raise ConfigError(
            f"{trial.path} would be lost with its pod: harness.root must be in a folder of the claim, "
            f"{', '.join(values['mounts'].values())} ({PREFIX}mounts)"
        )
    return str(PurePosixPath(values["workdir"]) / trial.path.relative_to(ROOT).as_posix())
