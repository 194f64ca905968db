"""Collects what each fault did and prints it as a table; ``FAULTS=file.md`` also writes it there."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.run import prefork

COLUMNS = ("fault", "during", "said", "attempts", "resumed after step", "ended", "record")

ABOUT = """# What happens when things break

Each row is a real fault during a real run of the `tiny` experiment (eight steps, a checkpoint every second one) on
{where}, made by `make test-faults FAULTS=results/bench/faults.md`. *Record*: all rows and metrics of the run
after it, compared with those of an undisturbed run, bit by bit.

"""


@pytest.fixture(autouse=True, scope="session")
def shared_imports() -> Iterator[None]:
    """All runs are forks of one process that has imported their packages, as in a sweep."""
    with prefork.standing():
        yield


def pytest_terminal_summary(terminalreporter, config):
    """One line for each fault that was tried, in the order of the test file; xdist sends properties to this process,
    which must have been told this folder to have loaded this file."""
    if hasattr(config, "workerinput"):
        return
    rows = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, value in report.user_properties:
                    if name == "fault":
                        rows[report.nodeid] = value
    if not rows:
        return
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row.get(c, "-")) for c in COLUMNS) + " |" for _, row in sorted(rows.items())]
    for line in lines:
        terminalreporter.write_line(line)
    if file := os.environ.get("FAULTS"):
        where = f"{os.cpu_count()} cores ({platform.machine()})"
        Path(file).write_text(ABOUT.format(where=where) + "\n".join(lines) + "\n")
