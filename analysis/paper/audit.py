"""The paper's arithmetic and sentences, checked against the numbers of its own tables. No run is needed.

A printed number stands for all that round to it: percent plus/minus 0.05, tokens plus/minus 0.5. Only what no such
number can explain is called a contradiction.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.paper.published import AVERAGE, names, printed, shown_benchmarks
from analysis.runs.load import AnalysisError
from analysis.tables.table import Entry, Table

SENTENCES = Path(__file__).parents[2] / "results" / "paper" / "sentences.yaml"
LENGTH_TABLE = 4  # its numbers are whole tokens, all others percent with one decimal
MEAN_TOLERANCE = 0.10  # of a mean: half a unit of the cells and half of the printed mean
DELTA_TOLERANCE = 0.15  # of a difference: half a unit of both cells and of the printed difference
NUMERIC_NOISE = 1e-9
VERDICTS = ("holds", "contradicted", "within rounding", "not printed")  # of a sentence on one pair of cells


@dataclass(frozen=True)
class Sentence:
    """One entry of sentences.yaml, whose header says what the fields mean."""

    id: str
    claim: str
    sentence: str
    where: str
    reading: str
    tables: Sequence[int]
    benchmarks: str
    arms: tuple[str, str]
    value: str
    above: float | None
    below: float | None


@dataclass(frozen=True)
class Checked:
    """A sentence on one pair of cells; low to high: what the value can be before rounding."""

    table: int
    setting: str
    benchmark: str
    value: float
    low: float
    high: float
    verdict: str  # one of ``VERDICTS``


def audit(published: pd.DataFrame, sentences: Path = SENTENCES) -> list[Table]:
    """Three tables: averages and printed differences recomputed from the cells, and the sentences of ``sentences``.

    published: as of ``published.load_published``. Raises ``AnalysisError`` naming a sentence with wrong fields.
    """
    return [averages(published), differences(published), sentence_table(published, load_sentences(sentences))]


def averages(published: pd.DataFrame) -> Table:
    """Every printed average beside the mean of its row's cells; percent."""
    rows = []
    for table, setting in _places(published):
        over = shown_benchmarks(published, table, setting)
        for algo in names(published, "algo", table=table, setting=setting, benchmark=AVERAGE):
            shown = printed(published, table, setting, algo, AVERAGE)
            cells = [printed(published, table, setting, algo, benchmark) for benchmark in over]
            mean = math.fsum(cells) / len(cells)
            off = shown - mean
            contradicts = abs(off) > MEAN_TOLERANCE + NUMERIC_NOISE
            rows.append(
                (
                    str(table),
                    setting,
                    algo,
                    _number(shown, 1),
                    Entry(f"{mean:.2f}", mean, n=len(cells)),
                    _number(off, 2, "+", bold=contradicts),
                    _verdict(contradicts),
                )
            )
    found = sum(row[-1] != _verdict(False) for row in rows)
    return Table(
        "audit_averages",
        "Averages of the paper, recomputed from its cells (percent)",
        ("table", "setting", "algorithm", "printed", "recomputed", "printed - recomputed", "verdict"),
        tuple(rows),
        (
            f"{found} of {len(rows)} contradict. Rounding explains up to {MEAN_TOLERANCE:.2f}: 0.05 of the mean of "
            "cells that are rounded to one decimal and 0.05 of the printed average.",
        ),
        labels=3,
    )


def differences(published: pd.DataFrame) -> Table:
    """Every printed difference of two algorithms beside that of the two printed cells; percent points."""
    rows = []
    for record in published[published["source"] == "printed-delta"].to_dict("records"):
        table, setting, benchmark, shown = (record[key] for key in ("table", "setting", "benchmark", "value"))
        first, second = record["algo"].split("-")
        a, b = (printed(published, table, setting, algo, benchmark) for algo in (first, second))
        if math.isnan(a - b):
            raise AnalysisError(f"table {table}, {setting}, {benchmark}: {record['algo']} is printed without its cells")
        contradicts = abs(shown - (a - b)) > DELTA_TOLERANCE + NUMERIC_NOISE
        rows.append(
            (
                str(table),
                setting,
                benchmark,
                record["algo"].replace("-", " - "),
                _number(shown, 1, "+", bold=contradicts),
                _number(a - b, 1, "+", bold=contradicts),
                _number(a, 1),
                _number(b + shown, 1),
                _verdict(contradicts, wrong_sign=shown * (a - b) < 0),
            )
        )
    found = sum(row[-1] != _verdict(False) for row in rows)
    return Table(
        "audit_differences",
        "Printed differences of the paper, recomputed from its cells (percent points)",
        (
            "table",
            "setting",
            "benchmark",
            "difference",
            "printed",
            "recomputed",
            "first cell as printed",
            "first cell that the printed difference implies",
            "verdict",
        ),
        tuple(rows),
        (
            f"{found} of {len(rows)} contradict. Rounding explains up to {DELTA_TOLERANCE:.2f}: 0.05 of each cell and "
            "0.05 of the printed difference.",
        ),
        labels=4,
    )


