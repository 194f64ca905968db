"""What a manifest says of where a run was made."""

import subprocess

from harness import manifest
from harness.paths import ROOT


def test_the_commit_is_git_s_and_none_without_git(monkeypatch, tmp_path) -> None:
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    found = manifest.commit()
    assert (found or "").rstrip("+") == said.stdout.strip()[:12]
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is installed there
    assert manifest.commit() is None
