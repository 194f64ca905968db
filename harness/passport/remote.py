"""A loss of a framework in its own Python: a process of ``worker`` that answers calls with gradients."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.passport import worker
from harness.passport.install import where
from harness.passport.update import Call, LossError

FRAMEWORKS = Path(__file__).parent / "frameworks"
# framework -> its module; openrlhf, skyrl and areal share one.
REMOTE = {
    "verl": "verl", "trl": "trl", "openrlhf": "picked", "skyrl": "picked", "areal": "picked", "nemo_rl": "nemo_rl",
    "slime": "slime", "roll": "roll", "easyr1": "easyr1",
}  # fmt: skip


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
        python, folder = where(title, framework, version, pythons, install)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VERL_PLATFORM": "cpu"}
        environment["TORCHDYNAMO_DISABLE"] = "1"  # compiling on the CPU takes minutes and changes nothing
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
