"""Every command answers ``--help`` with what it is for and how it is typed, at once, and does nothing else."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Started by other programs, with arguments of theirs.
INTERNAL = {
    "harness.grading.worker", "harness.plugin.engine_rank", "harness.plugin.job", "harness.plugin.nodes",
    "harness.run.fork_client", "harness.run.prefork", "harness.passport.worker", "harness.run.ray_worker",
    "sweeps.launchers.ray_driver", "sweeps.launchers.slurm_job",
}  # fmt: skip


def commands() -> list[str]:
    """Modules that can be started, as ``python -m`` names them."""
    files = [file for top in ("harness", "sweeps", "analysis") for file in (ROOT / top).rglob("*.py")]
    started = [file for file in files if file.stem == "__main__" or '__name__ == "__main__"' in file.read_text()]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for file in started)
    return sorted(set(names) - INTERNAL)


def test_all_are_known() -> None:
    assert len(commands()) >= 15
    assert {"harness.train", "harness.doctor", "harness.estimate", "analysis", "sweeps"} <= set(commands())


@pytest.mark.parametrize("name", commands())
def test_help(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", name, "--help"],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "HARNESS_ASSETS": str(tmp_path)},
        cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"python -m {re.escape(name)}\b", done.stdout)
    assert "Traceback" not in done.stdout
    assert list(tmp_path.iterdir()) == []