def sentence_table(published: pd.DataFrame, sentences: Sequence[Sentence]) -> Table:
    """One row per sentence: in how many cells it holds, and those that contradict it."""
    rows = []
    for sentence in sentences:
        checked = check(published, sentence)
        by = {verdict: [c for c in checked if c.verdict == verdict] for verdict in VERDICTS}
        tested = len(checked) - len(by["not printed"])
        contradicted = ", ".join(_place(c, sentence, value=True) for c in by["contradicted"])
        rows.append(
            (
                sentence.id,
                f"{sentence.sentence} ({sentence.claim}; {sentence.where})",
                f"{' / ' if sentence.value == 'ratio' else ' - '}".join(sentence.arms)
                + f" {_condition(sentence)}"
                + (f": {sentence.reading}" if sentence.reading else ""),
                f"{len(by['holds'])} of {tested}",
                Entry(contradicted or "none", bold=bool(contradicted)),
                ", ".join(_place(c, sentence, value=True) for c in by["within rounding"]) or "none",
                ", ".join(_place(c, sentence) for c in by["not printed"]) or "none",
            )
        )
    return Table(
        "audit_sentences",
        "Sentences of the paper, checked on its own cells",
        ("id", "sentence", "condition", "holds in", "contradicted by", "within rounding", "not printed"),
        tuple(rows),
        (
            "The sentences are paraphrased and their conditions are this project's: results/paper/sentences.yaml. "
            "Within rounding: holds for some of the numbers that the printed ones can stand for, not for others.",
        ),
        labels=2,
    )


def check(published: pd.DataFrame, sentence: Sentence) -> list[Checked]:
    """The sentence on every pair of cells that it speaks of, in the file's order."""
    places = [
        (table, setting, benchmark)
        for table, setting in _places(published)
        if table in sentence.tables
        for benchmark in _benchmarks(published, table, setting, sentence)
    ]
    return [_check(published, sentence, *place) for place in places]


def load_sentences(path: Path = SENTENCES) -> list[Sentence]:
    """Read sentences.yaml; raises ``AnalysisError`` naming a sentence with unknown, missing or impossible fields."""
    sentences = []
    for entry in yaml.safe_load(path.read_text())["sentences"]:
        try:
            sentence = Sentence(**entry)
        except TypeError as error:
            raise AnalysisError(f"{path}: sentence {entry.get('id')}: {error}") from None
        if sentence.value not in ("difference", "ratio") or len(sentence.arms) != 2:
            raise AnalysisError(f"{path}: sentence {sentence.id}: needs two arms and value difference or ratio")
        sentences.append(sentence)
    return sentences


def _check(published: pd.DataFrame, sentence: Sentence, table: int, setting: str, benchmark: str) -> Checked:
    a, b = (printed(published, table, setting, algo, benchmark) for algo in sentence.arms)
    half = 0.5 if table == LENGTH_TABLE else 0.05
    if sentence.value == "ratio":
        value, low, high = a / b, (a - half) / (b + half), (a + half) / (b - half)
    else:
        value, low, high = a - b, a - b - 2 * half, a - b + 2 * half
    above = -math.inf if sentence.above is None else sentence.above
    below = math.inf if sentence.below is None else sentence.below
    if math.isnan(value):
        verdict = "not printed"
    elif above + NUMERIC_NOISE < low and high < below - NUMERIC_NOISE:
        verdict = "holds"
    elif high < above - NUMERIC_NOISE or low > below + NUMERIC_NOISE:
        verdict = "contradicted"
    else:
        verdict = "within rounding"
    return Checked(table, setting, benchmark, value, low, high, verdict)


def _places(published: pd.DataFrame) -> list[tuple[int, str]]:
    """Tables with their settings, in the file's order."""
    pairs = published[["table", "setting"]].drop_duplicates().itertuples(index=False)
    return [(int(table), str(setting)) for table, setting in pairs]


def _benchmarks(published: pd.DataFrame, table: int, setting: str, sentence: Sentence) -> list[str]:
    there = names(published, "benchmark", table=table, setting=setting)
    if sentence.benchmarks == "each":
        return [benchmark for benchmark in there if benchmark != AVERAGE]
    wanted = AVERAGE if sentence.benchmarks == "average" else sentence.benchmarks
    if wanted not in there:
        raise AnalysisError(f"sentence {sentence.id}: table {table}, {setting} has no {wanted}")
    return [wanted]


def _condition(sentence: Sentence) -> str:
    bounds: Mapping[str, Any] = {"above": sentence.above, "below": sentence.below}
    return " and ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)


def _place(checked: Checked, sentence: Sentence, value: bool = False) -> str:
    shown = f"{checked.value:.2f}" if sentence.value == "ratio" else f"{checked.value:+.1f}"
    return f"table {checked.table} {checked.setting} {checked.benchmark}" + (f" ({shown})" if value else "")


def _number(value: float, digits: int, sign: str = "", bold: bool = False) -> Entry:
    return Entry(f"{round(value, digits) + 0.0:{sign}.{digits}f}", value, bold=bold)


def _verdict(contradicts: bool, wrong_sign: bool = False) -> str:
    return "agrees" if not contradicts else "contradicts, wrong sign" if wrong_sign else "contradicts"
