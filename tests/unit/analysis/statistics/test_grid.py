"""The map of a pair of losses against numbers written out by hand, on constructed runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run, write_sequences
from scipy import stats

from analysis import AnalysisError, load_runs
from analysis.figures.map import draw_map
from analysis.figures.style import save
from analysis.report.map import main
from analysis.statistics.grid import agreement, cells, grid, pays_to_be_long
from harness.paths import ROOT
from harness.rundir.known_losses import AGGREGATION, MODE

PAIR = ("luspo", "gspo")
STEPS = 10
TREATMENT = {
    "gspo": {MODE: "gspo", AGGREGATION: "seq-mean-token-mean"},
    "luspo": {MODE: "luspo", AGGREGATION: "seq-mean-token-sum"},
}
LOSS = {
    algo: {"loss_mode": algo, "loss_agg_mode": treatment[AGGREGATION], "level": "sequence_mean",
           "derivative_is_ratio": True, "length_exponent": int(algo == "luspo")}
    for algo, treatment in TREATMENT.items()
}  # fmt: skip
RANGES = {"narrow": 1e-3, "preset": 4e-3, "wide": 1.6e-2}
TOKENS = np.array([4, 8, 8, 12, 3, 5, 9, 15])  # of two prompts with four responses each
RIGHT = np.array([0, 1, 0, 1, 0, 0, 1, 1])
PROMPTS = ["a"] * 4 + ["b"] * 4


def one_run(root: Path, experiment: str, algo: str, clip: str, seed: int, length: float, accuracy: float) -> None:
    """A run of constant length and accuracy, whose recorded responses are ``TOKENS`` in every step."""
    arm = algo if clip == "preset" else f"{algo},clip={clip}"
    treatment = TREATMENT[algo] | {"actor_rollout_ref.actor.clip_ratio_low": RANGES[clip]}
    described: dict[str, Any] = {"clip": clip, "loss": LOSS[algo], "treatment": treatment}
    metrics = {"response_length": [length] * STEPS, "accuracy": [accuracy] * STEPS, "clip_frac_token": [0.1] * STEPS}
    run = write_run(root, metrics, experiment=experiment, arm=arm, algo=algo, seed=seed, manifest=described)
    advantage = 2.0 * RIGHT - 1
    for step in (1, 2):
        write_sequences(run.attempts()[-1], step, update=0, prompt_id=PROMPTS, tokens=TOKENS, advantage=advantage,
                        log_ratio=0.0, clipped=0.0, effective_ratio=1.0, accuracy=RIGHT.astype(float))  # fmt: skip


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments; at the experiment's range LUSPO is longer by factors of 1.1, 1.2, 1.4, at a wide one equal."""
    root = tmp_path_factory.mktemp("map")
    for experiment in ("one", "two"):
        for seed, factor in enumerate((1.1, 1.2, 1.4)):
            one_run(root, experiment, "gspo", "preset", seed, 20, 0.5)
            one_run(root, experiment, "luspo", "preset", seed, 20 * factor, 0.5 + 0.01 * (seed + 1))
            one_run(root, experiment, "gspo", "wide", seed, 20 + seed, 0.5)
            one_run(root, experiment, "luspo", "wide", seed, 20 + seed, 0.5)
    return root


def test_ratios_and_intervals(runs_folder: Path) -> None:
    """Against scipy's t interval of the three logarithms, and differences of accuracy in points."""
    table = grid(load_runs([runs_folder]), PAIR).set_index(["experiment", "clip"])
    logs = np.log([1.1, 1.2, 1.4])
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    row = table.loc[("one", "preset")]
    assert row["length"] == pytest.approx(np.exp(logs.mean()))
    assert (row["length_low"], row["length_high"]) == pytest.approx((np.exp(low), np.exp(high)))
    assert row["accuracy"] == pytest.approx(2.0)
    assert table.loc[("two", "wide"), "length"] == pytest.approx(1.0)
    assert table["length_n"].tolist() == [3] * 4
    assert table["clipped"].tolist() == pytest.approx([0.1] * 4)


def test_length_pays_is_the_correlation_within_prompts(runs_folder: Path) -> None:
    """Against scipy's Pearson r of values centred by hand."""
    tokens = np.concatenate([part - part.mean() for part in np.split(TOKENS.astype(float), 2)])
    right = np.concatenate([part - part.mean() for part in np.split(RIGHT.astype(float), 2)])
    wanted = stats.pearsonr(tokens, right).statistic
    assert pays_to_be_long(load_runs([runs_folder])) == pytest.approx({"one": wanted, "two": wanted})


