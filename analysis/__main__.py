"""The command line: the report of run directories, or the command that comes first (``report.arguments``).

A command is imported when it is asked for, and after its words are understood: help needs none of what draws.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from analysis.report import arguments
from analysis.runs.errors import AnalysisError

COMMANDS = {
    **{name: f"analysis.report.{name}" for name in ("verify", "power", "audit", "map", "conform", "query")},
    "import": "analysis.runs.import_runs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for input that cannot be analysed."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words and words[0] in COMMANDS else ""
    try:
        if not command:
            return _report(words)
        if command in arguments.PARSERS:
            arguments.PARSERS[command]().parse_args(words[1:])  # help and wrong words end here
        return import_module(COMMANDS[command]).main(words[1:])
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _report(words: Sequence[str]) -> int:
    args = arguments.report().parse_args(words)
    from analysis.report.write import FigureOptions, write_report
    from analysis.runs.load import load_runs
    from analysis.statistics.selection import Choice
    from analysis.tables.summary import print_summary

    runs = load_runs(args.runs)
    print_summary(runs)
    name = args.name or "+".join(runs.runs["experiment"].unique())
    choice = Choice(args.varies, args.only, args.exclude)
    view = FigureOptions(args.x, args.smooth, args.paper_axes, choice, args.contrast, args.baseline, args.claims)
    write_report(runs, name, args.out, view)
    return 0


if __name__ == "__main__":
    sys.exit(main())
