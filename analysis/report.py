"""What runs leave for a reader: a folder of figures for each experiment."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.figures import CURVES, draw, save
from analysis.load import Runs, require_matched

REPORTS = Path("results/reports")


def write_figures(
    runs: Runs,
    out: Path | None = None,
    smooth: int = 1,
    varies: Sequence[str] = (),
    console: Console | None = None,
) -> list[Path]:
    """Draw every entry of ``CURVES`` for each experiment, say where, and list those that no run recorded.

    ``out``: folder of the figures, with several experiments a folder in it for each; by default
    ``results/reports/<experiment>/figures``. Raises ``AnalysisError`` if the runs of an experiment are not matched
    (``require_matched``): one figure would contrast them.
    """
    console = console or Console()
    written: list[Path] = []
    experiments = list(runs.runs["experiment"].unique())
    for experiment in experiments:
        folder = REPORTS / experiment / "figures" if out is None else out / experiment if len(experiments) > 1 else out
        part = runs.select(experiment=experiment)
        require_matched(part, varies)
        for name, entry in CURVES.items():
            if part.metrics[entry.metric].isna().all():
                console.print(f"missing {name}: no run recorded {entry.metric}", highlight=False)
                continue
            png, pdf = save(draw(name, part.metrics, smooth=smooth), folder / name)
            console.print(f"wrote {png} and .pdf", highlight=False, soft_wrap=True)
            written += [png, pdf]
    return written
