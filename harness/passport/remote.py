"""A loss of a framework in its own Python: a process of ``worker`` that answers calls with gradients."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.passport import worker
from harness.passport.update import Call, LossError
from harness.paths import ROOT

FOLDER = ROOT / "build" / "passport"  # of frameworks that --install put there, one folder a version
FRAMEWORKS = Path(__file__).parent / "frameworks"
# framework -> its module; openrlhf, skyrl and areal share one.
REMOTE = {"verl": "verl", "trl": "trl", "openrlhf": "picked", "skyrl": "picked", "areal": "picked"}
# What pip installs beside them; all else that they import is in this environment already, because of verl.
BESIDE = {
    "trl 0": ("transformers==4.57.1", "huggingface-hub==0.36.0", "tokenizers==0.22.1", "datasets==4.4.1"),
    "skyrl": ("loguru==0.7.3",),
}


@dataclass(frozen=True, eq=False)
class RemoteLoss:
    """A loss in another process, which ends with ``close``."""

    title: str
    process: subprocess.Popen[bytes] = field(repr=False)
    version: str
    takes_weights: bool
    equal_rows: bool
    note: str

    @classmethod
    def start(
        cls,
        title: str,
        framework: str,
        version: str | None,
        name: str,
        settings: dict[str, str],
        pythons: dict[str, Path],
        install: bool,
    ) -> "RemoteLoss":
        python, folder = _where(title, framework, version, pythons, install)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VERL_PLATFORM": "cpu"}
        if folder:
            environment["PYTHONPATH"] = str(folder)
        module = REMOTE[framework]
        called = name if module == framework else f"{framework}:{name}"
        process = subprocess.Popen(
            [str(python), worker.__file__, str(FRAMEWORKS / f"{module}.py"), called, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        answer = _ask(process, None, title)
        if "error" in answer:
            process.wait()
            raise LossError(f"{title}: {answer['error']}")
        return cls(title, process, **answer)

    def gradient(self, call: Call) -> Tensor:
        answer = _ask(self.process, vars(call), self.title)
        if "error" in answer:
            raise LossError(answer["error"])
        return answer["gradient"]

    def close(self) -> None:
        """The worker ends with its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _ask(process: subprocess.Popen[bytes], request: dict[str, Any] | None, title: str) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if request is not None:
            worker.write(process.stdin, request)
        answer = worker.read(process.stdout)
    except (BrokenPipeError, OSError):
        answer = None
    if answer is None:
        raise LossError(f"{title}: its Python ended with status {process.wait()}; is torch installed there?")
    return answer


def _where(
    title: str, framework: str, version: str | None, pythons: dict[str, Path], install: bool
) -> tuple[Path, Path | None]:
    """(the Python to run, a folder to import the framework from)."""
    key = f"{framework}@{version}" if version else framework
    given = pythons.get(key)
    if given is not None:
        if given.is_dir():
            return Path(sys.executable), given
        if given.is_file():
            return given, None
        raise LossError(f"--python {key}={given}: there is no such Python and no such folder")
    if not version:
        raise LossError(
            f"{title}: which {framework}? Name a version, {framework}@VERSION:..., and add --install, "
            f"or give --python {framework}=PATH"
        )
    folder = FOLDER / f"{framework}-{version}"
    if (folder / ".done").exists():
        return Path(sys.executable), folder
    if not install:
        raise LossError(f"{title}: {key} is not here; add --install, or give --python {key}=PATH")
    key_of_beside = "trl 0" if framework == "trl" and version.startswith("0.") else framework
    packages = [f"{framework}=={version}", *BESIDE.get(key_of_beside, ())]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--upgrade",
        "--target",
        str(folder),
        *packages,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise LossError(f"{title}: {lines[-1].removeprefix('ERROR: ')}")
    (folder / ".done").touch()
    return Path(sys.executable), folder
