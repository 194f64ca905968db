"""Checks of what is installed: versions against the pins of pyproject.toml, and whether the engines import."""

import importlib.util
import platform
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from harness.doctor.finding import Finding, Flat, failure, ok, warning
from harness.paths import ROOT

ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
DEFAULT_ATTENTION = "flash_attention_2"  # verl's HFModelConfig
PYPROJECT = ROOT / "pyproject.toml"
IMPORT_SECONDS = 300
SETUP = "`make -B setup` (without -B make sees nothing to do)"
GPU_SETUP = "`.venv/bin/pip install -e '.[gpu]'`, which brings vLLM and a CUDA build of torch"
FLASH_ATTN = "flash-attn==2.8.3"  # as in sweeps/cluster/Dockerfile
FLASH_SETUP = (
    f"`.venv/bin/pip install --no-build-isolation {FLASH_ATTN}` after `.[gpu]` and where CUDA's compiler is (it has no "
    f"build for this torch, and does not compile with torch 2.13); or without it +{ATTENTION}=sdpa "
    "harness.sequence_parallel_size=1, slower"
)
MEGATRON_SETUP = (
    "Megatron-Core and Megatron-Bridge, which https://verl.readthedocs.io/en/latest/start/install.html installs"
)


def versions(flat: Flat) -> Iterator[Finding]:
    """Python and packages against pyproject.toml; a fault in what only the analysis needs is a warning."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    python = platform.python_version()
    wrong = []
    pin = project["requires-python"]
    if python not in SpecifierSet(pin):
        wrong.append(
            failure(
                f"Python {python}, pinned to {pin}", f"`rm -r .venv`, then `make setup PYTHON=...` with a Python {pin}"
            )
        )
    groups = {warning: project["dependencies"], failure: project["optional-dependencies"]["train"]}
    for other, lines in groups.items():
        for line in lines:
            requirement = Requirement(line)
            there = installed(requirement.name)
            if there is None:
                wrong.append(other(f"{requirement.name} is not installed, pinned to {requirement.specifier}", SETUP))
            elif not requirement.specifier.contains(there, prereleases=True):
                wrong.append(other(f"{requirement.name} {there}, pinned to {requirement.specifier}", SETUP))
    yield from wrong or [ok(f"Python {python} and {sum(map(len, groups.values()))} packages as pinned")]


def training_packages() -> list[str]:
    """Names of the packages without which nothing trains, vLLM among them where it is installed here."""
    lines = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["train"]
    return [Requirement(line).name for line in lines] + (["vllm"] if installed("vllm") else [])


def installed(name: str) -> str | None:
    """Version of a package, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def engines(flat: Flat) -> Iterator[Finding]:
    """vLLM, FlashAttention and Megatron, where the run uses them, imported in a process of their own: they are heavy
    and may crash."""
    wanted = []
    if flat["actor_rollout_ref.rollout.name"] == "vllm":
        wanted.append(("vllm", GPU_SETUP))
    megatron = flat["actor_rollout_ref.actor.strategy"] == "megatron"
    flash = flat.get(ATTENTION, DEFAULT_ATTENTION) == DEFAULT_ATTENTION
    if flat["trainer.device"] == "cuda" and flash and not megatron:
        wanted.append(("flash_attn", FLASH_SETUP))
    if megatron:
        old = flat.get("actor_rollout_ref.actor.megatron.vanilla_mbridge")
        wanted += [("megatron.core", MEGATRON_SETUP), ("mbridge" if old else "megatron.bridge", MEGATRON_SETUP)]
    for module, remedy in wanted:
        reason = import_failure(module)
        yield failure(f"{module}: {reason}", remedy) if reason else ok(f"{module} imports")
    if not wanted:
        yield ok(f"rollout.name={flat['actor_rollout_ref.rollout.name']} needs no further engine")
    elif wanted[0][0] == "vllm" and (there := installed("vllm")) and not vllm_pin().contains(there, prereleases=True):
        yield failure(f"vllm {there}, verl pins it to {vllm_pin()}", GPU_SETUP)


def vllm_pin() -> SpecifierSet:
    """The versions of vLLM that the installed verl asks for."""
    for requirement in map(Requirement, metadata.requires("verl") or []):
        if requirement.name == "vllm" and requirement.marker and requirement.marker.evaluate({"extra": "vllm"}):
            return requirement.specifier
    return SpecifierSet()


def import_failure(module: str) -> str | None:
    """Why a fresh Python cannot import ``module``, None if it can."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return "not installed"
    command = [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"the import takes longer than {IMPORT_SECONDS} s"
    if done.returncode < 0:
        return f"the import ends with signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"status {done.returncode}") if done.returncode else None
