"""Curves over tokens, hours and KL, and panels: numbers by hand on small frames, and what the captions say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import AnalysisError, arm_tables, curve, length_accuracy, panels
from analysis.figures.curves import Curve, Limits, draw_curves
from analysis.statistics.arms import positions


def run_frame(arm: str, seed: int, **metrics: list[float]) -> pd.DataFrame:
    """Metrics of one run from step 1 on."""
    steps = np.arange(1, len(next(iter(metrics.values()))) + 1)
    keys = {"run": f"x/{arm}/seed={seed}", "experiment": "x", "arm": arm, "algo": arm, "seed": seed}
    return pd.DataFrame({**keys, "step": steps, **{name: np.array(v, dtype=float) for name, v in metrics.items()}})


def texts(drawn: Axes | Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in drawn.texts).split())


def mean_line(ax: Axes) -> np.ndarray:
    (line,) = (line for line in ax.lines if line.get_gid() == "mean")
    return np.asarray(line.get_xydata())


def test_over_tokens_each_run_is_interpolated_inside_the_common_range() -> None:
    a = run_frame("gspo", 0, response_length=[10, 20, 30], cumulative_tokens=[100, 200, 300])
    b = run_frame("gspo", 1, response_length=[0, 100], cumulative_tokens=[150, 250])
    _, table = arm_tables(pd.concat([a, b]), "response_length", x="tokens")["gspo"]
    assert table.index.tolist() == [150, 200, 250]  # what both have, in as many points as the longer run
    assert table["x/gspo/seed=0"].tolist() == [15, 20, 25]
    assert table["x/gspo/seed=1"].tolist() == [0, 50, 100]
    ax = curve(pd.concat([a, b]), "response_length", x="tokens")
    assert mean_line(ax).tolist() == [[150, 7.5], [200, 35], [250, 62.5]]
    assert "none extrapolated" in texts(ax)
    assert "tokens" in ax.get_xlabel()


def test_hours_add_up_seconds_and_kl_absolute_values() -> None:
    frame = run_frame("gspo", 0, step_seconds=[1800, 3600, 900], ppo_kl=[0.5, -0.25, 0.125])
    assert positions(frame, "hours").tolist() == [0.5, 1.5, 1.75]
    assert positions(frame, "kl").tolist() == [0.5, 0.75, 0.875]
    shuffled = frame.sample(frac=1, random_state=1)
    assert positions(shuffled, "hours").tolist() == [0.5, 1.5, 1.75]


def test_validation_before_training_is_at_zero_and_a_gap_ends_the_sum() -> None:
    frame = run_frame("gspo", 0, step_seconds=[np.nan, 3600, np.nan, 3600])
    assert positions(frame, "hours").tolist()[:2] == [0, 1]
    assert positions(frame, "hours").isna().tolist() == [False, False, True, True]


def test_kl_axis_says_what_it_is() -> None:
    ax = curve(run_frame("gspo", 0, reward=[0, 1, 2], ppo_kl=[0.1, -0.1, 0.2]), "reward", x="kl")
    assert "behaviour policy" in ax.get_xlabel()
    assert "noise of either sign" in texts(ax)
    assert mean_line(ax)[-1].tolist() == pytest.approx([0.4, 2])


def test_arms_without_a_common_range_are_named_and_not_drawn() -> None:
    early = run_frame("gspo", 0, reward=[1, 2], step_seconds=[36, 36])
    late = run_frame("gspo", 1, reward=[1, 2], step_seconds=[3600, 36])
    whole = run_frame("luspo", 0, reward=[1, 2], step_seconds=[36, 36])
    ax = curve(pd.concat([early, late, whole]), "reward", x="hours")
    assert len([line for line in ax.lines if line.get_gid() == "mean"]) == 1
    assert "no range in common: gspo." in texts(ax)
    with pytest.raises(AnalysisError, match="range in common"):
        curve(pd.concat([early, late]), "reward", x="hours")


def test_bad_axes_are_refused() -> None:
    frame = run_frame("gspo", 0, reward=[1, 2], step_seconds=[np.nan, np.nan])
    with pytest.raises(AnalysisError, match="unknown x axis 'minutes'; there are step, tokens, hours, kl"):
        curve(frame, "reward", x="minutes")
    with pytest.raises(AnalysisError, match="step_seconds"):
        curve(frame, "reward", x="hours")


def test_arms_are_drawn_as_far_as_they_go() -> None:
    frame = pd.concat([run_frame("gspo", 0, reward=[1, 2, 3]), run_frame("luspo", 0, reward=[1, 2])])
    assert "gspo to step 3, luspo to step 2" in texts(curve(frame, "reward"))
    assert "as far as" not in texts(curve(frame[frame["step"] < 3], "reward"))


def test_panels_share_one_axis_or_not_and_say_n_of_each() -> None:
    frame = pd.concat([
        run_frame("gspo", 0, a=[1, 2], b=[100, 200]),
        run_frame("gspo", 1, a=[1, 2], b=[np.nan, np.nan]),
    ])  # fmt: skip
    figure = panels(frame, [Curve("a", "first"), Curve("b", "second")])
    left, right = figure.axes
    assert left.get_ylim() == right.get_ylim()
    assert "Runs, first: n = 2 per arm. Runs, second: n = 1 per arm." in texts(figure)
    left, right = panels(frame, [Curve("a", "first"), Curve("b", "second")], share=False).axes
    assert left.get_ylim()[1] < 10 < right.get_ylim()[1]
    empty = panels(frame, [Curve("a", "first"), Curve("c", "third")])
    assert [text.get_text() for text in empty.axes[1].texts] == ["not recorded"]
    with pytest.raises(AnalysisError, match="unknown metric 'c'"):
        panels(frame, [Curve("c", "third")])


def test_panels_take_the_place_of_an_axes() -> None:
    host = Figure().add_axes((0.1, 0.2, 0.6, 0.5))
    figure = host.get_figure(root=True)
    assert panels(run_frame("gspo", 0, a=[1, 2], b=[1, 2]), [Curve("a", "a"), Curve("b", "b")], host) is figure
    assert figure is not None
    assert host not in figure.axes
    for ax in figure.axes:
        box = ax.get_position()
        assert 0.1 <= box.x0 <= box.x1 <= 0.7
        assert 0.2 <= box.y0 <= box.y1 <= 0.7


def test_limits_are_set_and_what_they_cut_is_named() -> None:
    frame = pd.concat([run_frame("gspo", 0, a=[2, 3, 4]), run_frame("luspo", 0, a=[2, 3, 9])])
    ax = Figure().subplots()
    notes = draw_curves({ax: Curve("a", "a")}, frame, limits=Limits((0, 10), (1, 5)))
    assert ax.get_xlim() == (0, 10)
    assert ax.get_yticks().tolist() == [1, 5]
    assert ax.get_ylim()[0] < 1 < 5 < ax.get_ylim()[1] < 9
    assert "Some values lie outside these axes: luspo." in notes
    notes = draw_curves({ax: Curve("a", "a")}, frame, limits=Limits((0, 2)))
    assert "Some values lie outside these axes: gspo, luspo." in notes


def test_path_of_length_and_accuracy_goes_through_the_steps_of_all_runs() -> None:
    frame = pd.concat([
        run_frame("gspo", 0, response_length=[10, 20, 60], accuracy=[0.1, 0.5, 0.9]),
        run_frame("gspo", 1, response_length=[20, 40], accuracy=[0.3, 0.7]),
    ])  # fmt: skip
    ax = length_accuracy(frame)
    assert mean_line(ax) == pytest.approx(np.array([[15, 0.2], [30, 0.6]]))
    start, end = (line for line in ax.lines if line.get_gid() != "mean")
    assert np.asarray(start.get_xydata()).tolist() == [[15, pytest.approx(0.2)]]
    assert start.get_markerfacecolor() == "white"
    assert end.get_markerfacecolor() != "white"
    assert "n = 2 per arm" in texts(ax)
    assert "Steps: 1 to 2" in texts(ax)
