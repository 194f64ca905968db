"""Figures from recorded responses: kept weight and length quantiles against numbers by hand and plain loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run, write_sequences
from matplotlib.figure import Figure

from analysis import AnalysisError, draw_figure, effective_weight, length_quantiles, load_runs, missing


def write(root: Path, arm: str, seed: int, steps: list[dict[str, Any]], **metrics: list[float]) -> None:
    """A run with these responses, a dict of columns per step."""
    plain = {"response_length": [np.mean(step["tokens"]) for step in steps], "clip_frac_token": [0.1] * len(steps)}
    run = write_run(root, {**plain, **metrics}, arm=arm, seed=seed)
    for at, step in enumerate(steps, 1):
        write_sequences(run.attempts()[-1], at, **step)


def test_kept_weight_by_hand(tmp_path: Path) -> None:
    step = {"tokens": [10, 10, 20, 20], "advantage": [3.0, -1.0, -1.0, -3.0], "clipped": [5, 10, 0, 10]}
    write(tmp_path, "gspo", 0, [step])
    table = effective_weight(load_runs(tmp_path), bins=2).set_index(["sign", "bin"])
    assert table["share"].to_dict() == pytest.approx({(1, 1): 0.5, (-1, 1): 0.0, (-1, 2): (1 + 3 * 0.5) / 4})
    assert np.asarray(table.loc[(-1, 2), ["low", "high"]]) == pytest.approx([20, 20])


def test_kept_weight_against_a_loop_over_responses(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    responses = []
    for arm, seed in (("gspo", 0), ("gspo", 1), ("luspo", 0)):
        tokens = rng.permutation(np.arange(1, 201))
        step = {"tokens": tokens, "advantage": rng.normal(size=200), "clipped": rng.integers(0, tokens + 1)}
        step["advantage"][:20] = 0.0  # in the deciles, without weight
        write(tmp_path, arm, seed, [{k: v[:100] for k, v in step.items()}, {k: v[100:] for k, v in step.items()}])
        responses.append((f"fake/{arm}/seed={seed}", pd.DataFrame(step)))
    found = effective_weight(load_runs(tmp_path)).set_index(["run", "sign", "bin"])["share"]
    assert len(found) == 3 * 2 * 10
    for run, frame in responses:
        for sign in (1, -1):
            for decile in range(10):  # all lengths are there equally often: lengths 1-20, 21-40, ...
                kept = of = 0.0
                for row in frame.itertuples():
                    if row.advantage * sign > 0 and 20 * decile < row.tokens <= 20 * (decile + 1):
                        of += abs(row.advantage)
                        kept += abs(row.advantage) * (1 - row.clipped / row.tokens)
                assert found[run, sign, decile + 1] == pytest.approx(kept / of)


def test_equal_lengths_share_a_bin(tmp_path: Path) -> None:
    tokens = [5] * 50 + [7] * 50
    write(tmp_path, "gspo", 0, [{"tokens": tokens, "advantage": [1.0] * 100, "clipped": [0] * 100}])
    table = effective_weight(load_runs(tmp_path))
    assert table[["bin", "low", "high", "share"]].to_numpy().tolist() == [[1, 5, 5, 1], [2, 7, 7, 1]]


def test_kept_weight_figure_shows_means_over_runs_by_sign(tmp_path: Path) -> None:
    for seed, clipped in enumerate((0, 5, 10)):
        step = {"tokens": [10, 10], "advantage": [1.0, -1.0], "clipped": [0, clipped]}
        write(tmp_path, "gspo", seed, [step])
    write(tmp_path, "sapo", 0, [step], clip_frac_token=[np.nan])
    figure = draw_figure("effective_weight", load_runs(tmp_path))
    assert isinstance(figure, Figure)
    kept = [line.get_ydata()[0] for ax in figure.axes for line in ax.lines if line.get_gid() == "mean"]  # pyright: ignore
    assert kept == pytest.approx([1, 0.5])
    (caption,) = (" ".join(text.get_text().split()) for text in figure.texts if text.get_gid() == "caption")
    assert "n = 3 per arm" in caption
    assert "Student-t" in caption
    assert "Nothing can be clipped, not drawn: sapo." in caption


def test_length_quantiles_are_those_of_a_step_and_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    lengths = {seed: [rng.integers(1, 100, 33).tolist() for _ in range(4)] for seed in range(2)}
    for seed, steps in lengths.items():
        write(tmp_path, "gspo", seed, [{"tokens": tokens} for tokens in steps])
    runs = load_runs(tmp_path)
    frame = length_quantiles(runs).set_index(["seed", "step"])
    for seed, steps in lengths.items():
        for step, tokens in enumerate(steps, 1):
            wanted = np.percentile(tokens, [10, 25, 50, 75, 90])
            found = np.asarray(frame.loc[(seed, step), ["q10", "q25", "median", "q75", "q90"]], dtype=float)
            assert found == pytest.approx(wanted)
    figure = draw_figure("length_quantiles", runs)
    assert isinstance(figure, Figure)
    (panel,) = figure.axes
    (line,) = (line for line in panel.lines if line.get_gid() == "median")
    medians = [np.mean([np.median(lengths[seed][step]) for seed in range(2)]) for step in range(4)]
    assert np.asarray(line.get_ydata()) == pytest.approx(medians)
    outer = np.asarray(panel.collections[0].get_paths()[0].vertices)
    assert outer[:, 1].max() == pytest.approx(
        max(np.mean([np.percentile(lengths[seed][step], 90) for seed in range(2)]) for step in range(4))
    )
    assert "n = 2 per arm" in figure.texts[0].get_text()
    assert "no interval" in " ".join(figure.texts[0].get_text().split())


def test_without_responses_the_figures_are_missing(tmp_path: Path) -> None:
    write_run(tmp_path, {"response_length": [1.0], "clip_frac_token": [0.1]})
    runs = load_runs(tmp_path)
    for name in ("effective_weight", "length_quantiles"):
        assert missing(name, runs) == "no run recorded its responses"
        with pytest.raises(AnalysisError, match="recorded its responses"):
            draw_figure(name, runs)
