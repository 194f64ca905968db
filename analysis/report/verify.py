"""``python -m analysis verify RUNS``: what is proved of runs, printed; the report has the same as its certificate."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.report import arguments
from analysis.runs.load import load_runs
from analysis.runs.proofs import AGREES, FALSE, UNKNOWN
from analysis.statistics.verification import Verified, counted, verify

SHOWN = {AGREES: ("yes", ""), UNKNOWN: ("?", "yellow"), FALSE: ("NO", "red")}
MAX_NAMED = 3


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Verify and print; returns 0, or 1 if anything is false. Raises ``AnalysisError`` if there are no runs."""
    console = console or Console()
    args = arguments.verify().parse_args(argv)
    runs = load_runs(args.runs)
    verified = verify(runs)
    for pairs in (False, True):
        if part := [one for one in verified if one.pair == pairs]:
            console.print(_table(part, "two arms at one seed" if pairs else "run"))
    for path, reason in runs.left_out.items():
        console.print(f"NOT READ {path}: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    for row in counted(verified):
        for reason, subjects in row["exceptions"].items():
            more = f" and {len(subjects) - MAX_NAMED} more" if len(subjects) > MAX_NAMED else ""
            line = f"{row['what']}, {reason} ({'; '.join(subjects[:MAX_NAMED])}{more})"
            console.print(line, style="red" if reason.startswith(FALSE) else None, markup=False, highlight=False)
    wrong = sum(row[FALSE] for row in counted(verified)) + len(runs.left_out)
    agree, unknown = (sum(row[state] for row in counted(verified)) for state in (AGREES, UNKNOWN))
    console.print(f"{agree} checks agree, {unknown} cannot be known, {wrong} are false", style="bold")
    return 1 if wrong else 0


def _table(verified: Sequence[Verified], what: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    names = list(dict.fromkeys(proof.what for one in verified for proof in one.proofs))
    table.add_column(what, overflow="fold")
    for name in names:
        table.add_column(name, justify="center")
    several = len({one.experiment for one in verified}) > 1
    for one in verified:
        states = {proof.what: proof.state for proof in one.proofs}
        cells = [Text(*SHOWN[states[name]]) if name in states else Text("") for name in names]
        subject = f"{one.experiment}: {one.subject}" if one.pair and several else one.subject
        table.add_row(Text(subject), *cells)
    return table
