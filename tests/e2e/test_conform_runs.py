"""Broken losses, planted past the start-up probe, are told from the recorded runs; harmless changes are not.

Each case is what ``make conform`` does with one loss: three runs of 20 steps, and the check against the envelope that
comes with the project.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.launching import ROOT, command

pytestmark = pytest.mark.slow  # 22 runs
EXTERNAL = "actor_rollout_ref.model.external_lib=planted_losses"
ENVIRONMENT = "+ray_kwargs.ray_init.runtime_env.env_vars.PLANTED"
MICRO = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"


def conform(root: Path, *words: str, varies: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Train with the settings of ``make conform``, then check; returns the check's process with all its output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    trained = subprocess.run(
        command(root, "sweep=conform", *words, multirun=True),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stdout
    declared = [word for key in varies for word in ("--varies", key)]
    return subprocess.run(
        [sys.executable, "-m", "analysis", "conform", "check", str(root), *declared],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("algo", "fault"),
    [
        ("gspo", "wrong_side"),
        ("gspo", "missing_detach"),
        ("gspo", "micro_batch"),
        ("grpo", "padded_width"),
        ("grpo", "sign"),
    ],
)
def test_a_broken_loss_is_told(tmp_path: Path, algo: str, fault: str) -> None:
    done = conform(tmp_path, f"algo={algo}", EXTERNAL, f"{ENVIRONMENT}={fault}")
    assert done.returncode == 1, done.stdout
    assert f"{algo}: LEARNS SOMETHING ELSE" in done.stdout


def test_equal_mathematics_in_another_order_passes(tmp_path: Path) -> None:
    done = conform(tmp_path, "algo=gspo", EXTERNAL, f"{ENVIRONMENT}=reordered")
    assert done.returncode == 0, done.stdout
    assert "gspo: learns the same" in done.stdout


def test_other_micro_batches_pass(tmp_path: Path) -> None:
    done = conform(tmp_path, "algo=gspo", f"{MICRO}=8", varies=("actor_rollout_ref",))
    assert done.returncode == 0, done.stdout
    assert "gspo: learns the same" in done.stdout


def test_a_recorded_seed_is_the_same_run_where_versions_and_processor_are(tmp_path: Path) -> None:
    done = conform(tmp_path, "algo=gspo", "seed=0")
    assert done.returncode == 0, done.stdout
    assert "gspo: seed 0 is the recorded run" in done.stdout or "was recorded with others" in done.stdout
