"""The figures of runs: which are wanted, drawn and written side by side, and why the others are missing."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from analysis.figures.headline import METRIC, headline, save_headline
from analysis.figures.style import save
from analysis.report.catalogue import FIGURES, draw_figure, missing
from analysis.report.page import HEADLINE
from analysis.report.processes import side_by_side
from analysis.runs.load import AnalysisError, Runs, require_metric
from analysis.statistics.arms import require_view, x_axis
from analysis.statistics.matched import require_matched
from analysis.statistics.movement import with_movement
from analysis.statistics.selection import Choice


@dataclass(frozen=True)
class FigureOptions:
    """How figures are drawn (``draw_figure``), of which runs, which arms are compared (``chosen_pairs``), and what is
    claimed of them.

    baseline: the arm that every other one is compared with, "" for the claims' pairs. claims: a file of them, None for
    the paper's where they apply (``claims_for``). processes: how many draw side by side (``side_by_side``).
    """

    x: str = "step"
    smooth: int = 1
    paper_axes: bool = False
    choice: Choice | None = None
    contrasts: Sequence[str] = ()
    baseline: str = ""
    claims: Path | None = None
    processes: int | None = None


@dataclass(frozen=True)
class Written:
    """What came of one figure: its files, or why it is missing."""

    experiment: str
    name: str
    files: tuple[Path, ...] = ()
    reason: str = ""


def varies_of(view: FigureOptions) -> Sequence[str]:
    """The keys in which the runs may differ."""
    return view.choice.varies if view.choice else ()


@contextmanager
def figures_written(
    runs: Runs, view: FigureOptions, names: Collection[str], folder: Callable[[str], Path], page: bool = False
) -> Iterator[Callable[[], Iterator[Written]]]:
    """Begin to draw the figures ``names``; gives a function that waits for all, in their order.

    folder: of an experiment's figures. page: with the headline of each experiment. A figure
    after the paper's is drawn once, for the first of its experiments, "" if that has no runs; the others for each
    experiment. Raises ``AnalysisError`` if the runs of an experiment are not matched, or if no run recorded what the x
    axis needs.
    """
    require_view(view.smooth, view.x, view.paper_axes)
    runs = runs.trained()
    parts = {str(name): runs.select(experiment=name) for name in runs.runs["experiment"].unique()}
    parts = {name: with_movement(part) if view.x == "kl" else part for name, part in parts.items()}
    for part in parts.values():
        require_matched(part, varies_of(view))
        if view.x != "step":
            require_metric(part.metrics, x_axis(view.x).column(part.metrics))
    for run in runs.runs["run"]:
        runs.rows_proof(run)  # once, before there are several processes that would each ask
    for part in parts.values():
        _ = part.recorded
    wanted = [name for name in FIGURES if name in names]
    groups = [group for experiment, part in parts.items() for group in _groups(experiment, part, runs, wanted, page)]
    groups.sort(key=lambda group: not FIGURES[group[0][1]].responses if group[0][1] in FIGURES else True)
    calls = [partial(_draw_all, group, view, folder) for group in groups]
    with side_by_side(calls, view.processes) as waits:

        def written() -> Iterator[Written]:
            found: dict[tuple[str, str], Written] = {}
            for group, wait in zip(groups, waits, strict=True):
                came = wait()
                for at, (experiment, name, _) in enumerate(group):
                    failed = Written(experiment, name, reason=f"could not be drawn ({came.reason})")
                    found[experiment, name] = came.value[at] if came.value else failed
            order = [(experiment, name) for experiment in parts for name in (*wanted, HEADLINE)]
            yield from (found[key] for key in order if key in found)
            for name in wanted:
                entry = FIGURES[name]
                if entry.experiments and entry.experiments[0] not in parts:
                    yield Written("", name, reason=missing(name, runs, varies_of(view)))

        yield written


def _groups(
    experiment: str, part: Runs, runs: Runs, wanted: Sequence[str], page: bool
) -> Iterator[list[tuple[str, str, Runs]]]:
    """(experiment, name, runs) of each figure; those that share what they are made from in one list, the others each
    in one of its own."""
    shared: dict[str, list[tuple[str, str, Runs]]] = {}
    for name in wanted:
        entry = FIGURES[name]
        if not entry.experiments or entry.experiments[0] == experiment:
            shared.setdefault(entry.shares or name, []).append((experiment, name, runs if entry.experiments else part))
    yield from shared.values()
    if page and METRIC in part.metrics and part.metrics[METRIC].notna().any():
        yield [(experiment, HEADLINE, part)]


def _draw_all(
    group: Sequence[tuple[str, str, Runs]], view: FigureOptions, folder: Callable[[str], Path]
) -> list[Written]:
    """``Written`` of a group; one that fails leaves the others."""
    return [_draw(experiment, name, runs, view, folder(experiment)) for experiment, name, runs in group]


def _draw(experiment: str, name: str, runs: Runs, view: FigureOptions, folder: Path) -> Written:
    try:
        if name == HEADLINE:
            files = [save_headline(headline(runs.metrics), folder / f"{HEADLINE}.png")]
        else:
            drawn = draw_figure(name, runs, None, view.x, view.smooth, view.paper_axes, varies_of(view))
            files = save(drawn, folder / name)
    except AnalysisError as error:
        return Written(experiment, name, reason=str(error).removeprefix(f"figure {name}: "))
    return Written(experiment, name, tuple(files))
