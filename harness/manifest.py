"""What is written down about a run before it starts: its settings by kind, versions, commit and machine."""

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from harness.config import ConfigError, digest, matching
from harness.doctor.rules import ACTOR
from harness.grading import mathematics
from harness.losses.registry import spec_of
from harness.paths import CLAIMS, ROOT
from harness.rundir import CODE, RunDir, content_hash

PACKAGES = ("verl", "torch", "ray", "transformers", "tensordict", "TransferQueue", "hydra-core", "pandas", "numpy")
ENGINES = ("vllm", "sglang")  # recorded where they are installed


def describe(
    flat: dict[str, Any], built: dict[str, Any], kinds: matching.Kinds, arm: str, overrides: list[str]
) -> dict[str, Any]:
    """The content of ``manifest.json``. flat, built: the resolved configuration before and after assets are built."""
    return {
        "experiment": flat["harness.experiment"] + flat["harness.suffix"],
        "arm": arm,
        "arm_id": digest(arm)[:8],
        "algo": flat["harness.algo"],
        "clip": flat["harness.clip"],
        "seed": flat["seed"],
        "loss": spec_of(built[f"{ACTOR}.policy_loss.loss_mode"]).described(built[f"{ACTOR}.loss_agg_mode"]),
        "fingerprint": kinds.fingerprint,
        "treatment": kinds.treatment,
        "controlled": kinds.controlled,
        "execution": kinds.execution,
        "planned_steps": flat[matching.STEPS],
        "overrides": overrides,
        "created": time.time(),
        "versions": {name: metadata.version(name) for name in PACKAGES}
        | _installed(ENGINES)
        | mathematics.versions()
        | {"python": platform.python_version()},
        "commit": commit(),
        "claims": hash_of_claims(flat.get("harness.claims")),
        "hardware": hardware(),
    }


def loss_module(built: dict[str, Any]) -> str:
    """The module of the run's loss if it is one of ours, or of the user's; nothing for verl's."""
    function = spec_of(built[f"{ACTOR}.policy_loss.loss_mode"]).function
    return function.__module__ if function else ""


def refuse_other_settings(run: RunDir, manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest that is there; ``ConfigError`` with the keys that differ if it was made by other settings."""
    old = run.manifest()
    changed: dict[str, tuple[Any, Any]] = {}
    for kind in ("treatment", "controlled"):
        changed |= matching.differences(old[kind], manifest[kind])
    if changed:
        files = {key: _changed_files(old, manifest, key) for key in changed}
        shown = "; ".join(f"{key}{files[key]}: {a} there, {b} now" for key, (a, b) in list(changed.items())[:8])
        raise ConfigError(f"{run.path} was made with other settings ({shown}); use another harness.root or move it")
    return old


def hash_of_claims(file: str | None = None) -> str | None:
    """The hash of the rules that decide claims, as they stand when the run starts: of ``file``, else of the paper's.

    None where the paper's file is not there. Raises ``ConfigError`` for another one that is not.
    """
    if not file:
        return content_hash(CLAIMS) if CLAIMS.exists() else None
    if not Path(file).is_file():
        raise ConfigError(f"harness.claims={file}: no such file; give the path of a file of claims (docs/claims.md)")
    return content_hash(Path(file))


def _changed_files(old: dict[str, Any], new: dict[str, Any], key: str) -> str:
    """The source files in which a hash of code differs, in brackets; nothing for other keys."""
    part = key.removeprefix(CODE)
    a, b = (manifest.get("code", {}).get(part, {}) for manifest in (old, new))
    changed = matching.differences(a, b) if key.startswith(CODE) else {}
    return f" ({', '.join(changed)} changed)" if changed else ""


def _installed(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """What this machine is, without its name: processor, cores, memory in GiB."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"processor": model, "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30)}


def commit() -> str | None:
    """The checkout's git commit, with a + if files differ from it; None outside git, or where git is not installed."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return described.stdout.strip() or None
