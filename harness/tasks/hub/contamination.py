"""Questions of a benchmark among training questions."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

N = 13  # words; the usual length for finding benchmark text in training text (Brown et al. 2020, appendix C)
WORD = re.compile(r"\w+")


def words(text: str) -> tuple[str, ...]:
    """The words of a text (letters, digits, underscores), without case and typographic variants: signs do not count."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text.replace("<image>", " ")).casefold()))


def overlap(train: Mapping[int, str], benchmark: Mapping[int, str]) -> dict[str, Any]:
    """How many training questions are questions of a benchmark; both are ``{index: question}``.

    ``same``: equal word by word (``words``), which signs cannot tell apart; ``shared_13_words``: 13 words in a row in
    common, equal ones included. ``pairs``: [training index, benchmark index] of each training question found.
    """
    same: dict[tuple[str, ...], int] = {}
    runs: dict[tuple[str, ...], int] = {}
    for index, question in benchmark.items():
        found = words(question)
        if found:
            same.setdefault(found, index)
        for run in _runs(found):
            runs.setdefault(run, index)
    equal, pairs = 0, []
    for index, question in train.items():
        found = words(question)
        hit = same.get(found)
        equal += hit is not None
        if hit is None:
            hit = next((runs[run] for run in _runs(found) if run in runs), None)
        if hit is not None:
            pairs.append([index, hit])
    return {"questions": len(benchmark), "same": equal, f"shared_{N}_words": len(pairs), "pairs": pairs}


def _runs(found: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (found[i : i + N] for i in range(len(found) - N + 1))
