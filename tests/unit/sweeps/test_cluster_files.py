"""The files of sweeps/cluster: the image has what is pinned and no secrets, and the Slurm script does as it says."""

import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.doctor.software import FLASH_ATTN
from harness.paths import ROOT
from sweeps.launchers.kubernetes import SECRETIVE, defaults

CLUSTER = ROOT / "sweeps" / "cluster"
SCRIPT = CLUSTER / "run.sbatch"


def pinned() -> dict[str, str]:
    """{package: version} of the image's requirements; each line is a pin."""
    lines = [line for line in (CLUSTER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs)
    return {canonicalize_name(name): version for name, version in pairs}


def test_requirements_are_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = pinned()
    wanted = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["train"])]
    wrong = [f"{r}, not {versions.get(r.name)}" for r in wanted if not admits(r, versions)]
    assert not wrong


def test_requirements_are_what_verl_pins_with_vllm() -> None:
    versions = pinned()
    assert versions["verl"] == metadata.version("verl")
    lines = [Requirement(line) for line in metadata.requires("verl") or [] if 'extra == "vllm"' in line]
    assert {"vllm", "torch", "transformers"} <= {line.name for line in lines}
    assert not [str(line) for line in lines if not admits(line, versions)]


def admits(requirement: Requirement, versions: dict[str, str]) -> bool:
    version = versions.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of the Dockerfile, continued lines joined."""
    text = "\n".join(line for line in (CLUSTER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def test_image() -> None:
    found = instructions()
    (base,) = [rest for name, rest in found if name == "FROM"]
    assert re.fullmatch(r"nvidia/cuda:13\.0\.\d+-devel-ubuntu24\.04", base)  # torch 2.11's wheels are for CUDA 13.0
    assert pinned()["nvidia-cuda-runtime"].startswith("13.0.")
    users = [rest for name, rest in found if name == "USER"]
    assert users == [f"{defaults()['user']}:{defaults()['user']}"]
    assert found.index(("USER", users[0])) > max(i for i, (name, _) in enumerate(found) if name in ("RUN", "COPY"))
    assert ("WORKDIR", defaults()["workdir"]) in found
    assert pinned()["ray"] == defaults()["ray_version"]
    commands = [rest for name, rest in found if name == "RUN"]
    assert any("--requirement sweeps/cluster/requirements.txt" in rest for rest in commands)
    assert any("--editable '.[gpu]'" in rest for rest in commands)
    named = [word for rest in commands for word in shlex.split(rest) if word.startswith("flash-attn")]
    assert named == [FLASH_ATTN]
    settings = [rest.partition("=")[0] for name, rest in found if name in ("ARG", "ENV")]
    assert not [name for name in settings if SECRETIVE.search(name)]
    assert not any(name == "ADD" or "--mount=type=secret" in rest for name, rest in found)


def test_image_holds_the_program_alone() -> None:
    lines = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / path).exists() for path in admitted)
    assert not any(path.startswith((".git", "results/runs", "results/assets", ".venv", "wandb")) for path in admitted)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {package.split(".")[0] for package in packages} | {"conf", "pyproject.toml"} <= set(admitted)


def directives() -> dict[str, str]:
    lines = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    return dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups(default="") for line in lines)  # type: ignore[union-attr]


def test_directives() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    found = directives()
    sizes = {key: int(found.pop(key)) for key in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task")}
    assert sizes == {"nodes": 4, "ntasks-per-node": 1, "gpus-per-node": 8, "cpus-per-task": 96}  # experiment=text_moe
    assert found == {
        "job-name": "rlvr-length", "mem": "0", "exclusive": "", "time": "24:00:00", "requeue": "",
        "open-mode": "append", "output": "%x-%j.out", "signal": "B:USR1@900",
    }  # fmt: skip
    text = SCRIPT.read_text()
    assert text.index("#SBATCH") < text.index("set -euo pipefail")  # later ones would be ignored
    (grace,) = re.findall(r"harness\.watch\.grace_seconds=(\d+)", text)
    assert int(grace) < 900


STUBS = {
    # Makes the token, finds ports, waits for the nodes, trains.
    "bin/python": """
        case "$1:$#" in
          -c:*) echo -n token-of-this-job ;;
          -:1) cat > /dev/null; echo 10.0.0.1 1001 1002 1003 ;;
          -:*) cat > /dev/null; echo "$@" > "$LOG/wait"; exit "${WAIT_STATUS:-0}" ;;
          *) stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$LOG/mode"; cp "$RAY_AUTH_TOKEN_PATH" "$LOG/token"; env > "$LOG/env"
             trap 'echo TERM >> "$LOG/terms"' TERM
             echo "$@" > "$LOG/draft"; mv "$LOG/draft" "$LOG/train"
             until [[ -e $LOG/finish ]]; do /bin/sleep 0.02; done
             exit "$(cat "$LOG/finish")" ;;
        esac""",
    "bin/ray": """
        [[ $* == *--head* ]] && me=head || me=worker
        trap 'echo ended > "$LOG/$me-ended"; exit' TERM
        echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH" "$@" > "$LOG/$me"
        while :; do /bin/sleep 0.02; done""",
    "path/srun": """
        echo "$@" > "$LOG/srun"
        until [[ $1 == */ray ]]; do shift; done
        exec "$@" """,
    "path/scontrol": 'echo "$@" >> "$LOG/scontrol"',
    "path/sleep": 'echo "$@" >> "$LOG/sleep"',
}
Job = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Starts the script as Slurm would, on two nodes, among programs that only write down what they were asked."""
    for name, script in STUBS.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)
    started = []

    def start(*overrides: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{tmp_path}/path:{os.environ['PATH']}", "BIN": f"{tmp_path}/bin", "LOG": str(tmp_path),
            "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "96", "SLURM_GPUS_ON_NODE": "8", **variables,
        }  # fmt: skip
        started.append(subprocess.Popen(["bash", str(SCRIPT), *overrides], env=environment, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def written(file: Path) -> str:
    """What a stub has written, once it has."""
    end = time.monotonic() + 20
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end, f"{file.name} was not written"
        time.sleep(0.02)
    return file.read_text().strip()


def test_job_trains_on_a_ray_of_its_own(job: Job, tmp_path: Path) -> None:
    process = job("algo=luspo", "a='x y'")
    train = written(tmp_path / "train")
    assert train == (
        "-m harness.train harness.watch.grace_seconds=840 algo=luspo a='x y' ray_kwargs.ray_init.address=10.0.0.1:1001"
    )
    token = tmp_path / "results/runs/.ray-7.token"
    assert (tmp_path / "token").read_text() == "token-of-this-job"
    assert (tmp_path / "mode").read_text().strip() == "600"
    assert "token-of-this-job" not in (tmp_path / "env").read_text()
    assert written(tmp_path / "head") == (
        f"token {token} start --block --disable-usage-stats --head --node-ip-address=10.0.0.1 --port=1001 "
        "--ray-client-server-port=1002 --dashboard-agent-listen-port=1003 --include-dashboard=false"
    )
    assert written(tmp_path / "worker") == f"token {token} start --block --disable-usage-stats --address=10.0.0.1:1001"
    assert written(tmp_path / "srun").startswith("--nodes=1 --ntasks=1 --relative=1 --cpus-per-task=96 ")
    assert written(tmp_path / "wait") == "- 10.0.0.1:1001 2 900"
    (tmp_path / "finish").write_text("0")
    assert process.wait(20) == 0
    assert (tmp_path / "head-ended").exists()
    assert (tmp_path / "worker-ended").exists()
    assert not token.exists()
    assert not (tmp_path / "scontrol").exists()


def test_job_on_one_node_without_gpus(job: Job, tmp_path: Path) -> None:
    process = job(SLURM_JOB_NUM_NODES="1", SLURM_GPUS_ON_NODE="0")
    (tmp_path / "finish").write_text("1")
    assert process.wait(20) == 1
    assert "--num-gpus=1 --num-cpus=16" in written(tmp_path / "head")
    assert not (tmp_path / "srun").exists()
    assert not (tmp_path / "scontrol").exists()


def test_job_ends_where_nodes_do_not_come(job: Job, tmp_path: Path) -> None:
    assert job(WAIT_STATUS="1", START_SECONDS="5").wait(20) == 1
    assert written(tmp_path / "wait").endswith(" 5")
    assert not (tmp_path / "train").exists()
    assert not (tmp_path / "results/runs/.ray-7.token").exists()


def test_warned_job_is_queued_again(job: Job, tmp_path: Path) -> None:
    process = job()
    written(tmp_path / "train")
    for _ in range(3):  # of the time limit, and of a preemption after it
        process.send_signal(signal.SIGUSR1)
        written(tmp_path / "terms")
        time.sleep(0.1)
    assert (tmp_path / "terms").read_text().split() == ["TERM"]
    (tmp_path / "finish").write_text("75")
    assert process.wait(20) == 75
    assert (tmp_path / "scontrol").read_text().strip() == "requeue 7"


@pytest.mark.parametrize("status", ["75", "130"])
def test_cancelled_job_is_not(job: Job, tmp_path: Path, status: str) -> None:
    process = job()
    written(tmp_path / "train")
    process.send_signal(signal.SIGTERM)
    written(tmp_path / "terms")
    (tmp_path / "finish").write_text(status)
    assert process.wait(20) == int(status)
    assert not (tmp_path / "scontrol").exists()
