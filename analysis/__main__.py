"""``python -m analysis RUNS...``: the summary table and the learning curves of run directories."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.load import AnalysisError, load_runs
from analysis.report import write_figures
from analysis.summary import print_summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for input that cannot be analysed."""
    args = _parser().parse_args(argv)
    try:
        runs = load_runs(args.runs)
        print_summary(runs)
        write_figures(runs, args.out, args.smooth, args.varies)
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Print one row per run and draw the learning curves: response length, clip fraction, reward, "
        "accuracy. Each curve is the mean over an arm's runs with a 95 percent interval where there are 3 or more.",
        epilog="Runs of one experiment share a figure and must be matched: equal in all that is not the treatment. "
        "Exit code 2: input that cannot be analysed, with one line that says what.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders with any below")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the figures, with several experiments a "
                        "folder in it for each (default: results/reports/<experiment>/figures)")  # fmt: skip
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="centred moving mean of N points per run "
                        "(default: 1, none)")  # fmt: skip
    parser.add_argument("--varies", action="append", default=[], metavar="KEY", help="config key, or prefix of keys, "
                        "in which the runs may differ; may be repeated")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
