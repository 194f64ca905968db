"""A standing Ray cluster: two runs queued on it, one after the other, and a third one refused while one is there."""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from e2e.launching import ROOT, command, run_dir

from harness.run.process import end_session, session_processes

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("ray_jobs")]  # one cluster for all
SETTINGS = {"trainer.total_training_steps": 3, "trainer.val_before_train": False, "trainer.test_freq": -1}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """(session, address, dashboard, environment) of a Ray head with one logical GPU, for holders of its token only.

    Beside it a second Ray that was started later, which is what Ray's own ``auto`` would join.
    """
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    port, dashboard, later = _free_port(), _free_port(), _free_port()
    resources = ["--num-gpus=1", "--num-cpus=16", f"--dashboard-port={dashboard}"]
    with (
        ray_head(port, dashboard, environment, *resources) as session,
        ray_head(later, later, environment, "--num-cpus=1", "--include-dashboard=false"),
    ):
        yield session, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment


@contextlib.contextmanager
def ray_head(port: int, answers: int, environment: dict[str, str], *more: str):
    """``ray start --head`` in a session of its own, which is ended afterwards; yields the session once the port
    ``answers`` does."""
    start = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    agent = _free_port()  # its own number is another Ray's on this machine
    ports = [f"--port={port}", f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats"]
    process = subprocess.Popen(
        [*start, *ports, *more],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(answers, process)
        yield process.pid
    finally:
        end_session(process.pid)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port: int, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.time() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, "ray start ended"
        assert time.time() < end, f"nothing at port {port} in time"
        time.sleep(0.5)


def sweep_file(root: Path) -> Path:
    file = root / "queued.yaml"
    grid = {"experiment": ["tiny"], "algo": ["gspo", "luspo"], "seed": [70]}
    file.write_text(yaml.safe_dump({"grid": grid, "set": {**SETTINGS, "harness.root": str(root)}}))
    return file


def test_two_runs_queue_and_a_foreign_one_is_refused(cluster, tmp_path):
    session, address, dashboard, environment = cluster
    sweep = [sys.executable, "-m", "sweeps"]
    where = ["hydra/launcher=ray_jobs", f"hydra.launcher.clusters=[{dashboard}]"]
    file = str(sweep_file(tmp_path))
    controller = subprocess.Popen(
        [*sweep, "run", file, *where],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    first = run_dir(tmp_path, "gspo", 70)
    end = time.time() + 300
    while not (first.path / "status.json").exists() or first.last_step() < 1:
        assert time.time() < end, "the first run did not start"
        assert controller.poll() is None, controller.communicate()
        time.sleep(0.5)
    worker = next(p for p in session_processes(session) if "ray::WorkerDict" in " ".join(p.cmdline()))
    worker.suspend()  # so that the first run is still there
    other = subprocess.run(
        command(tmp_path / "other", "algo=grpo", "seed=71", *(f"{k}={v}" for k, v in SETTINGS.items()),
                f"ray_kwargs.ray_init.address={address}"),
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    worker.resume()
    assert other.returncode == 1
    assert "another verl job runs on this Ray cluster" in other.stderr
    said, _ = controller.communicate(timeout=600)
    assert controller.returncode == 0, said
    runs = [run_dir(tmp_path, algo, 70) for algo in ("gspo", "luspo")]
    outcomes = [run.outcomes() for run in runs]
    assert [len(o) for o in outcomes] == [1, 1]
    (a,), (b,) = outcomes
    assert a["ended"] <= b["began"] or b["ended"] <= a["began"]  # never at once
    assert len({run.manifest()["step1_responses"] for run in runs}) == 1
    table = subprocess.run([*sweep, "status", file], cwd=ROOT, capture_output=True, text=True, check=True)
    assert table.stdout.count("done") >= 2
    assert "3/3" in table.stdout


def test_nobody_without_the_token(cluster):
    """Neither the job interface nor Ray itself answers who does not hold it."""
    _, address, dashboard, environment = cluster
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=30)
    assert refused.value.code in (401, 403)
    stranger = {key: value for key, value in environment.items() if not key.startswith("RAY_AUTH")}
    joined = subprocess.run(
        [sys.executable, "-c", f"import ray; ray.init('{address}'); print('joined')"],
        env={**stranger, "RAY_AUTH_MODE": "disabled"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert joined.returncode != 0
    assert "joined" not in joined.stdout
