"""What a printed percentage can stand for: which counts of right answers make it, and how sure it can be.

A benchmark of n questions, each answered k times, has one of n k + 1 shares of right answers; a printed cell that none
of them rounds to is impossible with this n and k (GRIM: Brown and Heathers 2017, doi:10.1177/1948550616673876).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

MOST_SAMPLES = 1024  # answers a question; more than anybody reports
NUMERIC_NOISE = 1e-9
# Questions of benchmarks that have one size; others must be told.
QUESTIONS = {
    "aime24": 30, "aime2024": 30, "aime25": 30, "aime2025": 30, "amc23": 40, "math500": 500, "gsm8k": 1319,
    "minerva": 272, "minervamath": 272, "gpqadiamond": 198, "humaneval": 164,
}  # fmt: skip
_NUMBER = re.compile(r"[-+\u2212\u2013]?\d+(?:\.(\d+))?")


@dataclass(frozen=True)
class Printed:
    """A number as it is printed, with so many decimals: it stands for all between ``low`` and ``high``."""

    value: float
    decimals: int

    @property
    def half(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0**-self.decimals

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half


def parse(text: str) -> Printed | None:
    """The number of a cell, without emphasis, percent sign, arrows and what follows (``**41.7** ± 0.3``); or None."""
    bare = text.strip().strip("*_$ ").lstrip("\u2191\u2193(").strip()
    found = _NUMBER.match(bare)
    if not found:
        return None
    number = found.group().replace("\u2212", "-").replace("\u2013", "-")
    return Printed(float(number), len(found.group(1) or ""))


def questions_of(benchmark: str) -> int | None:
    """Questions of a benchmark that everybody knows, by its name in any spelling; None for others."""
    return QUESTIONS.get(bare(benchmark))


def bare(name: str) -> str:
    """A name without case, blanks and signs: ``MATH-500`` and ``math 500`` are one."""
    return re.sub(r"[\W_]", "", name.lower())


def possible(cell: Printed, questions: int, samples: int) -> bool:
    """Whether some number of right answers out of ``questions * samples`` rounds to the printed percentage.

    Either way of rounding a half counts as right.
    """
    answers = questions * samples
    least = max(math.ceil(cell.low / 100 * answers - NUMERIC_NOISE), 0)
    return least <= min(math.floor(cell.high / 100 * answers + NUMERIC_NOISE), answers)


def smallest_samples(cells: Iterable[Printed], questions: int, of: Iterable[int] | None = None) -> int | None:
    """The fewest answers a question with which every cell is possible, of the numbers ``of`` (all up to
    ``MOST_SAMPLES``); None if there is no such number."""
    cells = list(cells)
    candidates = range(1, MOST_SAMPLES + 1) if of is None else of
    return next((k for k in candidates if all(possible(cell, questions, k) for cell in cells)), None)


def standard_error(percent: float, questions: int) -> float:
    """Of a benchmark's percentage over questions, at most: sqrt(p (1 - p) / n), percent points.

    Exact for one answer a question. More answers make it smaller, down to what the questions' own difficulty leaves,
    which a table does not show.
    """
    share = min(max(percent / 100, 0.0), 1.0)
    return 100 * math.sqrt(share * (1 - share) / questions)
