"""The interactive parts of a page: curves to choose from, and responses side by side. Without JavaScript they read too.

uPlot draws the curves: 50 kB with its styles, so the page stays one file that opens offline; it draws on a canvas, so
thousands of points stay quick; and it is maintained (``vendor/README.md`` has version, licence and source).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from analysis.report.explorer import explorer
from analysis.report.packed import packed
from analysis.report.responses import responses
from analysis.runs.load import Runs

VENDOR = Path(__file__).parent / "vendor"


@dataclass(frozen=True)
class Interactive:
    """What the scripts of one experiment's part show: ``explorer.explorer`` (or None) and ``responses.responses``."""

    curves: Mapping[str, Any] | None
    texts: Mapping[str, Any]


def interactive(runs: Runs) -> Interactive:
    """Both, of the runs of one experiment."""
    return Interactive(explorer(runs), responses(runs))


def explorer_html(environment: Environment, name: str, curves: Mapping[str, Any]) -> Markup:
    """The chooser of curves with its data; ``name``: an id that no other part of the page has."""
    shown = {
        **curves,
        "quantities": [{"choice": (one["id"], one["label"])} for one in curves["quantities"]],
        "axes": [{"choice": (one["id"], one["label"])} for one in curves["axes"]],
        "windows": [(window, _window(window)) for window in _windows(curves)],
    }
    return _macro(environment, "explorer")(name, shown, packed(curves))


def responses_html(environment: Environment, name: str, texts: Mapping[str, Any], level: int) -> Markup:
    """The responses side by side, those of the last step as text that needs no script; ``name`` as above.

    level: of the heading above it.
    """
    shown = {**texts, "kinds": [{"choice": (one["id"], one["label"])} for one in texts["kinds"]]}
    shown["seeds"] = [(seed, seed) for seed in texts["seeds"]]
    return _macro(environment, "responses")(name, shown, _first(texts), packed(texts), level)


def library(name: str) -> Markup:
    """The file ``name`` of ``vendor`` as it stands."""
    return Markup((VENDOR / name).read_text(encoding="utf-8"))


def _macro(environment: Environment, name: str) -> Any:
    return getattr(environment.get_template("interactive.html").module, name)


def _windows(curves: Mapping[str, Any]) -> list[int]:
    return sorted({window for one in curves["quantities"] for window in one["windows"]})


def _window(window: int) -> str:
    return "none" if window == 1 else f"mean of {window} points"


def _first(texts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first prompt of the first kind and seed at its last step, which the scripts show first, too."""
    if not texts["units"]:
        return None
    kind, seed = texts["kinds"][0], texts["seeds"][0]
    of = [u for u in texts["units"] if (u["kind"], u["seed"], u["place"]) == (kind["id"], seed, 0)]
    return max(of or texts["units"], key=lambda unit: unit["step"])
