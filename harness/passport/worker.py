"""One call of a loss: its gradient with respect to the log-probabilities. Also a server of calls in another Python.

``python worker.py FRAMEWORK_FILE NAME SETTINGS_JSON`` reads requests from its standard input and answers on its
standard output, each a length of 8 bytes and what ``torch.save`` makes of a dictionary. It imports nothing of the
project, so that a framework's own environment needs no more than torch and that framework.
"""

import importlib
import importlib.util
import io
import json
import os
import struct
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import torch

LENGTH = struct.Struct("<Q")
FRAMEWORKS = "passport_frameworks"


def differentiate(function: Any, call: Any) -> torch.Tensor:
    """d loss / d log_prob, shape (responses, tokens), of ``function(call)``; ``call`` is left as it was.

    Raises ValueError, one line, if there is no scalar, it is not finite, or it has no gradient.
    """
    leaf = call.log_prob.detach().clone().requires_grad_(True)
    inputs = SimpleNamespace(**{**vars(call), "log_prob": leaf})
    loss = function(inputs)
    if isinstance(loss, tuple):  # most frameworks return metrics beside it
        loss = loss[0]
    if not isinstance(loss, torch.Tensor):
        raise ValueError(f"it returned {type(loss).__name__}, not a tensor")
    if loss.numel() != 1:
        raise ValueError(f"it returned a tensor of shape {tuple(loss.shape)}, not one number")
    if not torch.isfinite(loss).all():
        raise ValueError(f"it returned {loss.item()}")
    if not loss.requires_grad:
        raise ValueError("it has no gradient: the returned number does not depend on log_prob")
    (gradient,) = torch.autograd.grad(loss.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise ValueError("it has no gradient: the returned number does not depend on log_prob")
    if not torch.isfinite(gradient).all():
        raise ValueError("its gradient is not finite")
    return gradient


def load_file(path: Path) -> Any:
    """The module of this file, under a name that hides no package."""
    spec = importlib.util.spec_from_file_location(f"passport_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_framework(path: Path) -> Any:
    """The module of a framework, in a package of its folder, so that it can import the modules beside it."""
    package = ModuleType(FRAMEWORKS)
    package.__path__ = [str(path.parent)]
    sys.modules[FRAMEWORKS] = package
    return importlib.import_module(f"{FRAMEWORKS}.{path.stem}")


def write(stream: IO[bytes], message: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(message, buffer)
    stream.write(LENGTH.pack(buffer.tell()) + buffer.getvalue())
    stream.flush()


def read(stream: IO[bytes]) -> dict[str, Any] | None:
    """The next message; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    body = stream.read(LENGTH.unpack(head)[0])
    return torch.load(io.BytesIO(body), weights_only=True)


def one_line(error: BaseException) -> str:
    """What an exception says, in one line; the type too unless it is the ValueError of this package."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if type(error) is ValueError and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main() -> int:
    path, name, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints must not come between the answers
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # some frameworks write logs where they are imported
        return serve(answers, path, name, settings)


def serve(answers: IO[bytes], path: Path, name: str, settings: dict[str, str]) -> int:
    """Answer the calls of a loss until the input ends; the exit status."""
    try:
        loaded = load_framework(path).load(name, settings)
    except Exception as error:  # noqa: BLE001  (the other side says it to the user)
        write(answers, {"error": one_line(error)})
        return 1
    write(answers, {key: value for key, value in vars(loaded).items() if key != "function"})
    while (request := read(sys.stdin.buffer)) is not None:
        try:
            write(answers, {"gradient": differentiate(loaded.function, SimpleNamespace(**request)).detach()})
        except Exception as error:  # noqa: BLE001  (as above)
            write(answers, {"error": one_line(error)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
