"""Figures drawn side by side: the same files as one after the other, and one that fails ends none of the others."""

import io
import os
import signal
from functools import partial
from pathlib import Path

import pytest
from fake_runs import training_like, write_run
from rich.console import Console

from analysis import AnalysisError, load_runs
from analysis.report import drawing
from analysis.report.drawing import FigureOptions, figures_written
from analysis.report.processes import side_by_side
from analysis.report.write import write_figures, write_report

NAMES = ("response_length", "accuracy", "clip_fraction")


def square(of: int) -> int:
    return of * of


def fail() -> int:
    raise ValueError("of this\nvalue")


def die() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize("processes", [1, 2])
def test_values_come_in_their_order_and_a_failure_is_a_reason(processes: int) -> None:
    calls = [partial(square, 2), fail, partial(square, 3)]
    with side_by_side(calls, processes) as waits:
        came = [wait() for wait in waits]
    assert [one.value for one in came] == [4, None, 9]
    assert [one.reason for one in came] == ["", "ValueError: of this value", ""]


def test_they_are_other_processes_and_none_is_left() -> None:
    with side_by_side([os.getpid, os.getpid], 2) as waits:
        found = {wait().value for wait in waits}
    assert os.getpid() not in found
    for pid in found:
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


def test_a_process_that_dies_is_a_reason() -> None:
    with side_by_side([die, partial(square, 2)], 2) as waits:
        came = [wait() for wait in waits]
    assert "was ended" in came[0].reason
    assert came[1].value == 4 or "was ended" in came[1].reason


@pytest.fixture
def runs_folder(tmp_path: Path) -> Path:
    for arm in ("gspo", "luspo"):
        for seed in range(3):
            write_run(tmp_path / "runs", training_like(8, seed), arm=arm, seed=seed)
    return tmp_path / "runs"


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_side_by_side_is_the_same_bytes_as_one_after_the_other(runs_folder: Path, tmp_path: Path) -> None:
    for processes in (1, 3):
        view = FigureOptions(processes=processes)
        console = Console(file=io.StringIO())
        write_report(load_runs(runs_folder), "x", tmp_path / "report" / str(processes), view, console)
    one, three = (files(tmp_path / "report" / processes) for processes in ("1", "3"))
    assert sum(name.endswith(".png") for name in one) > 3
    assert one.keys() == three.keys()
    assert [name for name in one if one[name] != three[name]] == []


def test_a_figure_that_fails_leaves_the_others(
    runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = drawing.draw_figure

    def some(name: str, *rest: object) -> object:
        if name == "accuracy":
            raise AnalysisError("figure accuracy: nothing to see")
        if name == "clip_fraction":
            raise KeyError("a mistake")
        return real(name, *rest)  # pyright: ignore

    monkeypatch.setattr(drawing, "draw_figure", some)
    for processes in (1, 2):
        stream = io.StringIO()
        view = FigureOptions(processes=processes)
        written = write_figures(load_runs(runs_folder), tmp_path / "out", view, Console(file=stream, width=60), NAMES)
        assert [file.name for file in written] == ["response_length.png", "response_length.pdf"]
        assert "missing accuracy: nothing to see\n" in stream.getvalue()
        assert "missing clip_fraction: could not be drawn (KeyError: 'a mistake')\n" in stream.getvalue()


def test_they_come_in_the_order_of_the_catalogue(runs_folder: Path, tmp_path: Path) -> None:
    runs = load_runs(runs_folder)
    with figures_written(runs, FigureOptions(processes=2), NAMES, lambda _: tmp_path / "out", page=True) as drawn:
        names = [one.name for one in drawn()]
    assert names == ["response_length", "clip_fraction", "accuracy", "headline"]
