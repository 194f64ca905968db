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
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy import stats

from analysis import (
    AnalysisError,
    arm_tables,
    clip_curve,
    curve,
    draw,
    length_curve,
    panels,
    pointwise,
    save,
    three_panels,
)
from analysis.figures.curves import CURVES, Curve
from analysis.figures.headline import headline
from analysis.figures.layout import write_question
from analysis.figures.style import COLOURS, FONT, WIDTH, figure_of, line_styles


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


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn in the figure, with its box in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible() and artist.get_text() != "")
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found if isinstance(text, Text)]


def test_names_at_the_end_do_not_overlap_and_have_no_leaders() -> None:
    arms = {name: lengths([0, 50 + i / 100]) for i, name in enumerate([*COLOURS, "luspo,clip=own", "dapo_loss"])}
    ax = headline(frame_of(arms), smooth=1)
    names = {text.get_text() for text in ax.texts if text.get_gid() == "name"}
    assert {name.replace("\n", "").lower() for name in names} == set(arms)
    placed = sorted((box for text, box in boxes(figure_of(ax)) if text in names), key=lambda box: box.y0)
    for below, above in itertools.pairwise(placed):
        assert above.y0 >= below.y1 - 1  # pixel
    assert all(box.x1 <= figure_of(ax).bbox.x1 for box in placed)
    assert len(ax.lines) == len(arms)  # the means alone: nothing that could be taken for one
    assert not [text for text in ax.texts if getattr(text, "arrow_patch", None)]


def test_everything_written_is_inside_the_figure_and_of_one_size() -> None:
    frame = frame_of({name: [training_like(20, seed) for seed in range(3)] for name in (*COLOURS, "luspo,clip=own")})
    for figure in (figure_of(length_curve(frame)), three_panels(frame), figure_of(headline(frame))):
        write_question(figure, "Is all of this long question, with its many words, inside of the figure that it is of?")
        assert figure.get_figwidth() == WIDTH
        for text, box in boxes(figure):
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text
        sizes = {
            text.get_fontsize()
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text() not in ("", "None")
        }  # pyright: ignore
        assert sizes == {FONT}


def test_equal_arms_are_both_seen_and_said_to_be_equal() -> None:
    ax = length_curve(
        frame_of({"grpo": lengths([1, 2, 4]), "gspo": lengths([1, 2, 4]), "luspo": lengths([1, 2, 4.001])})
    )
    below, above, other = (line for line in ax.lines if line.get_gid() == "mean")
    assert below.get_linewidth() > 2 * above.get_linewidth()
    assert (below.get_alpha() or 1) < 1
    assert (above.get_linestyle(), other.get_linestyle()) == ("--", "-")
    assert "Equal: grpo, gspo;" in texts(ax)
    legend = ax.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"grpo", "gspo (equal to grpo)", "luspo"}


def test_equality_that_holds_in_one_panel_is_said_of_that_panel() -> None:
    runs = {"a": np.array([1.0, 2, 3]), "b": np.array([1.0, 2, 3])}
    figure = panels(
        frame_of({"grpo": [runs], "gspo": [{**runs, "b": runs["b"] + 1}]}), [Curve("a", "A"), Curve("b", "B")]
    )
    (caption,) = (" ".join(text.get_text().split()) for text in figure.texts)
    assert "Equal, A: grpo, gspo;" in caption


def test_band_of_fractions_stays_between_0_and_1_and_is_that_of_the_arcsine() -> None:
    values = np.array([[0.0, 0.02, 0.3], [1.0, 1.0, 0.6], [0.5, 0.5, 0.5]])
    band = pointwise(pd.DataFrame(values), "share")
    assert band["mean"].tolist() == pytest.approx(values.mean(axis=1))
    assert band["low"].between(0, band["mean"] + 1e-12).all()
    assert band["high"].between(band["mean"] - 1e-12, 1).all()
    angles = np.arcsin(np.sqrt(values[0]))
    _, high = stats.t.interval(0.95, 2, loc=angles.mean(), scale=stats.sem(angles))
    assert band.loc[0, "high"] == pytest.approx(1 if high > np.pi / 2 else np.sin(high) ** 2)
    assert band.loc[2, ["low", "high"]].tolist() == pytest.approx([0.5, 0.5])
    assert (pointwise(pd.DataFrame(values))["low"] < 0).any()  # the plain interval does leave the range


def test_clip_fractions_are_smoothed_over_as_many_steps_as_there_are_for_it() -> None:
    clip = {"clip_frac_token": np.array([0.0, 0.1] * 10)}
    ax = clip_curve(frame_of({"gspo": [clip]}))
    (mean,) = lines(ax, "mean")
    assert mean[10, 1] == pytest.approx(0.04, abs=1e-12)  # of 0 .1 0 .1 0
    assert "moving mean of 5 points" in texts(ax)
    assert CURVES["clip_fraction"].smoothed(1, 10) == 3
    assert CURVES["clip_fraction"].smoothed(1, 5) == 1
    assert CURVES["clip_fraction"].smoothed(7, 60) == 7
    assert CURVES["reward"].smoothed(1, 60) == 1


def test_a_figure_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    frame = frame_of({"gspo": [training_like(20, seed) for seed in range(3)]})
    kinds = ("png", "pdf", "svg")
    one, two = (save(three_panels(frame), tmp_path / name / "x", kinds) for name in ("a", "b"))
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.suffix


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
