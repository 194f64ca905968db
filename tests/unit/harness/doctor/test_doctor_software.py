"""Versions and engines: what is installed, and whether it imports."""

import inspect
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from doctoring import Flat, cuda, only
from verl.workers.config import HFModelConfig

from harness.doctor import software
from harness.doctor.finding import Finding
from harness.doctor.software import engines, versions


def wrong_versions(monkeypatch: pytest.MonkeyPatch, **given: str | None) -> list[Finding]:
    true = metadata.version

    def version(name: str) -> str:
        found = given.get(name, "")
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found or true(name)

    monkeypatch.setattr(metadata, "version", version)
    return list(versions({}))


def test_packages_as_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    only(wrong_versions(monkeypatch, torch="2.13.0+cu130"), "ok")


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        ({"verl": "0.9.2"}, "failure", ("verl 0.9.2", "==0.9.1")),
        ({"torch": "2.14.0"}, "failure", ("torch 2.14.0", "<2.14")),
        ({"ray": None}, "failure", ("ray is not installed", "2.60")),
        ({"matplotlib": "3.0"}, "warning", ("matplotlib 3.0",)),  # the analysis' alone
    ],
)
def test_other_versions_are_named(
    given: dict[str, Any], level: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(wrong_versions(monkeypatch, **given), level, *words)


def test_another_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.platform, "python_version", lambda: "3.14.1")
    only(versions({}), "failure", "Python 3.14.1")


def test_engines_are_imported_where_they_are_used(tiny: Flat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(engines(tiny), "ok")
    monkeypatch.setattr(software.importlib.util, "find_spec", lambda _: None)
    only(engines(cuda(tiny)), "failure", "vllm", "not installed")
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "vllm.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    only(engines(cuda(tiny)), "failure", "vllm", "libcudart.so.13")
    (tmp_path / "vllm.py").write_text("import os; os.kill(os.getpid(), 11)")
    only(engines(cuda(tiny)), "failure", "signal 11")


def test_flash_attention_is_asked_for_where_verl_takes_it(tiny: Flat) -> None:
    on_cuda = tiny | {"trainer.device": "cuda"}
    only(engines(on_cuda), "ok")  # tiny names another
    unnamed = {key: value for key, value in on_cuda.items() if key != software.ATTENTION}
    assert software.FLASH_ATTN in only(engines(unnamed), "failure", "flash_attn", "not installed").remedy
    only(engines(unnamed | {"trainer.device": "cpu"}), "ok")
    assert f'"attn_implementation", "{software.DEFAULT_ATTENTION}"' in inspect.getsource(HFModelConfig)
