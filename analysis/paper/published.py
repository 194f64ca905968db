"""The numbers of the paper's tables 2 to 5 as printed: ``results/paper/published.csv``."""

import math
from pathlib import Path

import pandas as pd

from analysis.runs.load import AnalysisError

PUBLISHED = Path(__file__).parents[2] / "results" / "paper" / "published.csv"
AVERAGE = "Avg"  # the column that is the mean of a row's others
COLUMNS = ("table", "setting", "model", "train_data", "algo", "benchmark", "value", "source")
KINDS = ("cell", "printed-delta")  # source: an algorithm's number, or a difference named `<algo>-<algo>`


def load_published(path: Path = PUBLISHED) -> pd.DataFrame:
    """One row per printed number, columns as ``COLUMNS``; percent, percent points, in table 4 tokens.

    Raises ``AnalysisError`` naming a column that is missing, a source that is unknown, or a number that is there twice.
    """
    frame = pd.read_csv(path)
    text = frame.columns.difference(["table", "value"])
    frame = frame.astype(dict.fromkeys(text, object))  # compared thousands of times, which pandas's own text is slow at
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise AnalysisError(f"{path}: no column {', '.join(missing)}; there must be {', '.join(COLUMNS)}")
    unknown = sorted(set(frame["source"]) - set(KINDS))
    if unknown:
        raise AnalysisError(f"{path}: unknown source {', '.join(unknown)}; there are {', '.join(KINDS)}")
    keys = ["table", "setting", "algo", "benchmark"]
    twice = frame[frame.duplicated(keys)]
    if len(twice):
        raise AnalysisError(f"{path}: twice: {' '.join(map(str, twice.iloc[0][keys]))}")
    return frame


def printed(published: pd.DataFrame, table: int, setting: str, algo: str, benchmark: str) -> float:
    """One printed number, NaN where the paper prints none; ``algo`` is `<algo>-<algo>` for a printed difference."""
    rows = published[published["benchmark"] == benchmark]  # leaves few
    keys = zip(rows["table"], rows["setting"], rows["algo"], strict=True)
    found = [value for key, value in zip(keys, rows["value"], strict=True) if key == (table, setting, algo)]
    return float(found[0]) if found else math.nan


def names(published: pd.DataFrame, column: str, source: str = "cell", **where: object) -> list[str]:
    """The values of ``column`` in the file's order, in rows of one ``source`` where the columns have those values."""
    rows = published[published["source"] == source]
    for key, value in where.items():
        rows = rows[rows[key] == value]
    return [str(value) for value in rows[column].unique()]


def shown_benchmarks(published: pd.DataFrame, table: int, setting: str) -> list[str]:
    """Benchmarks, without the average, that the paper prints for every trained algorithm of a setting.

    The average is over these: of text-moe it prints four for the base model and two for the others.
    """
    trained = [algo for algo in names(published, "algo", table=table, setting=setting) if algo != "base"]
    printed_by = [set(names(published, "benchmark", table=table, setting=setting, algo=algo)) for algo in trained]
    every = names(published, "benchmark", table=table, setting=setting)
    return [b for b in every if b != AVERAGE and all(b in of_algo for of_algo in printed_by)]
