"""Import one module of a checkout although packages that it imports are not in this Python.

A trainer's module imports inference engines, kernels and Megatron at its top; its loss calls none of them. Each package
that is missing becomes a stand-in, which can be imported from, called as a decorator and inherited from. What the
checkout imports within ``try`` stays missing, as in its own environment. After the import a call of a stand-in is an
error, so that no number comes out of one.
"""

import importlib
import importlib.abc
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

NAME_OF = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
MOST = 200  # packages that a module may lack


class Standin(type):
    """A class that stands for whatever a missing package has: every attribute is one more of its kind."""

    sealed = False

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Standin(f"{cls.__name__}.{name}", (), {"_missing": True})

    def __call__(cls, *values: Any, **more: Any) -> Any:
        if "_missing" not in vars(cls):  # a class of the checkout that inherits from a stand-in
            return super().__call__(*values, **more)
        if Standin.sealed:
            raise ValueError(f"the loss calls {cls.__name__}, which is not in this Python")
        return values[0] if len(values) == 1 and not more and callable(values[0]) else cls

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __or__(cls, _: Any) -> Any:
        return cls

    __ror__ = __or__

    def __mro_entries__(cls, _: Any) -> tuple[type, ...]:
        return (cls,)


class Absent(ModuleType):
    """The module of a missing package."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Standin(f"{self.__name__}.{name}", (), {"_missing": True})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what nothing else does: the modules ``missing`` and all below them."""

    def __init__(self) -> None:
        self.missing: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        above = {name[: found.start()] for found in re.finditer(r"\.|$", name)}
        return ModuleSpec(name, self, is_package=True) if above & self.missing else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


def root(framework: str, package: str, files: Iterable[str]) -> Path:
    """The folder of the checkout that holds ``package``, which must have ``files``; ValueError, one line, if not."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{framework}: there is no package {package} in this folder or Python")
    folder = Path(next(iter(spec.submodule_search_locations))).parent
    for file in files:
        if not (folder / file).is_file():
            raise ValueError(f"{folder} is no {framework} of a known layout: it has no {file}")
    return folder


def load(framework: str, module: str, names: Iterable[str]) -> Any:
    """``module``, imported with stand-ins; it must define ``names``. Raises ValueError, one line."""
    package = module.partition(".")[0]
    finder = Finder()
    sys.meta_path.append(finder)
    Standin.sealed = False
    for _ in range(MOST):
        try:
            found = importlib.import_module(module)
            break
        except ImportError as error:
            _stand_in(error, finder, framework, package)
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]
    else:
        raise ValueError(f"{framework}: {module} lacks more than {MOST} packages")
    Standin.sealed = True
    if lacking := [name for name in names if not hasattr(found, name)]:
        raise ValueError(f"this {framework} is of an unknown version: {module} has no {lacking[0]}")
    return found


def _stand_in(error: ImportError, finder: Finder, framework: str, package: str) -> None:
    """Provide what an import lacked; ValueError if the checkout itself lacks it."""
    name = error.name or ""
    if name == package or name.startswith(f"{package}."):
        raise ValueError(f"this {framework} is of an unknown version: {error}") from error
    if isinstance(error, ModuleNotFoundError) and name and name not in finder.missing:
        finder.missing.add(name)
        return
    lacking = NAME_OF.search(str(error))  # a package of another version
    if lacking is None or lacking[2] not in sys.modules or hasattr(sys.modules[lacking[2]], lacking[1]):
        raise ValueError(f"{framework} cannot be imported: {str(error).splitlines()[0]}") from error
    setattr(sys.modules[lacking[2]], lacking[1], Standin(".".join(lacking.group(2, 1)), (), {"_missing": True}))


def version(framework: str, folder: Path) -> str:
    """The checkout's tag or commit, as ``slime v0.3.1``; ``slime, a checkout`` where git does not know it."""
    if (folder / ".git").exists():
        command = ["git", "-C", str(folder), "describe", "--tags", "--always"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return f"{framework} {done.stdout.strip()}"
    return f"{framework}, a checkout"
