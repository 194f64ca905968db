"""From run directories to frames, figures and tables. Imports no torch, ray, verl or transformers."""

from analysis.figures.curves import (
    CURVES,
    Curve,
    accuracy_curve,
    clip_curve,
    curve,
    draw,
    length_curve,
    panels,
    reward_curve,
    three_panels,
)
from analysis.figures.distributions import effective_weight, length_quantiles
from analysis.figures.paths import length_accuracy
from analysis.figures.style import COLOURS, save
from analysis.report.catalogue import FIGURES, Entry, draw_figure, missing
from analysis.runs.load import KEYS, AnalysisError, Runs, load_runs, require_metric
from analysis.statistics.arms import X_AXES, arm_tables, pointwise
from analysis.statistics.matched import require_matched
from analysis.statistics.selection import Choice, choose
from analysis.tables.summary import print_forks, print_summary, summary_frame

__all__ = [
    "COLOURS",
    "CURVES",
    "FIGURES",
    "KEYS",
    "X_AXES",
    "AnalysisError",
    "Choice",
    "Curve",
    "Entry",
    "Runs",
    "accuracy_curve",
    "arm_tables",
    "choose",
    "clip_curve",
    "curve",
    "draw",
    "draw_figure",
    "effective_weight",
    "length_accuracy",
    "length_curve",
    "length_quantiles",
    "load_runs",
    "missing",
    "panels",
    "pointwise",
    "print_forks",
    "print_summary",
    "require_matched",
    "require_metric",
    "reward_curve",
    "save",
    "summary_frame",
    "three_panels",
]
