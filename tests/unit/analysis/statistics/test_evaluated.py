"""Claims about benchmarks: the interval is the crossed one of ``benchmarks``, the values are by seed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import training_like, write_run

from analysis import load_runs
from analysis.paper.claims import paper_claims
from analysis.statistics.benchmarks import average, compare
from analysis.statistics.claims import Result, evaluate
from harness.rundir import RunDir

CLAIMS = paper_claims()
QUESTIONS, SAMPLES, STEPS = 40, 4, 20


def write(root: Path, better: dict[str, float], seeds: int = 5, arms: tuple[str, ...] = ("gspo", "luspo")) -> None:
    """Right answers with probability .4 plus a question's and a run's part, plus ``better[benchmark]`` for luspo."""
    rng = np.random.default_rng(1)
    for benchmark, gain in better.items():
        hard = rng.normal(0, 0.1, QUESTIONS)
        for arm in arms:
            for seed in range(seeds):
                run = RunDir(root / "tiny" / arm / f"seed={seed}")
                if not run.path.exists():
                    write_run(root, training_like(STEPS, seed), arm=arm, seed=seed, experiment="tiny")
                p = np.clip(0.4 + hard + gain * (arm == "luspo") + rng.normal(0, 0.01), 0, 1)
                correct = rng.random((SAMPLES, QUESTIONS)) < p
                rows = pd.DataFrame({
                    "question": np.tile(np.arange(QUESTIONS), SAMPLES),
                    "sample": np.repeat(np.arange(SAMPLES), QUESTIONS),
                    "correct": correct.ravel().astype(int), "tokens": 9, "truncated": False, "outcome": "right",
                    "step": STEPS, "settings": "same",
                })  # fmt: skip
                run.eval.mkdir(exist_ok=True)
                rows.to_parquet(run.eval / f"{benchmark}.parquet")


def c13(root: Path) -> Result:
    (result,) = [r for r in evaluate(load_runs(root), CLAIMS) if r.claim.id == "C13" and r.experiment == "tiny"]
    return result


def test_supported_and_consistent(tmp_path: Path) -> None:
    write(tmp_path, {"easy": 0.2, "hard": 0.3})
    result = c13(tmp_path)
    assert result.verdict == "supported"
    assert result.reason == "on easy, hard"
    evals = load_runs(tmp_path).evals()
    parts = [
        compare(*(evals[(evals["arm"] == arm) & (evals["benchmark"] == name)] for arm in ("luspo", "gspo")))
        for name in ("easy", "hard")
    ]
    expected = average(parts).questions
    assert (result.plain.estimate, result.plain.low) == (pytest.approx(expected.estimate), pytest.approx(expected.low))
    means = evals.groupby(["arm", "seed", "benchmark"])["correct"].mean().groupby(["arm", "seed"]).mean() * 100
    by_hand = (means["luspo"] - means["gspo"]).to_dict()
    assert result.record()["values"] == pytest.approx(by_hand)
    assert result.plain.estimate == pytest.approx(np.mean(list(by_hand.values())))


def test_one_benchmark_below_0_is_said(tmp_path: Path) -> None:
    write(tmp_path, {"easy": 0.3, "hard": -0.15})
    assert "below 0 on hard, so not consistently" in c13(tmp_path).reason


def test_a_failed_run_caps_the_verdict(tmp_path: Path) -> None:
    write(tmp_path, {"easy": 0.3}, seeds=6)
    assert c13(tmp_path).verdict == "supported"
    RunDir(tmp_path / "tiny" / "luspo" / "seed=5").write_status("failed")
    result = c13(tmp_path)
    assert result.verdict == "undecided"
    assert "seed 5: luspo failed" in result.reason


def test_too_few_runs_and_no_evaluation_are_not_tested(tmp_path: Path) -> None:
    write(tmp_path, {"easy": 0.3}, seeds=4)
    assert c13(tmp_path).verdict == "not tested"
    write_run(tmp_path / "b", training_like(STEPS, 0), arm="gspo", experiment="tiny")
    write_run(tmp_path / "b", training_like(STEPS, 0), arm="luspo", experiment="tiny")
    result = c13(tmp_path / "b")
    assert (result.verdict, result.reason) == ("not tested", "no benchmark evaluated for both arms and a common seed")
