"""What ``harness.train`` writes down about where a run was made."""

import subprocess

from harness import train
from harness.paths import ROOT


def test_the_commit_is_git_s_and_none_without_git(monkeypatch, tmp_path) -> None:
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = train._commit()
    assert (found or "").rstrip("+") == said.stdout.strip()[:12]
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is installed there
    assert train._commit() is None
