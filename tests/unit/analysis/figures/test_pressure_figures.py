"""Figures of length pressure: the values that are drawn."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis import AnalysisError
from analysis.figures.layout import write_question
from analysis.figures.pressure import (
    decomposition_bars,
    pressure_curves,
)
from analysis.statistics.length_pressure import TERMS

ADAM = "not the answer of Adam or of the plain gradient"


def frame_of(arms: Mapping[str, Sequence[float]], steps: int = 4) -> pd.DataFrame:
    """As ``pressure_frame``: of each arm a run per value; total = value * step +- 1 in two updates, bias half of it."""
    records = []
    for arm, values in arms.items():
        for seed, value in enumerate(values):
            keys = {
                "run": f"x/{arm}/seed={seed}",
                "experiment": "x",
                "arm": arm,
                "algo": arm.split(",")[0],
                "seed": seed,
            }
            for step in range(1, steps + 1):
                for update, off in ((1, -1), (2, 1)):
                    of_term = {**dict.fromkeys(TERMS, 0.0), "total": value * step + off, "bias": value * step / 2}
                    where = {"step": step, "update": update, "loss": keys["algo"], "length_sd": 2.0}
                    records += [{**keys, **where, "term": term, "value": v} for term, v in of_term.items()]
    return pd.DataFrame(records)


def means_of(arms: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """As ``run_means``: term number t of a run is its arm's value times t."""
    frame = frame_of(arms, steps=1).query("update == 1").drop(columns=["step", "update"])
    value = {f"x/{arm}/seed={seed}": v for arm, values in arms.items() for seed, v in enumerate(values)}
    times = frame["term"].map({term: at + 1 for at, term in enumerate(TERMS)})
    frame["value"] = frame["run"].map(value) * times
    return frame.assign(in_sd=frame["value"] / frame["length_sd"])


def words(figure: Figure) -> str:
    found = [text.get_text() for text in figure.texts]
    found += [text.get_text() for ax in figure.axes for text in ax.texts]
    return " ".join(" ".join(found).split())


def figure(ax: Axes) -> Figure:
    found = ax.get_figure(root=True)
    assert found is not None
    return found


def test_curves_are_means_over_updates_then_runs_with_t_bands() -> None:
    drawn = pressure_curves(frame_of({"gspo": [1.0, 2.0, 6.0], "luspo": [0.0, 0.0, 0.0]}))
    total, bias = drawn.axes
    (gspo, _) = (np.asarray(line.get_xydata()) for line in total.lines if line.get_gid() == "mean")
    assert gspo == pytest.approx(np.column_stack([[1, 2, 3, 4], [3, 6, 9, 12]]))
    (half, _) = (np.asarray(line.get_xydata()) for line in bias.lines if line.get_gid() == "mean")
    assert half[:, 1] == pytest.approx([1.5, 3, 4.5, 6])
    band = np.asarray(total.collections[0].get_paths()[0].vertices)
    assert band[band[:, 0] == 1, 1].max() == pytest.approx(3 + 4.302653 * math.sqrt(7 / 3), rel=1e-6)
    assert total.get_ylim() == bias.get_ylim()
    assert ADAM in words(drawn)
    assert "n = 3 per arm" in words(drawn)


def test_the_legend_is_above_the_longest_title_and_below_the_question() -> None:
    drawn = pressure_curves(frame_of({"gspo": [1.0, 2.0, 6.0], "luspo": [0.0, 0.0, 0.0]}))
    write_question(drawn, "Which way does the loss push length?")
    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw(renderer)
    (legend,) = [ax.get_legend() for ax in drawn.axes if ax.get_legend()]
    titles = [ax._left_title for ax in drawn.axes]  # type: ignore[attr-defined]
    (question,) = [text for text in drawn.texts if text.get_gid() == "question"]
    assert max(title.get_text().count("\n") for title in titles) == 1
    assert legend is not None
    assert legend.get_window_extent(renderer).y0 >= max(title.get_window_extent(renderer).y1 for title in titles)
    assert legend.get_window_extent(renderer).y1 <= question.get_window_extent(renderer).y0


def test_curves_are_of_one_loss() -> None:
    frame = frame_of({"gspo": [1.0]})
    with pytest.raises(AnalysisError, match="x/gspo/seed=0: 2 losses"):
        pressure_curves(pd.concat([frame, frame.assign(loss="luspo")]))


def test_bars_and_whiskers() -> None:
    ax = decomposition_bars(means_of({"luspo": [1.0, 1.0, 4.0], "gspo": [-1.0, -2.0, -3.0]}))
    heights = np.array([[bar.get_height() for bar in bars] for bars in ax.containers if len(bars) == len(TERMS)])
    assert heights == pytest.approx(np.outer([-2, 2], np.arange(1, 7)))  # gspo first
    segments = np.array(
        [line for bar in ax.containers if hasattr(bar, "has_yerr") for line in bar[2][0].get_segments()]
    )
    assert segments[0][:, 1] == pytest.approx(-2 + 4.302653 / math.sqrt(3) * np.array([-1, 1]), rel=1e-6)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["gspo (n = 3)", "luspo (n = 3)"]
    assert ADAM in words(figure(ax))
    assert "Approximate" not in words(figure(ax))
    two = decomposition_bars(means_of({"grpo": [1.0, 2.0]}), value="in_sd")
    assert [bar.get_extents().transformed(two.transData.inverted()).height for bar in two.patches][:2] == pytest.approx(
        [0.75, 1.5]
    )
    assert "Student" not in words(figure(two))
    assert "Approximate" in words(figure(two))


def test_arms_that_are_left_out_are_named() -> None:
    note = ["Not shown: cispo, for whose loss length pressure is not defined."]
    for drawn in (
        pressure_curves(frame_of({"gspo": [1.0]}), notes=note),
        figure(decomposition_bars(means_of({"gspo": [1.0]}), notes=note)),
    ):
        assert note[0] in words(drawn)


def test_all_of_them_render() -> None:
    arms = {"gspo": [1.0], "gspo,clip=own": [1.0, 2.0], "grpo": [2.0, 3.0, 1.0]}
    for drawn in (pressure_curves(frame_of(arms), smooth=3), figure(decomposition_bars(means_of(arms)))):
        FigureCanvasAgg(drawn).draw()
