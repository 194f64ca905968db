"""What differs between two runs, by kind: ``python -m harness.diff RUN_A RUN_B``."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.config import say_error
from harness.config.matching import differences
from harness.rundir import CODE, RunDir, RunDirError

KINDS = ("treatment", "controlled", "execution", "versions", "hardware")


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
    for kind in KINDS:
        table = Table("key", *names, title=kind, title_justify="left", box=None)
        changed = differences(a.get(kind, {}), b.get(kind, {}))
        for key, (left, right) in changed.items():
            table.add_row(key, str(left), str(right))
        console.print(table if changed else f"{kind}: equal")
    for part in sorted({*a.get("code", {}), *b.get("code", {})}):
        if files := differences(*(manifest.get("code", {}).get(part, {}) for manifest in (a, b))):
            console.print(f"source files of {CODE}{part} that differ: {', '.join(files)}")
    matched = not differences(a["controlled"], b["controlled"])
    same = a.get("step1_responses") is not None and a.get("step1_responses") == b.get("step1_responses")
    console.print(f"\nmatched: {'yes' if matched else 'NO'} (fingerprints {a['fingerprint']}, {b['fingerprint']})")
    console.print(f"same step-1 responses: {'yes' if same else 'no, or not reached'}")
    unknown = [key for key in sorted({*a["controlled"], *b["controlled"]}) if key.startswith(CODE)]
    if unknown := [key for key in unknown if key not in a["controlled"] or key not in b["controlled"]]:
        console.print(f"not recorded in one of them, so unknown: {', '.join(unknown)}")
    return 0 if matched else 1


if __name__ == "__main__":
    sys.exit(main())
