"""The table of figures: the paper's are those of its settings, and what cannot be drawn is listed with the reason."""

import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_runs import training_like, write_run, write_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from analysis import FIGURES, AnalysisError, draw_figure, load_runs, missing
from analysis.paper.figures import SETTINGS, paper_figures
from analysis.report.write import write_figures


def texts(drawn: Axes | Figure) -> str:
    return " ".join(" ".join(text.get_text() for text in drawn.texts).split())


def write(root: Path, experiment: str, arm: str, seed: int = 0, **metrics: list[float] | np.ndarray) -> None:
    write_run(root, metrics or training_like(6, seed), experiment=experiment, arm=arm, seed=seed)


def test_the_papers_figures_are_all_there() -> None:
    rows = yaml.safe_load(SETTINGS.read_text())["figures"]
    assert [name for name in FIGURES if name.startswith("paper_")] == [f"paper_{row['id']}" for row in rows]
    assert len(FIGURES) == len(set(FIGURES)) > len(rows)
    assert FIGURES["paper_4b"].experiments == ("text_moe",)
    assert FIGURES["paper_2"].algos == ("gspo",)
    figures = paper_figures()
    assert figures["4c"].limits.x == (0, 700)
    assert figures["4c"].limits.y_ticks == (200, 550)
    assert figures["6b"].limits.x == (0, 60)
    assert figures["1"].limits.y_ticks == ()


