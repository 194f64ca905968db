"""What runs leave for a reader: figures, tables, ``report.json`` and one HTML page."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.figures.forest import QUESTION, forest
from analysis.figures.headline import said_of
from analysis.figures.style import save
from analysis.paper.audit import audit
from analysis.paper.claims import claims_for, is_of_paper
from analysis.paper.published import load_published
from analysis.paper.tables import benchmark_table, paper_table
from analysis.report.answer import answer
from analysis.report.arguments import REPORTS
from analysis.report.catalogue import FIGURES, OURS
from analysis.report.drawing import FigureOptions, Written, figures_written, varies_of
from analysis.report.interactive import interactive
from analysis.report.missing import missing_for_verdicts
from analysis.report.numbers import Report, build_report
from analysis.report.page import CONTRASTS, HEADLINE, Content, Drawn, own_tables, render_page
from analysis.runs.load import KEYS, Runs
from analysis.statistics.claim_file import Claims
from analysis.statistics.comparison import MARGINS, require_baseline
from analysis.statistics.selection import choose
from analysis.tables.pass_at_k import pass_table
from analysis.tables.render import save as save_table
from analysis.tables.settings import settings_table
from harness.rundir import write_json

PAPER_TABLES = (2, 3, 4, 5)

PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # how paths and names are printed


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
    with figures_written(runs, view, names or FIGURES, figures_of) as drawn:
        for one in drawn():
            if one.reason:
                where = f" in {one.experiment}" if several and one.experiment else ""
                absent.append(f"missing {one.name}{where}: {one.reason}")
                continue
            console.print(f"wrote {one.files[0]} and .pdf", **PLAIN)
            written += one.files
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
    claims = claims_of(runs, view)
    runs = choose(runs, view.choice)
    say_left_out(runs, console)
    figures_of = folder_of(runs, folder / "figures")
    papers = is_of_paper(set(runs.runs["experiment"]))  # to anybody else's runs the paper's numbers say nothing
    names = FIGURES if papers else OURS
    # First the processes that draw, then the thread that shows what goes on.
    with figures_written(runs, view, names, figures_of, page=True) as drawn, console.status("claims") as status:
        report = build_report(runs, claims, varies_of(view), view.contrasts)
        published = load_published() if papers else None
        parts = [runs.select(experiment=experiment) for experiment in report["experiments"]]
        content = Content(
            benchmarks=[
                benchmark_table(runs, varies=varies_of(view)),
                pass_table(runs),
                *(
                    paper_table(n, runs, published, varies=varies_of(view))
                    for n in PAPER_TABLES
                    if published is not None
                ),
            ],
            settings=[settings_table(part.trained()) for part in parts],
            paper=audit(published) if published is not None else (),
            interactive={name: interactive(runs.select(experiment=name).trained()) for name in report["experiments"]},
        )
        status.update("figures")
        figures, absent = _figures(drawn(), report, figures_of)
        report["missing_figures"] = absent
        for experiment, part in report["experiments"].items():
            part["answer"] = answer(report, experiment)
        content = replace(content, figures=figures, missing=absent)
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


def claims_of(runs: Runs, view: FigureOptions) -> Claims:
    """The claims that a report of ``runs`` decides, and the pairs of arms that it compares.

    Raises ``AnalysisError`` for a file of claims or a baseline that does not fit the runs.
    """
    arms, recorded = set(runs.runs["arm"]), set(runs.metrics.columns) - {*KEYS, "step"}
    claims = claims_for(set(runs.runs["experiment"]), view.claims, arms, recorded)
    if not view.baseline:
        return claims
    require_baseline(view.baseline, arms)
    return replace(claims, pairs=(), baselines=(view.baseline,))


def _figures(
    written: Iterable[Written], report: Report, folder: Callable[[str], Path]
) -> tuple[dict[str, list[Drawn]], dict[str, dict[str, str]]]:
    """The page's figures, and why others are missing, by experiment; with the forest plot of every pair of arms, where
    there is something to compare."""
    figures: dict[str, list[Drawn]] = {experiment: [] for experiment in report["experiments"]}
    absent: dict[str, dict[str, str]] = {experiment: {} for experiment in report["experiments"]}
    for one in written:
        if one.reason:
            absent.setdefault(one.experiment or "paper", {})[one.name] = one.reason
            continue
        if one.name == HEADLINE:
            arms = report["experiments"][one.experiment]["arms"]
            title = said_of({arm["arm"]: arm["n"] for arm in arms})
        else:
            title = FIGURES[one.name].title
        figures[one.experiment].append(Drawn(one.name, title, one.files[0].read_bytes()))
    for experiment, part in report["experiments"].items():
        if any(record["n"] for record in part.get("comparisons", ())):
            png, _ = save(forest(part["comparisons"], MARGINS, bool(part["repeated"])), folder(experiment) / CONTRASTS)
            figures[experiment].append(Drawn(CONTRASTS, QUESTION, png.read_bytes()))
    return figures, absent


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
