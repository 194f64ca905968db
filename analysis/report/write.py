"""What runs leave for a reader: figures, tables, ``report.json`` and one HTML page."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from analysis.figures.forest import forest
from analysis.figures.headline import METRIC, headline, said_of, save_headline
from analysis.figures.style import save
from analysis.paper.audit import audit
from analysis.paper.published import load_published
from analysis.paper.tables import benchmark_table, paper_table
from analysis.report.answer import answer
from analysis.report.catalogue import FIGURES, draw_figure, missing
from analysis.report.missing import missing_for_verdicts
from analysis.report.numbers import Report, build_report
from analysis.report.page import CONTRASTS, HEADLINE, Content, Drawn, own_tables, render_page
from analysis.runs.load import AnalysisError, Runs, require_metric
from analysis.statistics.arms import require_view, x_axis
from analysis.statistics.claim_file import load_claims
from analysis.statistics.comparison import MARGINS
from analysis.statistics.matched import require_matched
from analysis.statistics.movement import with_movement
from analysis.statistics.selection import Choice, choose
from analysis.tables.pass_at_k import pass_table
from analysis.tables.render import save as save_table
from analysis.tables.settings import settings_table
from harness.rundir import write_json

REPORTS = Path("results/reports")
PAPER_TABLES = (2, 3, 4, 5)

PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # how paths and names are printed


@dataclass(frozen=True)
class FigureOptions:
    """How figures are drawn (``draw_figure``), of which runs, and which arms are compared (``chosen_pairs``)."""

    x: str = "step"
    smooth: int = 1
    paper_axes: bool = False
    choice: Choice | None = None
    contrasts: Sequence[str] = ()


def varies_of(view: FigureOptions) -> Sequence[str]:
    """The keys in which the runs may differ."""
    return view.choice.varies if view.choice else ()


def write_figures(
    runs: Runs,
    out: Path | None = None,
    view: FigureOptions | None = None,
    console: Console | None = None,
    names: Collection[str] | None = None,
) -> list[Path]:
    """Draw the figures ``names`` (every entry of ``FIGURES``), say where, and list those that are missing and why.

    ``out``: folder of the figures, with several experiments a folder in it for each; by default where the report of
    these experiments has them, so that it replaces them. Raises ``AnalysisError`` if the runs of an experiment are not
    matched: one figure would contrast them; or if no run recorded what the x axis needs.
    """
    console, view = console or Console(), view or FigureOptions()
    runs = choose(runs, view.choice)
    say_left_out(runs, console)
    figures_of = folder_of(runs, out or REPORTS / "+".join(runs.runs["experiment"].unique()) / "figures")
    several = runs.runs["experiment"].nunique() > 1
    written: list[Path] = []
    absent: list[str] = []
    for experiment, name, drawn, reason in _figures(runs, view, names or FIGURES):
        if drawn is None:
            absent.append(f"missing {name}{f' in {experiment}' if several and experiment else ''}: {reason}")
            continue
        png, pdf = save(drawn, figures_of(experiment) / name)
        console.print(f"wrote {png} and .pdf", **PLAIN)
        written += [png, pdf]
    for line in absent:
        console.print(line, **PLAIN)
    return written


def write_report(
    runs: Runs, name: str, out: Path | None = None, view: FigureOptions | None = None, console: Console | None = None
) -> Path:
    """Write ``index.html``, ``report.json``, ``figures/`` and ``tables/`` into ``out`` (``results/reports/<name>``).

    Returns the page's path. Raises ``AnalysisError`` as ``write_figures`` does.
    """
    console, view = console or Console(), view or FigureOptions()
    folder = out or REPORTS / name
    runs = choose(runs, view.choice)
    say_left_out(runs, console)
    with console.status("claims and contrasts") as status:
        claims = load_claims()
        report = build_report(runs, claims, varies_of(view), view.contrasts)
        figures_of = folder_of(runs, folder / "figures")
        figures: dict[str, list[Drawn]] = {experiment: [] for experiment in report["experiments"]}
        absent: dict[str, dict[str, str]] = {experiment: {} for experiment in report["experiments"]}
        for experiment, figure, drawn, reason in _figures(runs, view, FIGURES):
            status.update(f"figure {figure} {experiment}")
            if drawn is None:
                absent.setdefault(experiment or "paper", {})[figure] = reason
                continue
            png, _ = save(drawn, figures_of(experiment) / figure)
            figures[experiment].append(Drawn(figure, FIGURES[figure].title, png.read_bytes()))
        for experiment, part in report["experiments"].items():
            figures[experiment] += _answers(part, runs.select(experiment=experiment).trained(), figures_of(experiment))
            part["answer"] = answer(report, experiment)
        report["missing_figures"] = absent
        status.update("tables")
        published = load_published()
        parts = [runs.select(experiment=experiment) for experiment in report["experiments"]]
        content = Content(
            figures,
            absent,
            benchmarks=[
                benchmark_table(runs, varies=varies_of(view)),
                pass_table(runs),
                *(paper_table(number, runs, published, varies=varies_of(view)) for number in PAPER_TABLES),
            ],
            settings=[settings_table(part.trained()) for part in parts],
            paper=audit(published),
        )
        own = own_tables(report)
        tables = [
            *(t for chapter in own.values() for t in chapter),
            *content.benchmarks,
            *content.settings,
            *content.paper,
        ]
        for table in tables:
            save_table(table, folder / "tables")
        write_json(folder / "report.json", report)
        page = folder / "index.html"
        page.write_text(render_page(name, report, content), encoding="utf-8")
    shown = sum(map(len, figures.values()))
    lines = [f"wrote {page}: {len(runs.runs)} runs, {shown} figures, {len(tables)} tables"]
    if lacking := sum(map(len, absent.values())):
        lines.append(
            f"{lacking} figures need other runs or records: missing_figures in {folder / 'report.json'} says which"
        )
    several = len(report["experiments"]) > 1
    for experiment, part in report["experiments"].items():
        lines += [f"{experiment}: {said}" if several else said for said in part["answer"]]
    lines += missing_for_verdicts(report, claims)
    lines.append(f"open {page} in a browser")
    for line in lines:
        console.print(line, **PLAIN)
    return page


def _answers(content: Report, runs: Runs, folder: Path) -> Iterator[Drawn]:
    """The picture beside the answer, and the forest plot of every pair of arms, where there is something to compare."""
    if METRIC in runs.metrics and runs.metrics[METRIC].notna().any():
        path = save_headline(headline(runs.metrics), folder / f"{HEADLINE}.png")
        counts = {arm["arm"]: arm["n"] for arm in content["arms"]}
        yield Drawn(HEADLINE, said_of(counts), path.read_bytes())
    if any(record["n"] for record in content.get("comparisons", ())):
        path, _ = save(forest(content["comparisons"], MARGINS), folder / CONTRASTS)
        yield Drawn(CONTRASTS, "every pair of losses on each basis of comparison", path.read_bytes())


def folder_of(runs: Runs, figures: Path) -> Callable[[str], Path]:
    """Where an experiment's figures are: a folder for each in ``figures``, or that itself where there is but one."""
    several = runs.runs["experiment"].nunique() > 1
    return lambda experiment: figures / experiment if several else figures


