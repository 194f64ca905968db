"""Would a run start here? Every bad case is made for real: a missing file, a full disk, a node that shares nothing."""

import subprocess
import sys

import pytest
from doctoring import Flat

from harness.config import ConfigError
from harness.doctor import checkup
from harness.doctor.finding import Finding, failure, findings, ok
from harness.paths import ROOT


def test_tiny_would_start_here_and_every_check_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert checkup.main(["experiment=tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert not any("\x1b" in line for line in lines)
    assert set(checkup.checks()) <= {line.split()[1] for line in lines if line.startswith(("ok", "warning"))}
    assert not any(line.startswith("failure") for line in lines)


def test_a_configuration_that_cannot_be_composed_is_a_line_and_not_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert checkup.main(["experiment=qqq"]) == 1
    out = capsys.readouterr().out
    assert "failure settings" in out
    assert "experiment=qqq: no such experiment; there are" in " ".join(out.split())
    assert "text_dense_1gpu" in out
    assert "search path" not in out
    assert "versions" in out  # what needs no configuration is still checked


def test_a_missing_package_is_a_line_too() -> None:
    code = "import sys; sys.modules['hydra'] = None; from harness.doctor.checkup import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "hydra" in done.stdout
    assert "make -B setup" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on(
    tiny: Flat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Flat) -> list[Finding]:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(checkup, "composed", lambda _: tiny)
    monkeypatch.setattr(checkup, "checks", lambda: {"odd": broken, "even": lambda _: [ok("fine")]})
    assert checkup.main([]) == 1
    out = capsys.readouterr().out
    assert "RuntimeError: first line" in out
    assert "second line" not in out
    assert "fine" in out


def test_a_config_error_is_said_in_its_own_words(tiny: Flat) -> None:
    def refuse(_: Flat) -> list[Finding]:
        raise ConfigError("a is wrong; set b")

    assert findings(refuse, tiny) == [failure("a is wrong; set b")]
