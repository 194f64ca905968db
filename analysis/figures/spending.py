"""Curves over what a run has spent, for comparisons at equal tokens and at equal movement."""

from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.curves import CURVES, draw_curves, name_tables
from analysis.figures.layout import panel_axes, write_common_caption
from analysis.figures.style import figure_of, leave_empty
from analysis.runs.load import AnalysisError
from analysis.statistics.arms import Tables, arm_tables

PANELS = tuple(product(("response_length", "accuracy"), ("tokens", "kl")))  # curve and axis of each panel


def spending_curves(frame: pd.DataFrame, ax: Axes | None = None, smooth: int = 1) -> Figure:
    """Response length and accuracy, each over tokens and over movement, in the place of ``ax`` if it is given.

    frame: rows of ``Runs.metrics``, best of ``with_movement``. A panel without values, or over what no run spent, says
    so. Raises ``AnalysisError`` if that is every panel.
    """
    axes = dict(zip(panel_axes(len(PANELS), ax, columns=2), PANELS, strict=True))
    notes: list[str] = []
    tables: dict[str, Tables] = {}
    for panel, (name, x) in axes.items():
        try:
            notes += draw_curves({panel: CURVES[name]}, frame, smooth, x=x, named=False)
            tables[f"{name} over {x}"] = arm_tables(frame, CURVES[name].metric, smooth, x)
        except AnalysisError:
            panel.clear()
            leave_empty(panel, CURVES[name].label, f"nothing recorded over {x}")
    if not notes:
        raise AnalysisError("no run has length or accuracy over tokens or over movement")
    name_tables(list(axes), tables)
    write_common_caption(list(axes), notes)
    return figure_of(next(iter(axes)))
