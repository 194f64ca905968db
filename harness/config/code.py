"""The code behind a run that its settings only name: grader, reward manager, agent loop, loss, and verl's own losses.

Two runs whose settings agree and whose grader was edited in between are not matched. A file is known by the hash of
its statements: comments, docstrings and layout cannot change what is learnt. Imports are followed within the tree of
files that the user can edit, never into installed packages, whose versions a manifest lists.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.config.compose import digest
from harness.config.errors import ConfigError
from harness.paths import ROOT
from harness.rundir import CODE

Sources = dict[str, str]  # file, relative to its tree -> hash of its statements
REWARD, AGENT = "reward", "actor_rollout_ref.rollout.agent"
NAMES = {  # key of the configuration that names code -> the part that it is; a key without a value names none
    f"{REWARD}.reward_kwargs.grader": "grader",
    f"{REWARD}.reward_manager.module.path": "reward",
    f"{REWARD}.custom_reward_function.path": "reward",
    f"{AGENT}.agent_loop_manager_class": "agent_loop",
    f"{AGENT}.agent_loop_config_path": "agent_loop",
    "actor_rollout_ref.model.external_lib": "external_lib",
}
OURS = "harness.plugin.external"  # installs the recording, which changes nothing that is learnt
FOLLOWED = ("grading", "losses", "plugin", "tasks")  # packages of the harness whose code a run learns by
# Modules there that list all losses, or carry rows and processes: a new loss must not make all others new.
PASSED_OVER = ("harness.losses.registry", "harness.losses.of_verl", "harness.tasks.cache", "harness.tasks.registry")
VERL = "verl.trainer.ppo.core_algos"  # verl's losses, aggregations and advantages; ours call them


def sources(flat: Mapping[str, Any], loss: str = "") -> dict[str, Sources]:
    """The files of each part that the settings name: grader, reward, agent_loop, verl, and ``loss`` for the module of
    a loss of our own. Raises ``ConfigError`` for a file that is no Python."""
    found: dict[str, Sources] = {}
    for key, part in NAMES.items():
        name = flat.get(key)
        if name and name != OURS:
            found.setdefault(part, {}).update(files_of(str(name)))
    found["verl"] = files_of(VERL)
    if loss:
        found["loss"] = files_of(loss)
    return {part: dict(sorted(files.items())) for part, files in found.items() if files}


def hashes(found: Mapping[str, Sources]) -> dict[str, str]:
    """One hash a part, under the names of a manifest: ``code.grader``."""
    return {f"{CODE}{part}": digest(files) for part, files in found.items()}


def files_of(name: str) -> Sources:
    """The file behind a dotted path, ``pkg://a.b`` or a path, and what it imports from its own tree.

    A YAML file (agent loops) stands for its content and the classes that its ``_target_`` name. Nothing is imported.
    """
    name = name.removeprefix("pkg://").removeprefix("file://")
    path = ROOT / Path(name).expanduser()  # a relative one is seen from the checkout
    if path.suffix in (".yaml", ".yml") and path.exists():
        content = yaml.safe_load(path.read_text())
        return {path.name: digest(content)} | {
            file: value for target in _targets(content) for file, value in files_of(target).items()
        }
    if path.suffix == ".py" and path.exists():
        tree = ROOT if path.resolve().is_relative_to(ROOT) else path.resolve().parent
        return _closure(tree, path.resolve())
    for tree in (ROOT, *(Path(entry or ".").resolve() for entry in sys.path)):
        if file := _module(tree, name):
            return _closure(tree, file)
    return {}


def _closure(tree: Path, first: Path) -> Sources:
    """The statements of a file and of all that it imports from ``tree``; of an installed one, its own."""
    found: Sources = {}
    waiting = [first]
    while waiting:
        file = waiting.pop()
        name = str(file.relative_to(tree))
        if name in found:
            continue
        statements = _statements(file)
        found[name] = hashlib.sha256(ast.unparse(statements).encode()).hexdigest()[:16]
        if "site-packages" not in tree.parts:
            imported = (_module(tree, module) for module in _imports(statements, file.relative_to(tree)))
            waiting += [module for module in imported if module and _counts(tree, module)]
    return found


def _module(tree: Path, name: str) -> Path | None:
    """The file of the longest beginning of a dotted name that is a module of the tree."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = tree.joinpath(*parts[:length])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return file
    return None


def _counts(tree: Path, file: Path) -> bool:
    """Whether an imported file is code that a run learns by, and not the plumbing of this harness."""
    parts = file.relative_to(tree).with_suffix("").parts
    if tree != ROOT or parts[0] != "harness":
        return True
    return len(parts) > 2 and parts[1] in FOLLOWED and ".".join(parts) not in PASSED_OVER


def _statements(file: Path) -> ast.Module:
    """A file's syntax tree without docstrings."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{file}: not readable as Python ({error})") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _imports(tree: ast.Module, file: Path) -> Iterator[str]:
    """Dotted names that a file imports, with those of a package's members; ``file``: relative to its tree."""
    package = file.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" if module else alias.name for alias in node.names)


def _targets(content: Any) -> Iterator[str]:
    for entry in content if isinstance(content, list) else [content]:
        if isinstance(entry, dict) and entry.get("_target_"):
            yield str(entry["_target_"])