def say_left_out(runs: Runs, console: Console) -> None:
    """A line for each reason why runs are not part of what follows, and how to see them instead."""
    by_reason: dict[str, list[str]] = {}
    for run, reason in runs.left_out.items():
        by_reason.setdefault(reason, []).append(run)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.print(f"left out: {', '.join(names[:3])}{more}: {reason}", style="yellow", **PLAIN)
    if by_reason:
        how = "--only NAME, --exclude NAME or --varies KEY"
        console.print(f'to report others, give {how}: make report ARGS="..."', **PLAIN)


def _figures(
    runs: Runs, view: FigureOptions, names: Collection[str]
) -> Iterator[tuple[str, str, Axes | Figure | None, str]]:
    """(experiment, name, figure, "") of every figure, or (experiment, name, None, why it is missing).

    A figure after the paper's is drawn once, for the first of its experiments, "" if that has no runs; the others for
    each experiment.
    """
    require_view(view.smooth, view.x, view.paper_axes)
    runs = runs.trained()
    parts = {str(name): runs.select(experiment=name) for name in runs.runs["experiment"].unique()}
    experiments = {name: with_movement(part) if view.x == "kl" else part for name, part in parts.items()}
    for part in experiments.values():
        require_matched(part, varies_of(view))
        if view.x != "step":
            require_metric(part.metrics, x_axis(view.x).column(part.metrics))
    wanted = [name for name in FIGURES if name in names]
    for experiment, part in experiments.items():
        for name in wanted:
            entry = FIGURES[name]
            if entry.experiments and entry.experiments[0] != experiment:
                continue
            shown = runs if entry.experiments else part
            try:
                drawn = draw_figure(name, shown, None, view.x, view.smooth, view.paper_axes, varies_of(view))
            except AnalysisError as error:
                yield experiment, name, None, str(error).removeprefix(f"figure {name}: ")
                continue
            yield experiment, name, drawn, ""
    for name in wanted:
        entry = FIGURES[name]
        if entry.experiments and entry.experiments[0] not in experiments:
            yield "", name, None, missing(name, runs, varies_of(view))