def test_settings_that_are_no_list_of_figures(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    with pytest.raises(AnalysisError, match="cannot be read"):
        paper_figures(file)
    file.write_text("figures: [{id: '1', setting: multimodal}]")
    with pytest.raises(AnalysisError, match=r"settings.yaml: not a list of figures"):
        paper_figures(file)


def test_a_figure_of_the_paper_shows_its_own_arms_only(tmp_path: Path) -> None:
    for seed in range(3):
        for arm in ("grpo", "gspo", "luspo", "gspo,clip=own"):
            write(tmp_path, "text_dense", arm, seed, response_length=[1000.0 + seed, 2000.0])
    ax = draw_figure("paper_4a", load_runs(tmp_path))
    assert isinstance(ax, Axes)
    means = [np.asarray(line.get_ydata()).tolist() for line in ax.lines if line.get_gid() == "mean"]
    assert means == [[1001, 2000]] * 3  # gspo, its other clip range, luspo
    assert "grpo" not in texts(ax)
    assert "n = 3 per arm" in texts(ax)
    assert "No curve of the paper is drawn." in texts(ax)
    assert "Compare the paper's figure 4a: LUSPO rises faster." in texts(ax)


def test_paper_axes(tmp_path: Path) -> None:
    for arm in ("gspo", "luspo"):
        write(tmp_path, "text_dense", arm, response_length=[1000.0, 2000.0])
    runs = load_runs(tmp_path)
    ax = draw_figure("paper_4a", runs, paper_axes=True)
    assert isinstance(ax, Axes)
    assert ax.get_xlim() == (0, 140)
    assert ax.get_yticks().tolist() == [1000, 5000]
    free = draw_figure("paper_4a", runs)
    assert isinstance(free, Axes)
    assert free.get_xlim() == (1, 2) or free.get_xlim()[1] < 3
    with pytest.raises(AnalysisError, match="axes are of steps"):
        draw_figure("paper_4a", runs, x="tokens", paper_axes=True)


def test_figure_2_contrasts_two_experiments_that_differ_in_data_alone(tmp_path: Path) -> None:
    for experiment, rate in (("multimodal", 1e-6), ("multimodal_mix", 1e-6)):
        controlled = {"hash.train_data": experiment, "actor.lr": rate}
        write_run(tmp_path, {"response_length": [5.0, 6.0]}, experiment=experiment, controlled=controlled)
    ax = draw_figure("paper_2", load_runs(tmp_path))
    assert "multimodal: gspo" in texts(ax)
    assert "multimodal_mix: gspo" in texts(ax)
    other = {"hash.train_data": "multimodal_mix", "actor.lr": 2e-6}
    write_run(tmp_path, {"response_length": [5.0, 6.0]}, experiment="multimodal_mix", seed=1, controlled=other)
    runs = load_runs(tmp_path)
    assert "actor.lr (1e-06 | 2e-06)" in missing("paper_2", runs)
    assert missing("paper_2", runs, varies=["actor.lr"]) == ""


def test_aime_is_found_by_its_data_source_and_nothing_stands_in_for_it(tmp_path: Path) -> None:
    for arm in ("gspo", "luspo"):
        write(tmp_path / "a", "text_dense", arm, val_accuracy=[0.1], **{"val-core/math500/acc/mean@32": [0.9]})  # pyright: ignore
        write(tmp_path / "b", "text_dense", arm, val_accuracy=[0.1], **{"val-core/AIME_2024/acc/mean@32": [0.3]})  # pyright: ignore
    assert "aime" in missing("paper_6a", load_runs(tmp_path / "a"))
    ax = draw_figure("paper_6a", load_runs(tmp_path / "b"))
    assert isinstance(ax, Axes)
    assert [line.get_ydata()[0] for line in ax.lines] == [0.3, 0.3]  # pyright: ignore


def test_reasons_of_missing_figures(tmp_path: Path) -> None:
    write(tmp_path, "text_dense", "gspo")
    runs = load_runs(tmp_path)
    assert missing("paper_1", runs) == "no run of multimodal"
    assert missing("paper_4a", runs) == "no run of luspo in text_dense"
    assert missing("entropy", runs) == "no run recorded entropy"
    assert missing("reward_parts", runs) == "no run recorded reward_*"
    assert missing("response_length", runs) == ""
    with pytest.raises(AnalysisError, match="figure entropy: no run recorded entropy"):
        draw_figure("entropy", runs)
    with pytest.raises(AnalysisError, match="unknown figure 'acuracy'; there are accuracy"):
        missing("acuracy", runs)


def test_unmatched_runs_are_no_figure(tmp_path: Path) -> None:
    for arm, rate in (("gspo", 1), ("luspo", 2)):
        write_run(tmp_path, training_like(3, 0), arm=arm, controlled={"actor.lr": rate})
    assert missing("response_length", load_runs(tmp_path)).startswith("not matched: ")


def test_every_figure_of_ours_is_drawn_from_what_a_run_records(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    names = {name for entry in FIGURES.values() if not entry.experiments for name in entry.metrics}
    recorded = [name.replace("*", "accuracy") for name in names]
    recorded += ["ppo_kl", "step_seconds"]
    for arm in ("gspo", "luspo"):
        metrics = {name: rng.uniform(0.1, 1, 5) for name in recorded}
        run = write_run(tmp_path / "runs", {**metrics, "cumulative_tokens": 100.0 * np.arange(1, 6)}, arm=arm)
        for step in range(1, 6):
            place = {"prompt_id": np.repeat(np.arange(10), 4), "update": np.repeat([1, 2], 20)}
            responses = {"tokens": rng.integers(2, 50, 40), "advantage": rng.normal(size=40), "clipped": [1] * 40}
            ratios = {"log_ratio": rng.normal(0, 1e-3, 40), "effective_ratio": rng.uniform(0.9, 1, 40)}
            write_sequences(run.attempts()[-1], step, **place, **responses, **ratios)
    runs = load_runs(tmp_path / "runs")
    ours = [name for name, entry in FIGURES.items() if not entry.experiments]
    assert {name: missing(name, runs) for name in ours} == dict.fromkeys(ours, "")
    for name in ours:
        drawn = draw_figure(name, runs, x="kl")
        assert "pressure" in name or "n = 1 per arm" in texts(drawn), name  # those: test_pressure_figures


def test_what_cannot_be_drawn_is_listed_in_one_line_each(tmp_path: Path) -> None:
    write(tmp_path / "runs", "x", "gspo", reward=[0.1, 0.2])
    runs = load_runs(tmp_path / "runs")
    stream = io.StringIO()
    written = write_figures(runs, tmp_path / "out", console=Console(file=stream, width=60))
    assert [file.name for file in written] == ["reward.png", "reward.pdf"]
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("missing ")]
    assert sorted(lines) == sorted(f"missing {name}: {missing(name, runs)}" for name in FIGURES if name != "reward")


def test_figures_of_the_paper_are_written_once_beside_their_experiment(tmp_path: Path) -> None:
    for experiment in ("multimodal", "multimodal_mix"):
        metrics = {"response_length": [5.0, 6.0]}
        write_run(tmp_path / "runs", metrics, experiment=experiment, controlled={"hash.train_data": experiment})
    write_figures(load_runs(tmp_path / "runs"), tmp_path / "out", console=Console(file=io.StringIO()))
    written = {str(file.relative_to(tmp_path / "out")) for file in tmp_path.glob("out/*/*.png")}
    wanted = {"multimodal/paper_2", "multimodal/response_length", "multimodal_mix/response_length"}
    assert written == {f"{name}.png" for name in wanted}


def test_an_x_axis_that_no_run_recorded(tmp_path: Path) -> None:
    write_run(tmp_path, {"reward": [0.1, 0.2, 0.3], "cumulative_tokens": [10.0, 20.0, 30.0]})
    runs = load_runs(tmp_path)
    ax = draw_figure("reward", runs, x="tokens")
    assert isinstance(ax, Axes)
    assert np.asarray(ax.lines[0].get_xdata()).tolist() == [10, 20, 30]
    with pytest.raises(AnalysisError, match="step_seconds"):
        draw_figure("reward", runs, x="hours")
