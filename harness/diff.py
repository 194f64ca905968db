"""What differs between two runs, by kind: ``python -m harness.diff RUN_A RUN_B``."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.config import say_error
from harness.config.matching import differences
from harness.rundir import RunDir, RunDirError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness.diff",
        description="What differs between two runs, by kind. Exit status 1: they are not matched.",
        epilog="python -m harness.diff results/runs/tiny/gspo/seed=0 results/runs/tiny/luspo/seed=0",
    )
    parser.add_argument("run_a", type=Path)
    parser.add_argument("run_b", type=Path)
    args = parser.parse_args()
    try:
        a, b = RunDir(args.run_a).manifest(), RunDir(args.run_b).manifest()
    except RunDirError as error:
        say_error(error)
        return 2
    console = Console()
    names = [f"{m['experiment']}/{m['arm']}/seed={m['seed']}" for m in (a, b)]
    for kind in ("treatment", "controlled", "execution", "versions", "hardware"):
        table = Table("key", *names, title=kind, title_justify="left", box=None)
        changed = differences(a[kind], b[kind])
        for key, (left, right) in changed.items():
            table.add_row(key, str(left), str(right))
        console.print(table if changed else f"{kind}: equal")
    matched = a["fingerprint"] == b["fingerprint"]
    same = a.get("step1_responses") is not None and a.get("step1_responses") == b.get("step1_responses")
    console.print(f"\nmatched: {'yes' if matched else 'NO'} (fingerprints {a['fingerprint']}, {b['fingerprint']})")
    console.print(f"same step-1 responses: {'yes' if same else 'no, or not reached'}")
    return 0 if matched else 1


if __name__ == "__main__":
    sys.exit(main())