def test_foretold_by_hand(runs_folder: Path) -> None:
    """c = A for LUSPO and A / L for GSPO: pressure over the spread of c and the spread of length, by their formulas."""
    group = np.repeat([0, 1], 4)

    def centred(values: np.ndarray) -> np.ndarray:
        return values - np.array([values[group == g].mean() for g in (0, 1)])[group]

    advantage, length = 2.0 * RIGHT - 1, centred(TOKENS.astype(float))

    def pressure(c: np.ndarray) -> float:
        spread = np.sqrt((centred(c) ** 2).mean() * (length**2).mean())
        return float((c * length).mean() / spread)

    wanted = pressure(advantage) - pressure(advantage / TOKENS)
    table = grid(load_runs([runs_folder]), PAIR)
    assert abs(wanted) > 0.01
    assert table["foretold"].tolist() == pytest.approx([wanted] * 4)


def test_experiments_in_which_length_pays_more_come_first(tmp_path: Path) -> None:
    """And in each the narrow range before the experiment's, that before the wide one."""
    for clip in ("wide", "preset", "narrow"):
        for algo in PAIR:
            one_run(tmp_path, "flat", algo, clip, 0, 20, 0.5)
            one_run(tmp_path, "steep", algo, clip, 0, 20, 0.5)
    for file in (tmp_path / "flat").rglob("sequences/1.parquet"):
        frame = pd.read_parquet(file)
        frame.assign(accuracy=[1.0, 0, 0, 1, 1, 0, 0, 1]).to_parquet(file)
    found = [(cell.experiment, cell.clip) for cell in cells(load_runs([tmp_path]), PAIR)]
    assert found == [(name, clip) for name in ("steep", "flat") for clip in ("narrow", "preset", "wide")]


def test_agreement_is_spearmans() -> None:
    """Of ranks alone, against scipy; none for two cells."""
    table = pd.DataFrame({"foretold": [0.1, 0.0, 0.3, -0.2], "length": [1.1, 1.2, 9.0, 0.5]})
    assert agreement(table) == pytest.approx(stats.spearmanr(table["foretold"], table["length"]).statistic)
    assert np.isnan(agreement(table[:2]))


def test_the_command_writes_figure_and_table(
    runs_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every cell is a row, with its interval, and the files are named."""
    assert main([str(runs_folder), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("| preset |") == said.count("| wide |") == 2
    logs = np.log([1.1, 1.2, 1.4])
    low, high = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    assert f"1.23 [{low:.3g}, {high:.3g}]" in said
    assert {file.name for file in tmp_path.iterdir()} >= {"map.png", "map.pdf", "map.csv", "map.md"}


def test_the_committed_map_is_what_its_runs_say(tmp_path: Path) -> None:
    committed = ROOT / "results" / "map"
    assert main([str(committed), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "map.csv").read_text() == (committed / "map.csv").read_text()
    assert (tmp_path / "map.md").read_text() == (committed / "map.md").read_text()


def test_a_single_seed_is_a_mark_without_a_line(tmp_path: Path) -> None:
    """The figure is drawn, and its caption promises no interval."""
    for algo in PAIR:
        one_run(tmp_path, "one", algo, "preset", 0, 20, 0.5)
    table = grid(load_runs([tmp_path]), PAIR)
    assert np.isnan(table["length_low"]).all()
    figure = draw_map(table, PAIR)
    save(figure, tmp_path / "map")
    (caption,) = (text.get_text() for text in figure.texts if text.get_gid() == "caption")
    assert "intervals" not in caption


def test_the_caption_counts_the_cells_that_are_shown() -> None:
    cell = {"experiment": "one", "pays": 0.2, "clipped": 0.1, "length_n": 3}
    table = pd.DataFrame(
        {**cell, "clip": clip, "length": length, "length_n": n, "foretold": foretold}
        for clip, length, n, foretold in (
            ("a", 1.1, 3, 0.1),
            ("b", 1.2, 3, 0.2),
            ("c", 0.9, 3, 0.0),
            ("d", None, 0, 0.1),
        )
    )
    for name in ("length", "foretold"):
        table[[f"{name}_low", f"{name}_high"]] = table[[name, name]].to_numpy()
    (caption,) = (text.get_text() for text in draw_map(table, PAIR).texts if text.get_gid() == "caption")
    said = " ".join(caption.split())
    assert "mean over 3 pairs" in said
    assert "over 3 cells: 1.00" in said


def test_runs_without_a_map(tmp_path: Path) -> None:
    """One loss alone, and two arms of one loss at one range, each with its line."""
    one_run(tmp_path, "one", "gspo", "preset", 0, 20, 0.5)
    with pytest.raises(AnalysisError, match="no experiment has runs of both luspo and gspo at one clip range"):
        grid(load_runs([tmp_path]), PAIR)
    with pytest.raises(AnalysisError, match="two different losses with a colon between"):
        main([str(tmp_path), "--contrast", "luspo"])
    for arm in ("luspo", "luspo,lr=1e-05"):
        write_run(tmp_path, {"response_length": [1.0]}, experiment="one", arm=arm, algo="luspo",
                  manifest={"clip": "preset"})  # fmt: skip
    with pytest.raises(
        AnalysisError, match=r"several arms of luspo at clip=preset, luspo and luspo,lr=1e-05; leave one"
    ):
        cells(load_runs([tmp_path]), PAIR)
