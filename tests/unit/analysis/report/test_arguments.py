"""The command line's words: help is there without what draws, and what can be chosen is what there is."""

import subprocess
import sys

import pytest

from analysis.report import arguments
from analysis.statistics.arms import X_AXES

HEAVY = ("pandas", "numpy", "scipy", "matplotlib", "pyarrow", "duckdb", "jinja2")


@pytest.mark.parametrize("command", ["", "verify", "power", "audit", "query"])
def test_help_imports_nothing_that_takes_long(command):
    words = [*command.split(), "--help"]
    program = (
        f"import sys; from analysis.__main__ import main\ntry: main({words})\n"
        f"except SystemExit as end: print([name for name in {HEAVY} if name in sys.modules], end.code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
    assert f"usage: {' '.join(['python -m analysis', *command.split()])} [-h]" in done.stdout


def test_the_axes_that_can_be_chosen_are_those_that_there_are():
    assert ("step", *X_AXES) == arguments.X


def test_names_of_the_package_are_there_when_they_are_asked_for():
    import analysis

    assert analysis.load_runs.__module__ == "analysis.runs.load"
    assert "load_runs" in dir(analysis)
    with pytest.raises(AttributeError, match="no attribute 'load_run'"):
        analysis.load_run  # noqa: B018
