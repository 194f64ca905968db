"""Commands of this project in the tests' own process: what ``python -m MODULE WORDS...`` does, but for its imports.
For tests of what a command says and answers, not of its process."""

import contextlib
import io
import runpy
import signal
import subprocess
import sys
import warnings
from unittest import mock


def run_module(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Its exit status and what it wrote to standard output and error. An exception that it does not catch is raised."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [module, *words]),
        mock.patch.object(signal, "signal"),  # this process keeps its own
        warnings.catch_warnings(action="ignore", category=RuntimeWarning),  # runpy's: the module is imported already
    ):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess([module, *words], status, out.getvalue(), err.getvalue())
