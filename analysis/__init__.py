"""From run directories to frames, figures and tables. Imports no torch, ray, verl or transformers."""

from analysis.figures import (
    COLOURS,
    CURVES,
    Curve,
    accuracy_curve,
    arm_tables,
    clip_curve,
    curve,
    draw,
    length_curve,
    pointwise,
    reward_curve,
    save,
    three_panels,
)
from analysis.load import KEYS, AnalysisError, Runs, load_runs, require_matched, require_metric
from analysis.summary import print_summary, summary_frame

__all__ = [
    "COLOURS",
    "CURVES",
    "KEYS",
    "AnalysisError",
    "Curve",
    "Runs",
    "accuracy_curve",
    "arm_tables",
    "clip_curve",
    "curve",
    "draw",
    "length_curve",
    "load_runs",
    "pointwise",
    "print_summary",
    "require_matched",
    "require_metric",
    "reward_curve",
    "save",
    "summary_frame",
    "three_panels",
]
