"""What `pip install .` says: the settings and sweeps are files of the checkout, which no wheel carries."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_wheel_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "runs from its checkout: type `make setup` there" in done.stdout + done.stderr
    assert list(tmp_path.glob("*.whl")) == []
