"""Which package may import which, asked of import-linter; and that configuration names nothing else across packages."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from harness.paths import CONF, ROOT

DOTTED = re.compile(r"(?:pkg://)?\b((?:harness|sweeps|analysis)(?:\.\w+)+)")
HYDRA_FINDS_IT_BY_NAME = {"sweeps.hydra_launcher.RegisterLauncher", "sweeps.hydra_launcher.SweepLauncher"}


def test_imports_go_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def named_in_configuration() -> set[str]:
    """Dotted names of code in ``conf``: what Hydra or verl imports without an import statement."""
    found = set()
    for file in CONF.rglob("*.yaml"):
        for line in file.read_text().splitlines():
            value = line.partition("#")[0].partition(":")[2].strip()
            if "${" not in value and (match := DOTTED.fullmatch(value)):
                found.add(match[1])
    return found


def test_what_configuration_names_is_there_and_hides_no_arrow() -> None:
    named = named_in_configuration()
    assert "harness.plugin.external" in named
    for name in named:
        try:
            import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(import_module(module), attribute), name
    assert {name for name in named if not name.startswith("harness.")} <= HYDRA_FINDS_IT_BY_NAME
