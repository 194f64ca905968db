"""What Ray's nodes start for a worker, with a package in Ray's place whose two scripts say how they were called."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray._private.runtime_env.context import RuntimeEnvContext
from ray._private.utils import update_envs

from harness.paths import ROOT
from harness.run import ray_worker

PARENT = "from harness.run import fork_server; import sys; print(fork_server.start(), flush=True); sys.stdin.read()"
SAYS = """
import json, os, sys
print(json.dumps({"script": "%s", "argv": sys.argv[1:], "env": dict(os.environ), "parent": os.getppid()}))
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
ME = ray_worker.__file__
ARGUMENTS = ["--node-ip-address=127.0.0.1", "--startup-token=3"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    workers = tmp_path / "ray" / "_private" / "workers"
    workers.mkdir(parents=True)
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('nothing may load Ray here')")
    for name in ("default_worker", "setup_worker"):
        (workers / f"{name}.py").write_text(SAYS % name)
    return tmp_path


def called(package: Path, *words: str, server: str = "", **env: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, ME, *words], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(package), ray_worker.SERVER: server, **env},
    )  # fmt: skip
    return json.loads(done.stdout)


def context(**more: Any) -> list[str]:
    """As the raylet writes it; Ray's own class makes the JSON."""
    return [f"--serialized-runtime-env-context={RuntimeEnvContext(**more).serialize()}", "--language=PYTHON"]


def test_a_worker_comes_from_the_server_with_the_runtime_environments_variables(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    assert parent.stdin
    assert parent.stdout
    address = parent.stdout.readline().strip()
    forking = psutil.Process(parent.pid).children()[0].pid
    variables = {"OMP_NUM_THREADS": "1", "LONGER": "${BASE}/more", "NONE": "a${NOT_THERE}b", "PLAIN": "$BASE"}
    said = called(package, ME, *ARGUMENTS, *context(env_vars=variables), server=address, BASE="base")
    parent.stdin.close()
    parent.wait(10)
    monkeypatch.setenv("BASE", "base")
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    update_envs(variables)  # Ray's
    assert {name: said["env"][name] for name in variables} == {name: os.environ[name] for name in variables}
    assert (said["script"], said["argv"], said["parent"]) == ("default_worker", ARGUMENTS, forking)


def test_a_worker_with_nothing_to_set_up(package: Path) -> None:
    """Ray leaves its own setup script out then, and calls the worker's; without a server it is a plain Python."""
    said = called(package, *ARGUMENTS)
    assert (said["script"], said["argv"], said["parent"]) == ("default_worker", ARGUMENTS, os.getpid())


@pytest.mark.parametrize(
    "words",
    [
        context(command_prefix=["nice"]),
        context(py_executable="/usr/bin/another-python"),
        context(override_worker_entrypoint="/container/default_worker.py"),
        [context()[0], "--language=JAVA"],
    ],
)
def test_what_is_no_plain_python_is_left_to_ray(package: Path, words: list[str]) -> None:
    said = called(package, ME, *ARGUMENTS, *words)
    worker = str(package / "ray" / "_private" / "workers" / "default_worker.py")
    assert (said["script"], sorted(said["argv"])) == ("setup_worker", sorted([*words, worker, *ARGUMENTS]))
