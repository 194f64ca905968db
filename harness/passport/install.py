"""Where a framework's version is on this machine, and how it comes there: a wheel by pip, or a checkout by git."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from harness.passport.update import LossError
from harness.paths import ROOT

FOLDER = ROOT / "build" / "passport"  # of frameworks that --install put there, one folder a version
# What pip installs beside them; all else that they import is in this environment already, because of verl.
BESIDE = {
    "trl 0": ("transformers==4.57.1", "huggingface-hub==0.36.0", "tokenizers==0.22.1", "datasets==4.4.1"),
    "skyrl": ("loguru==0.7.3",),
}
# Frameworks that PyPI does not have: repository, and the folders of it that their losses need.
CHECKOUT = {
    "nemo_rl": ("https://github.com/NVIDIA-NeMo/RL", ("nemo_rl", "examples")),
    "slime": ("https://github.com/THUDM/slime", ("slime",)),
    "roll": ("https://github.com/alibaba/ROLL", ("roll", "examples")),
    "easyr1": ("https://github.com/hiyouga/EasyR1", ("verl", "examples")),
}


def where(
    title: str, framework: str, version: str | None, pythons: dict[str, Path], install: bool
) -> tuple[Path, Path | None]:
    """(the Python to run, a folder to import the framework from). Raises ``LossError``."""
    key = f"{framework}@{version}" if version else framework
    given = pythons.get(key)
    if given is not None:
        if given.is_dir():
            return Path(sys.executable), given.resolve()
        if given.is_file():
            return given.absolute(), None
        raise LossError(f"--python {key}={given}: there is no such Python and no such folder")
    if not version:
        what = "CHECKOUT" if framework in CHECKOUT else "PATH"
        raise LossError(
            f"{title}: which {framework}? Name a version, {framework}@VERSION:..., and add --install, "
            f"or give --python {framework}={what}"
        )
    folder = FOLDER / f"{framework}-{version}"
    if (folder / ".done").exists():
        return Path(sys.executable), folder
    if not install:
        raise LossError(f"{title}: {key} is not here; add --install, or give --python {key}=PATH")
    error = checkout(framework, version, folder) if framework in CHECKOUT else wheel(framework, version, folder)
    if error:
        shutil.rmtree(folder, ignore_errors=True)
        raise LossError(f"{title}: {error}")
    (folder / ".done").touch()
    return Path(sys.executable), folder


def wheel(framework: str, version: str, folder: Path) -> str:
    """Install a release from PyPI into ``folder``; returns what went wrong, one line, or ""."""
    key_of_beside = "trl 0" if framework == "trl" and version.startswith("0.") else framework
    packages = [f"{framework}=={version}", *BESIDE.get(key_of_beside, ())]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
    done = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
    return lines[-1].removeprefix("ERROR: ") if done.returncode else ""


def checkout(framework: str, version: str, folder: Path) -> str:
    """Check out a tag (``0.3.1`` is v0.3.1), or a commit with all its digits, into ``folder``, and of its files only
    those that the loss needs; returns what went wrong, one line, or ""."""
    url, paths = CHECKOUT[framework]
    tag = f"refs/tags/v{version}"
    fetched = f"{tag}:{tag}" if re.fullmatch(r"\d+(\.\w+)+", version) else version
    git = ["git", "-C", str(folder)]
    commands = (
        ["git", "init", "-q", str(folder)],
        [*git, "config", "remote.origin.url", url],
        [*git, "fetch", "-q", "--depth", "1", "--filter=blob:none", "origin", fetched],
        [*git, "sparse-checkout", "set", *paths],
        [*git, "checkout", "-q", tag if ":" in fetched else "FETCH_HEAD"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("fatal: ")] or ["git failed"]
            return f"git cannot get {version} of {url}: {lines[0].removeprefix('fatal: ')}"
    return ""
