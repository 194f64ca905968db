"""The 2 x 2 against ordinary least squares on the coded factors, and against effects that are put in."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_run

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.paper.factorial import INTERACTION, attribution, effects_frame, factorial
from analysis.runs.load import AnalysisError, Runs

RULES = paper_claims().rules["tiny"]
CODES = {"grpo": (-0.5, -0.5), "grpo_sum": (-0.5, 0.5), "gspo": (0.5, -0.5), "luspo": (0.5, 0.5)}
STEPS, SEEDS = 20, range(5)


def write_corners(root: Path, skip: tuple[str, int] | None = None) -> pd.DataFrame:
    """Lengths 20 * 1.5^sum * 0.8^sequence * 1.1^both, times noise of 2 % a run; returns ln length of every run."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in SEEDS:
        for arm, (ratio, total) in CODES.items():
            effect = total * np.log(1.5) + ratio * np.log(0.8) + ratio * total * np.log(1.1)
            length = 20 * np.exp(effect + rng.normal(0, 0.02))
            rows.append({"arm": arm, "seed": seed, "ratio": ratio, "sum": total, "y": np.log(length)})
            metrics = {"response_length": np.full(STEPS, length), "accuracy": np.full(STEPS, 0.5 + 0.1 * ratio)}
            counts = {"clip_tokens": np.full(STEPS, 8.0 if ratio > 0 else 2.0), "clip_tokens_of": np.full(STEPS, 100.0)}
            if (arm, seed) != skip:
                write_run(root, {**metrics, **counts}, arm=arm, seed=seed, experiment="tiny")
    return pd.DataFrame(rows)


def by_contrast(runs: Runs, quantity: str) -> pd.DataFrame:
    frame = effects_frame(factorial(runs, RULES))
    return frame[frame["quantity"] == quantity].set_index("contrast")


def test_effects_are_least_squares_coefficients_of_the_coded_factors(tmp_path: Path) -> None:
    data = write_corners(tmp_path)
    found = by_contrast(load_runs(tmp_path), "response length")
    blocks = pd.get_dummies(data["seed"]).to_numpy(float)  # a level of its own for each seed
    design = np.column_stack([data["ratio"], data["sum"], data["ratio"] * data["sum"], blocks])
    coefficients, *_ = np.linalg.lstsq(design, data["y"], rcond=None)
    for name, coefficient in zip(("ratio by sequence", "sum over tokens", "interaction"), coefficients, strict=False):
        assert np.log(found.loc[name, "estimate"]) == pytest.approx(coefficient, abs=1e-9)
        assert found.loc[name, "low"] < np.exp(coefficient) < found.loc[name, "high"]
    # What was put in, within four standard errors of the noise.
    truth = {"ratio by sequence": 0.8, "sum over tokens": 1.5, "interaction": 1.1}
    for name, effect in truth.items():
        assert np.log(found.loc[name, "estimate"] / effect) == pytest.approx(0, abs=4 * 2 * 0.02 / np.sqrt(len(SEEDS)))


def test_units_of_accuracy_and_clipping(tmp_path: Path) -> None:
    write_corners(tmp_path)
    runs = load_runs(tmp_path)
    accuracy, clipped = by_contrast(runs, "accuracy"), by_contrast(runs, "clipped tokens")
    assert accuracy.loc["ratio by sequence", "estimate"] == pytest.approx(10)  # hundredths: 0.55 against 0.45
    assert accuracy.loc["sum over tokens", "estimate"] == pytest.approx(0)
    assert clipped.loc["ratio by sequence", "estimate"] == pytest.approx(4)
    assert clipped.loc["interaction", "estimate"] == pytest.approx(1)


def test_attribution_multiplies_to_the_whole(tmp_path: Path) -> None:
    data = write_corners(tmp_path).set_index(["seed", "arm"])["y"].unstack()
    parts = attribution(factorial(load_runs(tmp_path), RULES)).set_index("part")["estimate"]
    assert parts["LUSPO over GSPO"] == pytest.approx(np.exp((data["luspo"] - data["gspo"]).mean()))
    assert parts["of it 1/|y|"] * parts[INTERACTION] == pytest.approx(parts["LUSPO over GSPO"])


def test_only_seeds_that_all_corners_have(tmp_path: Path) -> None:
    write_corners(tmp_path, skip=("luspo", 3))
    found = by_contrast(load_runs(tmp_path), "response length")
    assert set(found["n"]) == {4}
    assert found.loc["interaction", "reason"].startswith("only ")


def test_on_policy_has_no_clipping_to_compare_and_no_effect_of_the_ratio(tmp_path: Path) -> None:
    for seed in SEEDS:
        for arm, (_, total) in CODES.items():
            length = (20 + seed) * np.exp(0.3 * total)
            write_run(
                tmp_path,
                {"response_length": np.full(STEPS, length), "accuracy": np.full(STEPS, 0.5)},
                arm=arm,
                seed=seed,
            )
    runs = load_runs(tmp_path)
    found, clipped = by_contrast(runs, "response length"), by_contrast(runs, "clipped tokens")
    assert found.loc["ratio by sequence", "estimate"] == pytest.approx(1)
    assert found.loc["sum over tokens", "estimate"] == pytest.approx(np.exp(0.3))
    assert set(clipped["n"]) == {0}
    assert "one update a step" in clipped.loc["interaction", "reason"]


def test_a_missing_corner_gives_nothing_and_unmatched_runs_are_refused(tmp_path: Path) -> None:
    write_corners(tmp_path)
    runs = load_runs(tmp_path)
    assert factorial(runs.select(arm=["grpo", "gspo", "luspo"]), RULES) == []
    assert attribution([]).empty
    write_run(tmp_path, {"response_length": np.full(STEPS, 9.0)}, arm="grpo", seed=9, controlled={"data.n": 1})
    with pytest.raises(AnalysisError, match="not matched"):
        factorial(load_runs(tmp_path), RULES)
