"""One HTML page of a report: opens offline, on a phone and printed. Figures are inside it."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.report.answer import NOT_ADJUSTED, answer, conditions, intervals
from analysis.report.certificate import (
    attrition_table,
    comparability_table,
    imported_tables,
    runs_table,
    verification_table,
)
from analysis.report.interactive import Interactive, explorer_html, library, responses_html
from analysis.report.numbers import Report
from analysis.report.sections import arms_table, claims_table, contrast_tables, of_experiment
from analysis.report.warnings import warnings
from analysis.statistics.claim_file import three_digits
from analysis.tables.table import Table, to_html

TEMPLATES = Path(__file__).parent / "templates"
HEADLINE, CONTRASTS = "headline", "contrasts"  # the picture beside the answer, and every pair of arms
# The tiles of an experiment: the question that it answers, and its figures. Others, the paper's among them, come last.
TILES = {
    "Any two losses: how do they differ?": (CONTRASTS,),
    "Length: how long are the responses?": (
        "response_length", "length_right_wrong", "length_finished_truncated", "length_quantiles", "length_pressure",
        "pressure_parts", "val_response_length",
    ),
    "Accuracy: are they right?": ("accuracy", "val_accuracy", "length_accuracy", "reward", "reward_parts"),
    "Clipping: what does the loss leave out?": ("clip_fraction", "clip_by_sign", "effective_weight"),
    "Cost and movement: what was spent?": ("spending", "entropy", "grad_norm"),
}  # fmt: skip
OTHERS = "After the paper's figures"


@dataclass(frozen=True)
class Drawn:
    """A figure as it is shown: name, title, PNG bytes."""

    name: str
    title: str
    png: bytes

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, of PNG's IHDR."""
        return int.from_bytes(self.png[16:20], "big"), int.from_bytes(self.png[20:24], "big")


@dataclass(frozen=True)
class Content:
    """What a report holds besides its numbers; figures, missing (figure -> reason) and interactive by experiment."""

    figures: Mapping[str, Sequence[Drawn]] = field(default_factory=dict)
    missing: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    benchmarks: Sequence[Table] = ()
    settings: Sequence[Table] = ()
    paper: Sequence[Table] = ()
    interactive: Mapping[str, Interactive] = field(default_factory=dict)


def own_tables(report: Report) -> dict[str, list[Table]]:
    """The tables made from the report's numbers, by chapter: claims, tables, matching, runs."""
    experiments = list(report["experiments"])
    return {
        "claims": [claims_table(report, name) for name in experiments if of_experiment(report, name)],
        "tables": [t for name in experiments for t in (arms_table(report, name), *contrast_tables(report, name))],
        "matching": [table(report, name) for name in experiments for table in (comparability_table, verification_table)]
        + [table for name in experiments for table in imported_tables(report, name)],
        "runs": [*(attrition_table(report, name) for name in experiments), runs_table(report)],
    }


def render_page(name: str, report: Report, content: Content) -> str:
    """The page as text. Everything that comes from runs is escaped."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = _number
    environment.globals["library"] = library
    parts = []
    for number, experiment in enumerate(report["experiments"]):
        part = _experiment(report, content, experiment)
        shown = content.interactive.get(experiment)
        parts.append(part | _interactive(environment, shown, number, level=2 if len(report["experiments"]) == 1 else 3))
    return environment.get_template("report.html").render(
        name=name,
        report=report,
        warnings=warnings(report),
        experiments=parts,
        scripts=any(part["explorer"] or part["responses"] for part in parts),
        runs=_html(runs_table(report)),
        benchmarks=[_html(table) for table in content.benchmarks],
        settings=[_html(table) for table in content.settings],
        paper=[_html(table) for table in content.paper],
    )


def _experiment(report: Report, content: Content, experiment: str) -> dict[str, Any]:
    """What the template shows of one experiment."""
    figures = {drawn.name: drawn for drawn in content.figures.get(experiment, ())}
    tiles = {title: [figures[name] for name in names if name in figures] for title, names in TILES.items()}
    placed = {HEADLINE, *(name for names in TILES.values() for name in names)}
    tiles[OTHERS] = [drawn for name, drawn in figures.items() if name not in placed]
    claims = of_experiment(report, experiment)
    return {
        "name": experiment,
        "answer": answer(report, experiment),
        "conditions": conditions(report, experiment),
        "intervals": intervals(report, experiment),
        "looks": NOT_ADJUSTED.format("bands are") if report["experiments"][experiment].get("repeated") else "",
        "note": report["experiments"][experiment]["note"],
        "headline": _shown(figures[HEADLINE]) if HEADLINE in figures else None,
        "tiles": {title: [_shown(drawn) for drawn in some] for title, some in tiles.items() if some},
        "contrasts": [_html(table) for table in (arms_table(report, experiment), *contrast_tables(report, experiment))],
        "claims": {"html": _html(claims_table(report, experiment)), "results": claims} if claims else None,
        "proofs": [
            _html(table(report, experiment)) for table in (comparability_table, verification_table, attrition_table)
        ]
        + [_html(table) for table in imported_tables(report, experiment)],
        "missing": content.missing.get(experiment, {}),
    }


def _interactive(environment: Environment, shown: Interactive | None, number: int, level: int) -> dict[str, Markup]:
    """The parts for the scripts, of the experiment ``number`` of the page; empty where there is nothing for them.

    level: of the headings of its parts.
    """
    if shown is None:
        return {"explorer": Markup(), "responses": Markup()}
    curves = explorer_html(environment, f"curves-{number}", shown.curves) if shown.curves else Markup()
    return {"explorer": curves, "responses": responses_html(environment, f"responses-{number}", shown.texts, level)}


def _shown(drawn: Drawn) -> dict[str, Any]:
    """The picture in the page's own text, and its size."""
    width, height = drawn.size
    data = base64.b64encode(drawn.png).decode()
    return {
        "name": drawn.name,
        "title": drawn.title,
        "data": data,
        "width": width,
        "height": height,
    }


def _html(table: Table) -> Markup:
    return Markup(to_html(table))  # to_html escapes


def _number(value: Any) -> str:
    return "-" if value is None else three_digits(float(value))
