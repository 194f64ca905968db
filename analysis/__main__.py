"""The report of run directories: figures, tables, claims, one HTML page.

    python -m analysis results/runs/tiny
    python -m analysis results/runs/tiny --only luspo --only gspo --x tokens
    python -m analysis verify results/runs/tiny
    python -m analysis results/runs/mine --claims my_claims.yaml --baseline gspo
    python -m analysis power results/runs/tiny --claim C11
    python -m analysis audit table.csv
    python -m analysis import mine trl_output --arm grpo --seed 3
    python -m analysis query "SELECT arm, avg(accuracy) FROM steps GROUP BY arm" results/runs/tiny

Prints one row for each run, decides claims, draws every figure that the runs allow, and writes tables,
report.json and one HTML page that opens offline. ``verify``: what is proved of runs. ``power``: how many seeds a claim
needs, and what they cost. ``audit``: a printed table of results against its own cells. ``query``: SQL
over every step and response. ``import``: run directories from the records of TRL, verl, W&B and others. Needs neither
torch nor verl.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.report import audit, power, verify
from analysis.report.write import REPORTS, FigureOptions, write_report
from analysis.runs import import_runs
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.arms import X_AXES
from analysis.statistics.selection import Choice
from analysis.tables.summary import print_summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for input that cannot be analysed."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        for command in (verify, power, audit):
            if words[:1] == [command.__name__.rpartition(".")[2]]:
                return command.main(words[1:])
        if words[:1] == ["query"]:
            from analysis.report import query  # a database that nothing else needs

            return query.main(words[1:])
        if words[:1] == ["import"]:
            return import_runs.main(words[1:])
        args = _parser().parse_args(words)
        runs = load_runs(args.runs)
        print_summary(runs)
        name = args.name or "+".join(runs.runs["experiment"].unique())
        choice = Choice(args.varies, args.only, args.exclude)
        view = FigureOptions(args.x, args.smooth, args.paper_axes, choice, args.contrast, args.baseline, args.claims)
        write_report(runs, name, args.out, view)
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Runs of one experiment share a figure and must be matched: equal in all that is not the treatment.\n"
        "Of several matched groups the largest is reported, and the others are named with what differs.\n"
        "Exit code 2: input that cannot be analysed, with one line that says what.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders with any below")
    parser.add_argument("--name", help="of the report (default: the experiments' names)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"its folder (default: {REPORTS}/NAME)")
    parser.add_argument("--smooth", type=int, default=1, metavar="N", help="centred moving mean of N points per run "
                        "(default: 1, none)")  # fmt: skip
    parser.add_argument("--x", choices=("step", *X_AXES), default="step", help="what curves are drawn against: step, "
                        "generated tokens, hours of training, KL to the behaviour policy (default: step)")  # fmt: skip
    parser.add_argument("--paper-axes", action="store_true", help="draw the paper's figures within its axis limits")
    parser.add_argument("--varies", action="append", default=[], metavar="KEY", help="config key, or prefix of keys, "
                        "in which the runs may differ; may be repeated")  # fmt: skip
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="report only runs of this "
                        "name, arm or seed (tiny/luspo/seed=0, luspo, 'seed=*'); may be repeated")  # fmt: skip
    parser.add_argument("--claims", type=Path, metavar="FILE", help="decide the claims of FILE (docs/claims.md; "
                        "default: the paper's on its experiments, none on others)")  # fmt: skip
    parser.add_argument("--baseline", default="", metavar="ARM", help="compare every other arm with this one (default: "
                        "the pairs of the claims, others with their second arm; else the first arm)")  # fmt: skip
    parser.add_argument("--contrast", action="append", default=[], metavar="A:B", help="compare arm A with arm B "
                        "alone, such as mine:gspo; may be repeated")  # fmt: skip
    parser.add_argument("--exclude", action="append", default=[], metavar="NAME", help="leave out runs of this "
                        "name, arm or seed; may be repeated")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
