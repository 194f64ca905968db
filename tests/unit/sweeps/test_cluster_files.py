"""The files of sweeps/cluster: the image has what is pinned and no secrets, and the Slurm script does as it says."""

import os
import re
import shlex
import signal
import subprocess
import sys
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
        "open-mode": "append", "output": "%x-%j.out", "signal": "USR2@900",
    }  # fmt: skip
    text = SCRIPT.read_text()
    assert text.rindex("#SBATCH") < text.index("cd ")  # later ones would be ignored
    (grace,) = re.findall(r"harness\.watch\.grace_seconds=(\d+)", text)
    assert int(grace) < 900


STUBS = {
    # Trains: says how, counts the signals that ask it to end, and ends as it is told.
    "bin/python": """
        cp "$RAY_AUTH_TOKEN_PATH" "$LOG/token" 2> /dev/null; env > "$LOG/env"
        trap 'echo TERM >> "$LOG/terms"' TERM
        echo "$@" > "$LOG/draft"; mv "$LOG/draft" "$LOG/train"
        until [[ -e $LOG/finish ]]; do /bin/sleep 0.02; done
        exit "$(cat "$LOG/finish")" """,
    "bin/ray": """
        [[ $* == *--head* ]] && me=head || me=worker
        trap 'echo ended > "$LOG/$me-ended"; exit' TERM
        stat -c %a "$RAY_AUTH_TOKEN_PATH" > "$LOG/mode"
        echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH" "$@" > "$LOG/$me"
        while :; do /bin/sleep 0.02; done""",
    # Starts a task for each node, as Slurm does with --ntasks-per-node=1.
    "path/srun": """
        echo "$@" > "$LOG/srun"
        while [[ $1 == --* ]]; do shift; done
        for ((rank = 1; rank < SLURM_JOB_NUM_NODES; rank++)); do SLURM_PROCID=$rank "$@" & done
        SLURM_PROCID=0 exec "$@" """,
    "path/scontrol": 'echo "$@" >> "$LOG/scontrol"',
}
# The command line of slurm_job with stand-ins for what it starts, and without a Ray whose nodes it would count.
TASK = """#!{python}
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from sweeps.launchers import slurm_job
def wait(address, nodes, seconds):
    Path(os.environ["LOG"], "wait").write_text(f"{{address}} {{nodes}} {{seconds:g}}")
    if os.environ.get("NODES_COME") == "no":
        raise TimeoutError("1 of 2 nodes joined Ray")
slurm_job.wait_for_nodes, slurm_job.POLL_SECONDS = wait, 0.01
sys.executable = os.environ["LOG"] + "/bin/python"
assert sys.argv[1:3] == ["-m", "sweeps.launchers.slurm_job"]
sys.exit(slurm_job.main(sys.argv[3:]))
"""
Job = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Starts the script as Slurm would, on two nodes, among programs that only write down what they were asked."""
    for name, script in STUBS.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{script}\n")
        file.chmod(0o755)
    task = tmp_path / "task"
    task.write_text(TASK.format(python=sys.executable, root=str(ROOT)))
    task.chmod(0o755)
    started = []

    def start(*overrides: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ, "PATH": f"{tmp_path}/path:{os.environ['PATH']}", "PYTHON": str(task), "LOG": str(tmp_path),
            "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "96", **variables,
        }  # fmt: skip
        nodes = f"trainer.nnodes={variables.get('SLURM_JOB_NUM_NODES', '2')}"
        command = ["bash", str(SCRIPT), "algo=luspo", nodes, f"harness.root={tmp_path}/runs", *overrides]
        with (tmp_path / "out").open("wb") as out:
            started.append(
                subprocess.Popen(command, env=environment, start_new_session=True, stdout=out, stderr=subprocess.STDOUT)
            )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def written(file: Path) -> str:
    """What a stub has written, once it has."""
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end, f"{file.name} was not written"
        time.sleep(0.02)
    return file.read_text().strip()


def test_job_trains_on_a_ray_of_its_own(job: Job, tmp_path: Path) -> None:
    process = job("trainer.n_gpus_per_node=2", "trainer.project_name='x y'")
    train = written(tmp_path / "train")
    address = written(tmp_path / "wait").split()[0]
    assert re.fullmatch(r"[\d.]+:\d+", address)
    assert written(tmp_path / "wait") == f"{address} 2 900"
    assert train == (
        f"-m harness.train harness.watch.grace_seconds=840 algo=luspo trainer.nnodes=2 harness.root={tmp_path}/runs "
        f"trainer.n_gpus_per_node=2 trainer.project_name='x y' ray_kwargs.ray_init.address={address}"
    )
    (token,) = tmp_path.glob("runs/tiny/*/seed=0/launcher/7.0.token")
    assert re.fullmatch("[0-9a-f]{64}", (tmp_path / "token").read_text())
    assert written(tmp_path / "mode") == "600"
    assert (tmp_path / "token").read_text() not in (tmp_path / "env").read_text()
    host, port = address.split(":")
    count = "--num-gpus=2 --num-cpus=16"  # on CPU verl's ranks are logical GPUs
    assert written(tmp_path / "head") == (
        f"token {token} start --block --disable-usage-stats --head --port {port} --node-ip-address {host} "
        f"--include-dashboard=false {count}"
    )
    assert written(tmp_path / "worker") == (
        f"token {token} start --block --disable-usage-stats --address {address} {count}"
    )
    assert written(tmp_path / "srun").startswith("--kill-on-bad-exit=1 --cpus-per-task=96 ")
    (tmp_path / "finish").write_text("0")
    assert process.wait(60) == 0
    assert (tmp_path / "head-ended").exists()
    assert written(tmp_path / "worker-ended") == "ended"
    assert not token.exists()
    assert not (tmp_path / "scontrol").exists()
    assert f"the run's output: {token.parents[1]}/launch.log" in (tmp_path / "out").read_text()


def test_job_on_one_node_needs_no_ray_of_its_own(job: Job, tmp_path: Path) -> None:
    process = job(SLURM_JOB_NUM_NODES="1")
    (tmp_path / "finish").write_text("1")
    assert process.wait(60) == 1
    assert "ray_init" not in written(tmp_path / "train")
    assert not (tmp_path / "head").exists()
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "trainer.nnodes=4",
            "needs 4 nodes (trainer.nnodes) and this job has 2; submit it with sbatch --nodes=4",
        ),
        ("algo=gpso", "gpso"),
    ],
)
def test_job_that_cannot_be_right_ends_in_one_line(job: Job, tmp_path: Path, override: str, said: str) -> None:
    assert job(override).wait(60) == 2
    (line,) = [line for line in (tmp_path / "out").read_text().splitlines() if line.startswith("error: ")]
    assert said in line
    assert not (tmp_path / "runs").exists()


def test_job_ends_where_nodes_do_not_come(job: Job, tmp_path: Path) -> None:
    assert job("--start-seconds=5", NODES_COME="no").wait(60) == 1
    assert written(tmp_path / "wait").endswith(" 5")
    assert "error: 1 of 2 nodes joined Ray" in (tmp_path / "out").read_text()
    assert not (tmp_path / "train").exists()
    assert not list(tmp_path.rglob("*.token"))


def test_warned_job_is_queued_again(job: Job, tmp_path: Path) -> None:
    process = job()
    written(tmp_path / "train")
    for _ in range(3):  # of the time limit, and of a preemption after it
        process.send_signal(signal.SIGUSR2)
        written(tmp_path / "terms")
        time.sleep(0.1)
    assert (tmp_path / "terms").read_text().split() == ["TERM"]
    (tmp_path / "finish").write_text("75")
    assert process.wait(60) == 75
    assert (tmp_path / "scontrol").read_text().strip() == "requeue 7"


@pytest.mark.parametrize("status", ["75", "130"])
def test_cancelled_job_is_not(job: Job, tmp_path: Path, status: str) -> None:
    process = job()
    written(tmp_path / "train")
    process.send_signal(signal.SIGTERM)
    written(tmp_path / "terms")
    (tmp_path / "finish").write_text(status)
    assert process.wait(60) == int(status)
    assert not (tmp_path / "scontrol").exists()
