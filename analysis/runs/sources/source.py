"""What every reader of another framework's records gives: rows under their names, in the order they were written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.runs.load import AnalysisError

Row = Mapping[str, Any]  # their name -> a number, None, or anything else, which is no metric


@dataclass
class Source:
    """Records of one run. Nothing of the files is changed.

    framework: what wrote them, as a reader knows it. files: those that were read, () for what is not on this machine
    (``where``). rows: reads them, a row at a time. settings: the configuration that they state, nested or flat.
    planned: steps that the run was to train, in the records' unit. exit_code: how the process ended. notes: what a
    reader has to know; complete once all rows are read.
    """

    framework: str
    files: tuple[Path, ...]
    rows: Callable[[], Iterator[Row]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    planned: int | None = None
    exit_code: int | None = None
    where: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def named(self) -> str:
        return self.where or ", ".join(map(str, self.files))


def one_of(names: list[str], wanted: str | None, where: str) -> str:
    """The run's name in records that may hold several; raises ``AnalysisError`` where it is not clear which."""
    if wanted is not None:
        if wanted in names:
            return wanted
        raise AnalysisError(f"{where}: no run {wanted}; there are {listed(names)}")
    if len(names) == 1:
        return names[0]
    if not names:
        raise AnalysisError(f"{where}: holds no run")
    raise AnalysisError(f"{where}: holds {len(names)} runs ({listed(names)}); choose one with --run-name")


def listed(names: list[str], most: int = 8) -> str:
    """Names with commas, the first ``most`` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
