"""``python -m analysis audit TABLE``: somebody's printed table of results, recomputed from its own cells."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from analysis.report import arguments
from analysis.report.write import PLAIN
from analysis.runs.load import AnalysisError
from analysis.tables import audited
from analysis.tables.printout import Printout, read
from analysis.tables.render import save
from analysis.tables.table import Table


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Audit and print; returns 0, or 1 if a number cannot be right. Raises ``AnalysisError`` for what is no table."""
    console = console or Console()
    args = arguments.audit().parse_args(argv)
    questions = dict(map(_sized, args.questions))
    if args.samples is not None and args.samples < 1:
        raise AnalysisError(f"--samples {args.samples}: answers a question, at least 1")
    printed = read(args.table)
    tables = _tables(printed, questions, args.samples)
    for table in tables:
        if table.rows:
            console.print(Text(table.title, style="bold"), _shown(table), sep="\n")
            for note in table.notes:
                console.print(note, style="dim", **PLAIN)
            console.print()
        if args.out:
            save(table, args.out)
    for line in _unread(printed, questions):
        console.print(f"not checked: {line}", style="yellow", **PLAIN)
    wrong = [entry for table in tables for row in table.entries for entry in row if _is_wrong(entry.text)]
    checked = sum(table.columns[-1] == "verdict" or "verdict" in table.columns for table in tables for _ in table.rows)
    console.print(f"{checked} numbers checked, {len(wrong)} cannot be right", style="bold", **PLAIN)
    return 1 if wrong else 0


def _tables(printed: Printout, questions: dict[str, int], samples: int | None) -> list[Table]:
    return [
        audited.averages(printed),
        audited.differences(printed),
        audited.columns(printed, questions),
        audited.cells(printed, questions, samples),
        audited.leads(printed, questions),
    ]


def _is_wrong(text: str) -> bool:
    return text in (audited.CONTRADICTS, audited.IMPOSSIBLE)


def _unread(printed: Printout, questions: dict[str, int]) -> Iterable[str]:
    yield from printed.unread
    for name in printed.others:
        yield f"column {name!r}: numbers outside 0 to 100 are no percentages"
    for name in audited.unsized(printed, questions):
        yield f"column {name!r}: how many questions has it? --questions {name.replace(' ', '_')}=N"


def _sized(text: str) -> tuple[str, int]:
    name, equals, number = text.rpartition("=")
    if not equals or not number.isdigit() or not int(number):
        raise AnalysisError(f"--questions {text}: NAME=N is expected, as in --questions aime24=30")
    return name, int(number)


def _shown(table: Table) -> Shown:
    shown = Shown(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for at, column in enumerate(table.columns):
        shown.add_column(
            column, justify="left" if at < table.labels else "right", overflow="fold", no_wrap=at < table.labels
        )
    for row in table.entries:
        shown.add_row(*(Text(entry.text, style="bold red" if _is_wrong(entry.text) else "") for entry in row))
    return shown
