"""What costs more than at the last commit: each results/bench/*.json against the one in git, as ratios.

    python tests/bench/compare.py [--ref HEAD]

Costs are processor seconds where they were taken, else seconds of wall clock, and peak memory; a run of the harness is
first divided by TRL's and by bare verl's of the same round, so that a slower machine does not look like slower code.
Prints a table and marks what rose by more than a tenth. The exit status is 0: whether it matters, a person must say.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from harness.paths import ROOT

COSTS = ("cpu_seconds", "cpu_ms", "peak_bytes")
Run = dict[str, Any]  # common.Measurement
OF_A_RUN: dict[str, Callable[[Run], float]] = {
    "to the end of step 1": lambda run: run["steps"][0]["seconds"],
    "one step": lambda run: median(b["seconds"] - a["seconds"] for a, b in pairwise(run["steps"])),
    "peak memory": lambda run: run["peak_bytes"],
}
WORSE = 1.1
FASTEST = 0.1  # s: what takes less than this is not compared, its noise is larger than a tenth


def costs(result: dict[str, Any]) -> dict[str, float]:
    """The costs that a result of a benchmark holds, by name: the median over its rounds."""
    rounds = result.get("rounds")
    if isinstance(rounds, list) and "harness" in rounds[0]:
        return {
            f"{name}, harness / {other}": median(cost(one["harness"]) / cost(one[other]) for one in rounds)
            for name, cost in OF_A_RUN.items()
            for other in ("trl", "verl")
        }
    found: defaultdict[str, list[float]] = defaultdict(list)
    for name, value in _leaves(result, ()):
        found[name].append(value)
    return {name: median(values) for name, values in found.items() if median(values) >= FASTEST}


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Every cost below ``node``; entries of one list are rounds of one thing, and have one name."""
    if isinstance(node, list):
        for one in node:
            yield from _leaves(one, path)
    elif isinstance(node, dict):
        kept = COSTS if any(name in node for name in COSTS[:2]) else ("seconds", *COSTS)
        for key, value in node.items():
            if key in kept and isinstance(value, int | float):
                yield ", ".join((*path, key)), float(value)
            elif isinstance(value, dict | list):
                yield from _leaves(value, (*path, key) if key not in ("sizes", "cases", "rounds") else path)


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    """(name, before, after, ratio) of each cost that both results hold, the worst first."""
    old, new = costs(before), costs(after)
    rows = [(name, old[name], new[name], new[name] / old[name]) for name in new if old.get(name)]
    return sorted(rows, key=lambda row: -row[3])


def committed(path: Path, ref: str) -> dict[str, Any] | None:
    """The result as git has it at ``ref``, None where it has none."""
    name = path.relative_to(ROOT).as_posix()
    shown = subprocess.run(["git", "show", f"{ref}:{name}"], cwd=ROOT, capture_output=True, text=True, check=False)
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ref", default="HEAD", help="the commit to compare with")
    ref = parser.parse_args().ref
    worse = 0
    for path in sorted((ROOT / "results" / "bench").glob("*.json")):
        before, after = committed(path, ref), json.loads(path.read_text())
        if before is None or before == after:
            continue
        print(f"{path.stem}: {before.get('date')} to {after.get('date')}")
        for name, old, new, ratio in compared(before, after):
            worse += ratio > WORSE
            print(f"  {ratio:5.2f} {'WORSE' if ratio > WORSE else '     '}  {name}: {old:.3g} to {new:.3g}")
    print(
        f"{worse} more than a tenth worse than at {ref}" if worse else f"nothing more than a tenth worse than at {ref}"
    )


if __name__ == "__main__":
    sys.exit(main())
