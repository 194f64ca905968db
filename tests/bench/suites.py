"""Which suite last passed when: a row of results/bench/suites.md for each, written by the target that ran it.

python tests/bench/suites.py test-faults build/test-faults.xml
"""

import datetime
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "results" / "bench" / "suites.md"
HEAD = """# When each suite of tests last passed

Written by the targets themselves (`make test`, `make test-slow` ...), the last time that each was run to its end before
a commit of this file. `make test-all` runs them all.

| target | passed | skipped | minutes | cores | date | commit |
|---|---|---|---|---|---|---|
"""


def row(suite: str, report: Path) -> str:
    """One line of the table from pytest's JUnit file. Raises ValueError where a test did not pass."""
    results = ElementTree.parse(report).getroot().find("testsuite")
    assert results is not None
    tests, skipped, bad = (int(results.attrib[name]) for name in ("tests", "skipped", "failures"))
    if bad + int(results.attrib["errors"]):
        raise ValueError(f"{report}: not all tests passed")
    minutes = float(results.attrib["time"]) / 60
    git = ("git", "describe", "--always", "--dirty", "--abbrev=7")
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    today = datetime.date.today().isoformat()
    return f"| `make {suite}` | {tests - skipped} | {skipped} | {minutes:.0f} | {os.cpu_count()} | {today} | {commit} |"


def record(suite: str, report: Path, table: Path = TABLE) -> None:
    """Put the suite's row in the place of its last one."""
    rows = table.read_text().splitlines() if table.exists() else []
    kept = [line for line in rows if line.startswith("| `make ") and not line.startswith(f"| `make {suite}`")]
    table.write_text(HEAD + "\n".join(sorted([*kept, row(suite, report)])) + "\n")


if __name__ == "__main__":
    record(sys.argv[1], Path(sys.argv[2]))
