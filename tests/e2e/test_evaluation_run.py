"""Evaluation of a real run: its last checkpoint and the model before training, on held-out questions."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from commands import run_module
from e2e.launching import ROOT, run_dir, train

from analysis import load_runs
from analysis.paper.tables import benchmark_table
from analysis.tables.table import Entry
from harness.rundir import EVAL_COLUMNS, RunDir, settings_hash

K = 2


def words(run: RunDir, *more: str) -> list[str]:
    return [f"run={run.path}", "benchmark=tiny_easy", f"k={K}", "engine=transformers", *more]


def evaluate(run: RunDir, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.evaluate", *words(run, *more)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def evaluate_here(run: RunDir, *more: str) -> subprocess.CompletedProcess[str]:
    """The same command where it has nothing to generate, without a process of its own."""
    return run_module("harness.evaluate", *words(run, *more))


def state(run: RunDir) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.eval.glob("tiny_easy.*")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two steps of GSPO with a checkpoint at their end, evaluated, and the initial model beside it."""
    root = tmp_path_factory.mktemp("evaluated")
    quick = ("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=2")
    train(root, "algo=gspo", "seed=43", "trainer.total_training_steps=2", *quick)
    trained = run_dir(root, "gspo", 43)
    for more in ((), ("step=0",)):
        done = evaluate(trained, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    return root, trained, run_dir(root, "base", 43)


def result(run: RunDir) -> tuple[pd.DataFrame, dict]:
    record = json.loads((run.eval / "tiny_easy.json").read_text())
    return pd.read_parquet(run.evals()["tiny_easy"]), record


def test_rows_and_summary_agree(runs):
    _, trained, base = runs
    for run, step in ((trained, 2), (base, 0)):
        frame, record = result(run)
        assert list(frame.columns) == list(EVAL_COLUMNS)
        assert set(frame["step"]) == {step}
        assert set(frame["settings"]) == {settings_hash(record["settings"])}
        assert all(sorted(rows["sample"]) == list(range(K)) for _, rows in frame.groupby("question"))
        limit = record["settings"]["max_response_length"]
        assert frame["tokens"].between(1, limit).all()
        assert (frame.loc[frame["truncated"], "tokens"] == limit).all()
        assert frame["correct"].eq(1).equals(frame["outcome"].eq("right"))
        assert record["summary"][f"avg@{K}"] == pytest.approx(100 * frame["correct"].mean())
        assert frame["correct"].nunique() == 2  # neither always right nor always wrong
        assert not [*run.eval.glob(".tiny_easy*"), *run.eval.glob(".model*")]  # neither parts nor models are left
    (first, _), (second, _) = result(trained), result(base)
    assert set(first["question"]) == set(second["question"])
    assert set(first["settings"]) == set(second["settings"])
    assert not first[["tokens", "correct"]].equals(second[["tokens", "correct"]])


def test_the_same_command_again_changes_nothing(runs):
    _, trained, base = runs
    for run, more in ((trained, ()), (base, ("step=0",))):
        before = state(run)
        done = evaluate_here(trained, *more)
        assert done.returncode == 0, done.stderr
        assert state(run) == before


def test_a_missing_checkpoint_and_other_settings_are_refused(runs):
    _, trained, _ = runs
    before = state(trained)
    done = evaluate_here(trained, "benchmark=tiny_hard", "step=7")
    assert done.returncode == 1
    assert "no whole checkpoint of step 7; there are 2; choose step=" in done.stderr
    done = evaluate_here(trained, "temperature=0.5")
    assert done.returncode == 1
    assert "temperature (1.0 there, 0.5 now)" in done.stderr.strip().splitlines()[-1]
    assert state(trained) == before


def test_the_table_shows_both(runs):
    root, trained, base = runs
    table = benchmark_table(load_runs(root))
    at = table.columns.index("tiny_easy")
    shown = {row[1]: row[at] for row in table.rows}
    for arm, run in (("gspo", trained), ("base", base)):
        entry = shown[arm]
        assert isinstance(entry, Entry)
        assert entry.mean == pytest.approx(100 * result(run)[0]["correct"].mean())
