"""The table of suites: what a target writes when its tests passed."""

from pathlib import Path

import pytest
from bench.suites import record

REPORT = '<testsuites><testsuite tests="{}" skipped="1" failures="{}" errors="{}" time="90.5"/></testsuites>'


def report(folder: Path, tests: int, failures: int = 0, errors: int = 0) -> Path:
    file = folder / "report.xml"
    file.write_text(REPORT.format(tests, failures, errors))
    return file


def test_a_suite_has_one_row_the_last(tmp_path: Path) -> None:
    table = tmp_path / "suites.md"
    record("test-slow", report(tmp_path, 5), table)
    record("test", report(tmp_path, 11), table)
    record("test", report(tmp_path, 13), table)
    rows = [line for line in table.read_text().splitlines() if line.startswith("| `")]
    assert [line.split(" | ")[:4] for line in rows] == [
        ["| `make test-slow`", "4", "1", "2"],
        ["| `make test`", "12", "1", "2"],
    ]


@pytest.mark.parametrize("counts", [{"failures": 1}, {"errors": 2}])
def test_a_suite_that_did_not_pass_changes_nothing(tmp_path: Path, counts: dict[str, int]) -> None:
    table = tmp_path / "suites.md"
    record("test", report(tmp_path, 3), table)
    before = table.read_text()
    with pytest.raises(ValueError, match="not all tests passed"):
        record("test", report(tmp_path, 3, **counts), table)
    assert table.read_text() == before
