"""Curves: the numbers that are drawn, and that nothing vanishes without a word."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import training_like
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from scipy import stats

from analysis import AnalysisError, arm_tables, clip_curve, curve, draw, length_curve, pointwise, save, three_panels
from analysis.figures.curves import CURVES
from analysis.figures.style import COLOURS, line_styles


def frame_of(arms: dict[str, list[dict[str, np.ndarray]]]) -> pd.DataFrame:
    """Tidy metrics: ``{arm: [arrays of a run]}``."""
    parts = []
    for arm, runs in arms.items():
        for seed, metrics in enumerate(runs):
            steps = len(next(iter(metrics.values())))
            keys = {
                "run": f"x/{arm}/seed={seed}",
                "experiment": "x",
                "arm": arm,
                "algo": arm.split(",")[0],
                "seed": seed,
            }
            parts.append(pd.DataFrame({**keys, "step": np.arange(1, steps + 1), **metrics}))
    return pd.concat(parts, ignore_index=True)


def lengths(*runs: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"response_length": np.array(run, dtype=float)} for run in runs]


def texts(ax: Axes) -> str:
    return " ".join(" ".join(text.get_text() for text in ax.texts).split())


def lines(ax: Axes, gid: str) -> list[np.ndarray]:
    return [np.asarray(line.get_xydata()) for line in ax.lines if line.get_gid() == gid]


def test_t_band_by_hand() -> None:
    values = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    band = pointwise(pd.DataFrame(values, index=[1, 2]))
    # Step 1: mean 3, sd sqrt(7), two degrees of freedom, 97.5 % point 4.3027.
    assert band.loc[1, "high"] == pytest.approx(3 + 4.302653 * np.sqrt(7 / 3), rel=1e-6)
    low, high = stats.t.interval(0.95, 2, loc=3, scale=stats.sem(values[0]))
    assert band.loc[1, ["low", "high"]].tolist() == pytest.approx([low, high])
    assert band.loc[2, ["mean", "low", "high", "n"]].tolist() == [4, 4, 4, 3]


def test_interval_ends_where_fewer_than_three_runs_are_left() -> None:
    table = pd.DataFrame([[1, 2, 3], [1, 2, np.nan], [1, np.nan, np.nan]], index=[1, 2, 3], dtype=float)
    band = pointwise(table)
    assert band["n"].tolist() == [3, 2, 1]
    assert band["low"].notna().tolist() == [True, False, False]
    minmax = pointwise(table, "minmax")
    assert minmax.loc[2, ["low", "high"]].tolist() == [1, 2]
    assert np.isnan(minmax.loc[3, "low"])
    assert pointwise(table, "none")["low"].isna().all()
    with pytest.raises(AnalysisError, match="unknown band"):
        pointwise(table, "bootstrap")


def test_two_runs_have_their_range_and_one_run_nothing() -> None:
    assert pointwise(pd.DataFrame([[1.0, 5.0]])).loc[0, ["low", "high"]].tolist() == [1, 5]
    assert pointwise(pd.DataFrame([[1.0]]))["low"].isna().all()


def test_smoothing_is_centred_and_per_run_before_averaging() -> None:
    frame = frame_of({"gspo": lengths([0, 3, 6, 9], [10, 10])})
    _, table = arm_tables(frame, "response_length", smooth=3)["gspo"]
    assert table["x/gspo/seed=0"].tolist() == [1.5, 3, 6, 7.5]
    assert table["x/gspo/seed=1"].tolist()[:2] == [10, 10]
    assert table["x/gspo/seed=1"].isna().tolist() == [False, False, True, True]  # not carried on
    assert "moving mean of 3 points" in texts(length_curve(frame, smooth=3))
    with pytest.raises(AnalysisError, match="at least 1"):
        curve(frame, "response_length", smooth=0)


def test_arms_are_never_averaged_with_each_other() -> None:
    frame = frame_of({"luspo": lengths([1, 1]), "luspo,clip=own": lengths([3, 3])})
    other = frame.assign(experiment="y", run="y" + frame["run"].str[1:])
    assert list(arm_tables(frame, "response_length")) == ["luspo", "luspo,clip=own"]
    assert len(arm_tables(pd.concat([frame, other]), "response_length")) == 4


def test_lines_end_with_their_run_and_n_is_shown() -> None:
    ax = length_curve(frame_of({"gspo": lengths([1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [9, 9])}))
    (ended,) = lines(ax, "x/gspo/seed=3")
    assert ended[:, 0].tolist() == [1, 2]
    (mean,) = lines(ax, "mean")
    assert mean[:, 1].tolist() == [3.75, 4.5, 4, 5]
    assert "n=3" in texts(ax)
    assert "n = 4 per arm" in texts(ax)
    assert "95 % Student-t" in texts(ax)


def test_a_single_run_is_drawn_without_interval_and_says_so() -> None:
    ax = length_curve(frame_of({"gspo": lengths([1, 2, 3])}))
    assert "n = 1 per arm" in texts(ax)
    assert "A single run has no interval" in texts(ax)
    assert "Student" not in texts(ax)
    assert len(ax.lines) == 1


def test_caption_names_n_and_kind_of_each_arm() -> None:
    arms = {"grpo": lengths([1], [2], [3]), "gspo": lengths([1], [2]), "sapo": lengths([np.nan])}
    caption = texts(length_curve(frame_of(arms)))
    assert "n = 3 of grpo; 2 of gspo." in caption
    assert "Band of two runs: minimum to maximum." in caption
    assert "Not recorded: sapo." in caption


def test_zero_clip_fraction_stays_on_the_log_axis() -> None:
    clip = {"clip_frac_token": np.array([0.0, 2e-4, 3e-2, 2e-2])}
    ax = clip_curve(frame_of({"gspo": [clip]}))
    (mean,) = lines(ax, "mean")
    assert mean[0].tolist() == [1, 0]
    drawn = ax.transData.transform(mean)
    assert np.isfinite(drawn).all()
    bottom = ax.transAxes.transform((0, 0))[1]
    assert drawn[0, 1] == pytest.approx(bottom)  # 0 is the lower end of the axis
    assert drawn[1, 1] > bottom + 10
    decades = ax.transData.transform([(1, 1e-3), (1, 1e-2), (1, 1e-1)])[:, 1]
    assert decades[1] - decades[0] == pytest.approx(decades[2] - decades[1], rel=1e-2)
    assert "Linear below 0.0001, so that 0 is shown" in texts(ax)


def test_log_axis_without_zeros_is_plain_and_all_zeros_is_linear() -> None:
    plain = clip_curve(frame_of({"gspo": [{"clip_frac_token": np.array([1e-3, 1e-2])}]}))
    assert plain.get_yscale() == "log"
    assert "Linear" not in texts(plain)
    shorter = [{"clip_frac_token": np.array(values)} for values in ([1e-3, 1e-2], [1e-3])]
    assert clip_curve(frame_of({"gspo": shorter})).get_yscale() == "log"  # a step not reached is no zero
    zeros = clip_curve(frame_of({"gspo": [{"clip_frac_token": np.zeros(3)}]}))
    assert zeros.get_yscale() == "linear"


def test_missing_metric_raises() -> None:
    frame = frame_of({"gspo": lengths([1, 2])}).assign(clip_frac_token=np.nan)
    with pytest.raises(AnalysisError, match="has no value"):
        clip_curve(frame)
    with pytest.raises(AnalysisError, match="nearest: response_length"):
        curve(frame, "response_len")


def test_names_at_the_end_do_not_overlap() -> None:
    arms = {name: lengths([0, 50 + i / 100]) for i, name in enumerate([*COLOURS, "luspo,clip=own", "dapo_loss"])}
    ax = length_curve(frame_of(arms))
    figure = ax.figure
    assert isinstance(figure, Figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    names = [t for t in ax.texts if isinstance(t, Annotation) and t.arrow_patch is not None]
    assert {name.get_text().replace("\n", "") for name in names} == set(arms)
    for name in names:
        name.update_positions(renderer)
    # The text alone: an annotation's own box includes its arrow.
    boxes = sorted((Text.get_window_extent(name, renderer) for name in names), key=lambda box: box.y0)
    for below, above in itertools.pairwise(boxes):
        assert above.y0 >= below.y1 - 1  # pixel
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_colours_follow_the_algorithm() -> None:
    ax = length_curve(frame_of({name: lengths([1, 2]) for name in ("gspo", "luspo", "luspo,clip=own", "new")}))
    colours = [line.get_color() for line in ax.lines]
    assert colours[:3] == [COLOURS["gspo"], COLOURS["luspo"], COLOURS["luspo"]]
    assert colours[3] not in COLOURS.values()
    assert ax.lines[1].get_linestyle() != ax.lines[2].get_linestyle()


def test_twelve_arms_are_told_apart() -> None:
    own = ["grpo", "grpo_sum", "gspo", "luspo", "luspo_norm", "cispo", "dapo_loss", "dr_grpo", "fspo", "gmpo", "sapo"]
    for algos in (own, [*own, "mine"], ["gmpo", "cispo", "cispo", "gspo", "gspo"], [f"mine{at}" for at in range(12)]):
        looks = [(style["color"], style["linestyle"]) for style in line_styles(algos)]
        assert len(set(looks)) == len(algos)


def test_draws_into_a_given_axes() -> None:
    ax = Figure().subplots()
    assert draw("reward", frame_of({"gspo": [training_like(5, 0)]}), ax) is ax
    assert ax.get_title(loc="left") == CURVES["reward"].label


def test_three_panels_and_save(tmp_path: Path) -> None:
    frame = frame_of({arm: [training_like(20, seed) for seed in range(3)] for arm in ("gspo", "luspo")})
    figure = three_panels(frame)
    assert len(figure.axes) == 3
    (caption,) = figure.texts
    assert "n = 3 per arm" in caption.get_text()
    assert caption.get_text().count("Student-t") == 1
    files = save(figure, tmp_path / "new" / "v1.0")
    assert [file.name for file in files] == ["v1.0.png", "v1.0.pdf"]
    assert all(file.stat().st_size for file in files)
    missing = three_panels(frame.assign(accuracy=np.nan))
    assert [text.get_text() for text in missing.axes[2].texts] == ["not recorded"]
