"""The figures of LUSPO (arXiv 2602.05261v1) as data: which runs they contrast, on which axes. No values exist.

Source: ``results/paper/settings.yaml``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes

from analysis.figures.captions import sentence
from analysis.figures.curves import Curve, Limits, draw_curves
from analysis.figures.layout import single_axes, write_caption
from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.arms import require_view

SETTINGS = Path(__file__).parents[2] / "results" / "paper" / "settings.yaml"
# What the paper's y axes are here; a pattern of a metric's name where it depends on the data.
METRICS = {
    "response length": "response_length",
    "accuracy reward": "accuracy",
    "AIME24 avg@32": "val-core/*aime*24*/acc/mean@32",
}
LABELS = {"response length": "response length (tokens)"}


@dataclass(frozen=True)
class PaperFigure:
    """One of the paper's figures: its number, the runs it contrasts, what it shows and its axes.

    metric: name or pattern (``METRICS``). shape: what the paper says of it, in our words.
    """

    id: str
    experiments: tuple[str, ...]
    algos: tuple[str, ...]
    metric: str
    label: str
    limits: Limits
    shape: str

    def draw(self, runs: Runs, metric: str, ax: Axes | None, smooth: int, x: str, paper_axes: bool) -> Axes:
        """Draw ``metric`` of ``runs``; ``paper_axes``: within the paper's x range and y ticks, which are of steps."""
        require_view(smooth, x, paper_axes)
        ax = ax or single_axes()
        limits = self.limits if paper_axes else None
        notes = draw_curves({ax: Curve(metric, self.label)}, runs.metrics, smooth, x=x, limits=limits)
        compare = f"Compare the paper's figure {self.id}: {sentence(self.shape)} No curve of the paper is drawn."
        write_caption(ax, [*notes, compare])
        return ax


def paper_figures(file: Path = SETTINGS) -> dict[str, PaperFigure]:
    """The paper's figures by number; raises ``AnalysisError`` if the file cannot be read or an entry lacks a field."""
    try:
        rows = yaml.safe_load(file.read_text())["figures"]
        return {row["id"]: _figure(row) for row in rows}
    except OSError as error:
        raise AnalysisError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise AnalysisError(f"{file}: not a list of figures ({' '.join(str(error).split())})") from None


def _figure(row: dict[str, Any]) -> PaperFigure:
    settings = [row["setting"]] if isinstance(row["setting"], str) else row["setting"]
    first, last = re.search(r"(\d+)-(\d+)$", row["x"]), re.search(r"\d+$", row["x"])
    if last is None:
        raise KeyError(f"figure {row['id']}: no range in x: {row['x']}")
    return PaperFigure(
        id=row["id"],
        experiments=tuple(setting.replace("-", "_") for setting in settings),
        algos=tuple(dict.fromkeys(curve.split()[0] for curve in row["curves"])),  # "gspo on ViRL39K"
        metric=METRICS[row["y"]],
        label=str(LABELS.get(row["y"], row["y"])),
        limits=Limits((float(first[1]) if first else 0.0, float(last[0])), tuple(map(float, row.get("ticks", ())))),
        shape=row["shape"],
    )
