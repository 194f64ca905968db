"""One HTML page of a report: opens offline, on a phone and printed. Figures are inside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.report.certificate import attrition_table, comparability_table, runs_table, verification_table
from analysis.report.numbers import Report
from analysis.report.sections import arms_table, claims_table, contrast_tables, of_experiment
from analysis.report.warnings import warnings
from analysis.statistics.claims import three_digits
from analysis.tables.table import Table, to_html

TEMPLATES = Path(__file__).parent / "templates"
WIDE = 1.8  # figures of a larger ratio of width to height get a line of their own


@dataclass(frozen=True)
class Drawn:
    """A figure as it is shown: name, title, PNG bytes."""

    name: str
    title: str
    png: bytes

    @property
    def wide(self) -> bool:
        width, height = (int.from_bytes(self.png[at : at + 4], "big") for at in (16, 20))  # PNG's IHDR
        return width > WIDE * height


@dataclass(frozen=True)
class Content:
    """What a report holds besides its numbers; figures and missing (figure -> reason) by experiment."""

    figures: Mapping[str, Sequence[Drawn]] = field(default_factory=dict)
    missing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    benchmarks: Sequence[Table] = ()
    settings: Sequence[Table] = ()
    paper: Sequence[Table] = ()


def own_tables(report: Report) -> dict[str, list[Table]]:
    """The tables made from the report's numbers, by chapter: claims, tables, matching, runs."""
    experiments = list(report["experiments"])
    return {
        "claims": [claims_table(report, name) for name in experiments],
        "tables": [t for name in experiments for t in (arms_table(report, name), *contrast_tables(report, name))],
        "matching": [
            table(report, name) for name in experiments for table in (comparability_table, verification_table)
        ],
        "runs": [*(attrition_table(report, name) for name in experiments), runs_table(report)],
    }


def render_page(name: str, report: Report, content: Content) -> str:
    """The page as text. Everything that comes from runs is escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    own = own_tables(report)
    claims = {
        experiment: {"html": _html(table), "results": of_experiment(report, experiment)}
        for experiment, table in zip(report["experiments"], own["claims"], strict=True)
    }
    figures = {
        experiment: [
            {"name": d.name, "title": d.title, "wide": d.wide, "data": base64.b64encode(d.png).decode()} for d in drawn
        ]
        for experiment, drawn in content.figures.items()
    }
    return environment.get_template("report.html").render(
        name=name,
        report=report,
        warnings=warnings(report),
        claims=claims,
        figures=figures,
        missing=content.missing,
        tables=[_html(table) for table in [*own["tables"], *content.benchmarks]],
        matching=[_html(table) for table in own["matching"]],
        run_list=[_html(table) for table in own["runs"]],
        settings=[_html(table) for table in content.settings],
        paper=[_html(table) for table in content.paper],
    )


def _html(table: Table) -> Markup:
    return Markup(to_html(table))  # to_html escapes


def _number(value: Any) -> str:
    return "-" if value is None else three_digits(float(value))
