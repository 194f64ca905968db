"""SQL over run directories: DuckDB, with a view for each kind of record (docs/query.md)."""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from analysis.report import arguments
from analysis.runs.load import AnalysisError, load_runs
from analysis.runs.views import VIEWS, described, with_views

ROWS = 1000  # of a table that is shown


def main(argv: Sequence[str]) -> int:
    """``python -m analysis query``; returns the exit code. Raises ``AnalysisError`` for what cannot be asked."""
    args = arguments.query().parse_args(argv)
    if args.schema:
        print_schema()
        return 0
    if not args.sql:
        raise AnalysisError('no query: python -m analysis query "SELECT * FROM runs"; --schema lists what there is')
    paths = args.runs or [arguments.RUNS]
    connection = with_views(load_runs(paths))
    try:
        result = ask(connection, args.sql)
        _show(result, args)
    except duckdb.Error as error:
        raise AnalysisError(_line(error)) from None
    except OSError as error:
        raise AnalysisError(f"{args.parquet}: cannot be written ({error.strerror})") from None
    return 0


def ask(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """The rows of one query. Raises ``AnalysisError`` unless it is a single statement that only reads."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise AnalysisError(f"one statement at a time, not {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:  # EXPLAIN ANALYZE would carry out what it explains
        kind = statements[0].type.name.replace("_", " ")
        raise AnalysisError(f"{kind} is refused: a query reads, with SELECT; to keep its rows give --parquet FILE")
    return connection.sql(statements[0].query)


def print_schema() -> None:
    """Every view and its columns, with what they mean."""
    for view, (what, columns) in VIEWS.items():
        print(f"{view}: {what}")
        width = max(map(len, columns))
        for name, meaning in columns.items():
            print(f"  {name:{width}}  {meaning}")
        print()
    print(described())


def _show(result: duckdb.DuckDBPyRelation, args: argparse.Namespace) -> None:
    names = result.columns
    if args.parquet:
        import pyarrow.parquet as pq

        if args.parquet.exists():
            raise AnalysisError(f"{args.parquet}: is there already; name another file, or remove it")
        table = result.to_arrow_table()
        pq.write_table(table, args.parquet)
        print(f"wrote {args.parquet}: {table.num_rows} rows")
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(result.fetchall())
    elif args.json:
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        print(json.dumps([{name: _plain(value) for name, value in row.items()} for row in rows], indent=1, default=str))
    else:
        _print_table(names, result.limit(ROWS + 1).fetchall())


def _print_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The rows aligned: numbers to the right, of as many digits as say something."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(names):
        numbers = any(isinstance(row[at], int | float) and not isinstance(row[at], bool) for row in rows)
        table.add_column(name, justify="right" if numbers else "left", no_wrap=True)
    for row in rows[:ROWS]:
        table.add_row(*map(_text, row))
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, console.measure(table).maximum)  # a pipe has no width; a row is a line
    console.print(table)
    if len(rows) > ROWS:
        print(f"the first {ROWS} rows; --csv gives all", file=sys.stderr)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    return None if isinstance(value, float) and value - value != 0 else value


def _line(error: duckdb.Error) -> str:
    """DuckDB's message in one line: what is wrong, and its hint, without the copy of the query."""
    kept = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith(("LINE ", " "))]
    return "; ".join(kept)
