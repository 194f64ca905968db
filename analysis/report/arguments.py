"""What the commands of ``python -m analysis`` can be told. Imports nothing that takes long: help is there at once."""

import argparse
from collections.abc import Callable
from pathlib import Path

REPORTS, RUNS = Path("results/reports"), Path("results/runs")
PAIR = "luspo:gspo"  # of a map
X = ("step", "tokens", "hours", "kl")  # what curves are drawn against: step, or an entry of ``X_AXES``

REPORT = """The report of run directories: figures, tables, claims, one HTML page.

    python -m analysis results/runs/tiny
    python -m analysis results/runs/tiny --only luspo --only gspo --x tokens
    python -m analysis verify results/runs/tiny
    python -m analysis results/runs/mine --claims my_claims.yaml --baseline gspo
    python -m analysis power results/runs/tiny --claim C11
    python -m analysis audit table.csv
    python -m analysis map results/runs/map
    python -m analysis conform check build/conform
    python -m analysis import mine trl_output --arm grpo --seed 3
    python -m analysis query "SELECT arm, avg(accuracy) FROM steps GROUP BY arm" results/runs/tiny

Prints one row for each run, decides claims, draws every figure that the runs allow, and writes tables, report.json and
one HTML page that opens offline. ``verify``: what is proved of runs. ``power``: how many seeds a claim needs, and what
they cost. ``audit``: a printed table of results against its own cells. ``map``: where one loss is longer than another,
over experiments and clip ranges. ``conform``: whether runs learn what recorded ones learnt. ``query``: SQL over every
step and response. ``import``: run directories from the records of TRL, verl, W&B and others. Needs neither torch nor
verl.
"""

QUERY = """SQL over run directories: DuckDB, with a view for each kind of record.

    python -m analysis query "SELECT arm, avg(accuracy) FROM steps WHERE step > 40 GROUP BY arm" results/runs/tiny
    python -m analysis query --schema

Runs are those at or below RUNS (default: results/runs). Nothing of theirs is changed. Worked queries: docs/query.md.
"""


def report() -> argparse.ArgumentParser:
    """The report itself, ``python -m analysis RUNS``."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description=REPORT,
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
    parser.add_argument("--x", choices=X, default="step", help="what curves are drawn against: step, "
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


def verify() -> argparse.ArgumentParser:
    """``python -m analysis verify``."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis verify",
        description="What is proved of runs: recomputed and equal (yes), recomputed and false (NO), not known (?).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="  python -m analysis verify results/runs/tiny\n  python -m analysis verify results/reference\n\n"
        "Exit code 0: nothing is false; 1: something is; 2: there are no runs.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders with any below")
    return parser


def power() -> argparse.ArgumentParser:
    """``python -m analysis power``."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis power",
        description="How much two arms differ by seed alone, what 3 to 20 seeds can find, and how many a claim needs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="  python -m analysis power results/runs/tiny\n"
        "  python -m analysis power results/reference/tiny --claim C11 --json power.json\n\n"
        "Exit code 2: nothing can be planned, with one line that says what is missing.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders with any below")
    parser.add_argument("--claim", action="append", default=[], metavar="ID", help="only this claim of "
                        "file, such as C11; may be repeated")  # fmt: skip
    parser.add_argument("--claims", type=Path, metavar="FILE", help="the file of claims (docs/claims.md; default: the "
                        "paper's, for its experiments)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to FILE")
    return parser


def audit() -> argparse.ArgumentParser:
    """``python -m analysis audit``."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis audit",
        description="Recompute a printed table of results from its own cells: averages, differences, whether so many "
        "questions and answers can make a cell at all, and how far the best row is ahead.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="TABLE has a row a method and a column a benchmark (percent), names to the left. A column 'average' is\n"
        "recomputed from the others, a row named 'A - B' from the rows A and B.\n\n"
        "  python -m analysis audit table.csv\n"
        "  python -m analysis audit table.md --questions mybench=250 --samples 16\n\n"
        "Exit code 0: all of it can be right; 1: something cannot; 2: no such table.",
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="CSV, TSV or a Markdown table")
    parser.add_argument("--questions", action="append", default=[], metavar="NAME=N", help="of a benchmark; known are "
                        "AIME, AMC23, MATH500, GSM8K, Minerva, GPQA-Diamond, HumanEval")  # fmt: skip
    parser.add_argument("--samples", type=int, metavar="K", help="answers a question that the table says were taken")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="also write the tables there: Markdown, CSV, LaTeX, HTML"
    )
    return parser


def query() -> argparse.ArgumentParser:
    """``python -m analysis query``."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis query", description=QUERY, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sql", nargs="?", metavar="SQL", help="one statement that reads, over the views of --schema")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help=f"run directories, or folders with any "
                        f"below (default: {RUNS})")  # fmt: skip
    parser.add_argument("--schema", action="store_true", help="list the views and their columns, and what they mean")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="write CSV to standard output")
    form.add_argument("--json", action="store_true", help="write a JSON list of objects to standard output")
    form.add_argument("--parquet", type=Path, metavar="FILE", help="write the rows into a Parquet file")
    return parser


def map_() -> argparse.ArgumentParser:
    """``python -m analysis map``."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis map",
        description="Where is one loss longer than another? Their ratio of lengths in every experiment and at every "
        "clip range of RUNS, beside what length pressure foretold from the first steps. `python -m sweeps run map` "
        "trains the runs of a map.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders with any below")
    parser.add_argument("--contrast", default=PAIR, metavar="A:B", help=f"loss A over loss B (default: {PAIR})")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only runs of this name, arm or "
                        "seed; may be repeated")  # fmt: skip
    parser.add_argument("--exclude", action="append", default=[], metavar="NAME", help="leave out runs of this name, "
                        "arm or seed; may be repeated")  # fmt: skip
    parser.add_argument("--out", type=Path, default=REPORTS / "map", metavar="DIR", help="folder of figure and table "
                        f"(default: {REPORTS}/map)")  # fmt: skip
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "verify": verify, "power": power, "audit": audit, "query": query, "map": map_,
}  # fmt: skip
