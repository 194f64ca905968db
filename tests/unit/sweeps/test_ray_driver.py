"""Where a Ray job finds its cluster; the way with a raylet is in tests/e2e/test_ray_jobs.py."""

import subprocess
import sys

from harness.paths import ROOT


def test_outside_a_ray_job_it_refuses_in_one_line_and_trains_nothing() -> None:
    command = [sys.executable, "-m", "sweeps.launchers.ray_driver", "experiment=tiny", "algo=gspo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no raylet above this process")
    assert done.stdout == ""
