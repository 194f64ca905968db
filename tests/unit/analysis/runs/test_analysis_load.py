"""Loading: what a frame holds for merged, torn, failed, empty and broken run directories."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import write_attempt, write_run, write_sequences

from analysis import AnalysisError, load_runs, require_matched, require_metric
from harness.rundir import EVAL_COLUMNS, STANDARD_METRICS, RunDir

LENGTHS = {"response_length": [10.0, 11.0, 12.0]}


def test_one_row_per_run_and_per_step(tmp_path: Path) -> None:
    write_run(tmp_path, LENGTHS, arm="gspo", seed=0, seconds=90.0)
    write_run(tmp_path, LENGTHS, arm="luspo,clip=own", seed=1)
    runs = load_runs(tmp_path)
    assert list(runs.runs["run"]) == ["fake/gspo/seed=0", "fake/luspo,clip=own/seed=1"]
    assert list(runs.runs["algo"]) == ["gspo", "luspo"]
    assert runs.runs["minutes"][0] == 1.5
    assert list(runs.metrics.columns[:6]) == ["run", "experiment", "arm", "algo", "seed", "step"]
    assert set(STANDARD_METRICS) <= set(runs.metrics.columns)
    assert list(runs.metrics["step"]) == [1, 2, 3] * 2
    assert runs.metrics["response_length"].tolist() == [10.0, 11.0, 12.0] * 2


def test_attempts_merge_and_validation_rows_are_no_training_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path, planned=4)
    validation = {"val-core/task/acc/mean@4": 0.5}
    write_attempt(run, {0: validation, 1: {"response_length": 1}, 2: {"response_length": 2}, 3: {"response_length": 3}})
    # The resume starts at checkpoint 2: a row of validation only, then step 3 again.
    write_attempt(run, {2: {"val-core/task/acc/mean@4": 0.75}, 3: {"response_length": 30}})
    runs = load_runs(tmp_path)
    metrics = runs.metrics.set_index("step")
    assert runs.runs["last_step"].item() == 3
    assert metrics["response_length"].dropna().to_dict() == {1: 1.0, 2: 2.0, 3: 30.0}
    assert metrics["val-core/task/acc/mean@4"].dropna().to_dict() == {0: 0.5, 2: 0.75}


def test_a_run_that_only_validated_has_no_training_step(tmp_path: Path) -> None:
    write_attempt(write_run(tmp_path, planned=4), {0: {"val-core/task/acc/mean@4": 0.5}})
    runs = load_runs(tmp_path)
    assert runs.runs["last_step"].item() == 0
    assert runs.metrics["response_length"].isna().all()


def test_torn_last_line_is_dropped_and_reported(tmp_path: Path) -> None:
    write_attempt(write_run(tmp_path), {1: {"response_length": 5.0}}, tail='{"step": 2, "da')
    runs = load_runs(tmp_path)
    assert runs.metrics["step"].tolist() == [1]
    (warning,) = runs.runs["warnings"].item()
    assert "metrics.jsonl" in warning
    assert "torn" in warning


def test_bad_middle_line_is_named(tmp_path: Path) -> None:
    folder = write_attempt(
        write_run(tmp_path), {1: {"response_length": 5.0}}, tail='{"step": 2,\n{"step": 3, "data": {}}\n'
    )
    with pytest.raises(AnalysisError, match=rf"{folder / 'metrics.jsonl'}:2"):
        load_runs(tmp_path)


def test_null_nan_bool_and_text(tmp_path: Path) -> None:
    rows = {1: {"response_length": None, "flag": True, "note": "x"}, 2: {"response_length": math.nan, "flag": False}}
    write_attempt(write_run(tmp_path), rows)
    runs = load_runs(tmp_path)
    assert runs.metrics["response_length"].isna().all()
    assert runs.metrics["flag"].tolist() == [1.0, 0.0]
    assert "note" not in runs.metrics
    assert runs.runs["warnings"].item()[0].endswith("dropped: note")


@pytest.mark.parametrize("state", ["failed", "planned", "incomplete"])
def test_runs_without_steps_are_kept(tmp_path: Path, state: str) -> None:
    write_run(tmp_path, state=state, planned=3, error="CUDA out of\nmemory")
    row = load_runs(tmp_path).runs.iloc[0]
    assert (row["state"], row["last_step"], row["planned_steps"], row["error"]) == (state, 0, 3, "CUDA out of memory")


def test_a_run_killed_before_its_status_is_incomplete(tmp_path: Path) -> None:
    (write_run(tmp_path).path / "status.json").unlink()
    assert load_runs(tmp_path).runs["state"].item() == "incomplete"


def test_sequences_of_selected_runs_and_columns(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = write_run(tmp_path, LENGTHS, seed=seed)
        write_sequences(run.attempts()[0], 1, tokens=[3, 4], reward=[0.0, 1.0])
        write_sequences(run.attempts()[0], 2, tokens=[5, 6], reward=[0.0, 1.0])
    runs = load_runs(tmp_path)
    assert len(runs.sequences()) == 8
    one = runs.select(seed=1).sequences(columns=["step", "tokens"])
    assert list(one.columns) == ["run", "experiment", "arm", "algo", "seed", "step", "tokens"]
    assert one["tokens"].tolist() == [3, 4, 5, 6]
    assert set(one["seed"]) == {1}


def test_sequences_of_a_later_attempt_replace(tmp_path: Path) -> None:
    run = write_run(tmp_path, LENGTHS)
    write_sequences(run.attempts()[0], 3, tokens=[1])
    write_sequences(write_attempt(run, {}), 3, tokens=[2])
    assert load_runs(tmp_path).sequences()["tokens"].tolist() == [2]


def test_unreadable_sequences_name_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path, LENGTHS)
    file = write_sequences(run.attempts()[0], 1, tokens=[3])
    runs = load_runs(tmp_path)
    with pytest.raises(AnalysisError, match=r"1\.parquet"):
        runs.sequences(columns=["no_such"])
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(AnalysisError, match=r"1\.parquet") as caught:
        runs.sequences()
    assert "\n" not in str(caught.value)


def test_no_sequences_is_an_empty_frame(tmp_path: Path) -> None:
    write_run(tmp_path, LENGTHS)
    assert load_runs(tmp_path).sequences(columns=["tokens"]).empty


def test_no_runs_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=f"{tmp_path}.*gone.*does not exist"):
        load_runs([tmp_path, tmp_path / "gone"])


def test_newer_schema(tmp_path: Path) -> None:
    write_run(tmp_path, LENGTHS, manifest={"schema": 99})
    with pytest.raises(AnalysisError, match="schema 99 is newer"):
        load_runs(tmp_path)


def test_a_manifest_without_a_key(tmp_path: Path) -> None:
    file = write_run(tmp_path, LENGTHS).path / "manifest.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "arm"}))
    with pytest.raises(AnalysisError, match=r"manifest.json: has no 'arm'"):
        load_runs(tmp_path)


def test_the_same_run_twice_is_refused_but_overlapping_paths_are_not(tmp_path: Path) -> None:
    write_run(tmp_path / "a", LENGTHS)
    assert len(load_runs([tmp_path, tmp_path / "a", tmp_path / "a" / "fake"]).runs) == 1
    write_run(tmp_path / "b", LENGTHS)
    with pytest.raises(AnalysisError, match="there twice"):
        load_runs(tmp_path)


def test_select(tmp_path: Path) -> None:
    for arm in ("gspo", "luspo", "grpo"):
        write_run(tmp_path, LENGTHS, arm=arm)
    runs = load_runs(tmp_path)
    chosen = runs.select(arm=["gspo", "luspo"], seed=0)
    assert set(chosen.runs["arm"]) == set(chosen.metrics["arm"]) == {"gspo", "luspo"}
    assert set(chosen.manifests) == set(chosen.runs["run"])
    with pytest.raises(AnalysisError, match="no run with arm dapo; there are grpo, gspo, luspo"):
        runs.select(arm="dapo")
    with pytest.raises(AnalysisError, match="no column 'colour'"):
        runs.select(colour="red")


def test_unknown_metric_names_the_nearest() -> None:
    frame = pd.DataFrame({"step": [1], "response_length": [1.0], "reward": [1.0], "entropy": [np.nan]})
    with pytest.raises(AnalysisError, match="nearest: response_length"):
        require_metric(frame, "response_lenght")
    with pytest.raises(AnalysisError, match="'entropy' has no value"):
        require_metric(frame, "entropy")
    require_metric(frame, "reward")


def test_unmatched_runs_name_keys_and_values(tmp_path: Path) -> None:
    base = {"data.train_batch_size": 16, "actor.optim.lr": 1e-6}
    write_run(tmp_path, LENGTHS, arm="gspo", seed=0, controlled=base)
    write_run(tmp_path, LENGTHS, arm="gspo", seed=1, controlled=base)
    require_matched(load_runs(tmp_path))
    write_run(tmp_path, LENGTHS, arm="luspo", controlled={**base, "data.train_batch_size": 32, "data.extra": None})
    runs = load_runs(tmp_path)
    with pytest.raises(AnalysisError) as caught:
        require_matched(runs)
    message = str(caught.value)
    assert "fake/gspo/seed=0 and fake/luspo/seed=0" in message
    assert "data.train_batch_size (16 | 32)" in message
    assert "data.extra (absent | None)" in message
    assert "optim.lr" not in message
    with pytest.raises(AnalysisError, match=r"data\.extra"):
        require_matched(runs, varies=["data.train_batch_size"])
    require_matched(runs, varies=["data"])
    with pytest.raises(AnalysisError):
        require_matched(runs, varies=["dat"])  # a prefix of keys, not of letters


def test_at_most_eight_keys_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, LENGTHS, arm="gspo", controlled={f"key{i}": 0 for i in range(10)})
    write_run(tmp_path, LENGTHS, arm="luspo", controlled={f"key{i}": 1 for i in range(10)})
    with pytest.raises(AnalysisError, match="and 2 more") as caught:
        require_matched(load_runs(tmp_path))
    assert str(caught.value).count("(0 | 1)") == 8


def test_unequal_fingerprints_without_a_reason_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, LENGTHS, arm="gspo")
    write_run(tmp_path, LENGTHS, arm="luspo")
    runs = load_runs(tmp_path)
    runs.runs.loc[1, "fingerprint"] = "other"
    with pytest.raises(AnalysisError, match="no controlled key does"):
        require_matched(runs)


def test_a_fingerprint_that_is_not_that_of_the_settings_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, LENGTHS, arm="luspo", manifest={"fingerprint": "other"})
    with pytest.raises(AnalysisError, match=r"seed=0: its fingerprint other is not that of its controlled keys"):
        load_runs(tmp_path)


def test_runs_whose_settings_are_not_recorded_pass_only_where_that_is_declared(tmp_path: Path) -> None:
    write_run(tmp_path, LENGTHS, arm="gspo", manifest={"fingerprint": ""})
    require_matched(load_runs(tmp_path))  # a single run is compared with nothing
    write_run(tmp_path, LENGTHS, arm="luspo", controlled={"lr": 1})
    runs = load_runs(tmp_path)
    with pytest.raises(AnalysisError, match=r"settings of fake/gspo/seed=0 are not recorded.*'unknown'"):
        require_matched(runs, varies=["lr"])
    require_matched(runs, varies=["unknown"])
    write_run(tmp_path, LENGTHS, arm="grpo", controlled={"lr": 2})  # what is recorded must still match
    with pytest.raises(AnalysisError, match=r"lr \(2 \| 1\)"):
        require_matched(load_runs(tmp_path), varies=["unknown"])
    require_matched(load_runs(tmp_path), varies=["unknown", "lr"])


def test_fingerprints_without_what_is_behind_them(tmp_path: Path) -> None:
    for arm, fingerprint in (("grpo", "a" * 16), ("gspo", "a" * 16), ("luspo", "b" * 16)):
        write_run(tmp_path, LENGTHS, arm=arm, manifest={"fingerprint": fingerprint, "controlled": {}})
    runs = load_runs(tmp_path)
    require_matched(runs.select(arm=["grpo", "gspo"]))
    with pytest.raises(AnalysisError, match="fingerprints of fake/grpo/seed=0 and fake/luspo/seed=0 differ"):
        require_matched(runs)
    require_matched(runs, varies=["unknown"])


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_literals_that_are_no_json_are_read(tmp_path: Path, literal: str) -> None:
    line = f'{{"step": 2, "data": {{"response_length": 2.0, "grad_norm": {literal}}}}}\n'
    write_attempt(write_run(tmp_path), {1: {"response_length": 1.0, "grad_norm": 0.5}}, tail=line)
    norms = load_runs(tmp_path).metrics["grad_norm"].tolist()
    assert norms == pytest.approx([0.5, float(literal)], nan_ok=True)


def test_rows_with_different_metrics_keep_their_values_in_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        step: {f"m{i}": float(rng.integers(100)) for i in rng.permutation(6)[: rng.integers(0, 7)]}
        for step in range(1, 40)
    }
    write_attempt(write_run(tmp_path), rows)
    frame = load_runs(tmp_path).metrics
    assert frame["step"].tolist() == list(range(1, 40))
    for row in frame.to_dict("records"):
        there = {key: value for key, value in row.items() if str(key).startswith("m") and not math.isnan(value)}
        assert there == rows[row["step"]]


def test_a_metric_that_is_sometimes_text_keeps_its_numbers(tmp_path: Path) -> None:
    rows = {1: {"a": 1.0, "b": 1}, 2: {"a": "2.0", "b": 2}, 3: {"a": [3.0], "b": 3}, 4: {"a": None, "step": 9}}
    write_attempt(write_run(tmp_path), rows)
    runs = load_runs(tmp_path)
    assert runs.metrics["a"].dropna().tolist() == [1.0]
    assert runs.metrics["step"].tolist() == [1, 2, 3, 4]
    assert runs.runs["warnings"].item()[0].endswith("dropped: a, step")


EVAL = {
    "question": [7, 7, 9, 9],
    "sample": [0, 1, 0, 1],
    "correct": [1, 0, 0, 0],
    "tokens": [10, 20, 30, 40],
    "truncated": [False, False, False, True],
    "outcome": ["right", "wrong", "timeout", "error"],
    "step": [60] * 4,
}


def write_eval(run: RunDir, benchmark: str, **columns: object) -> Path:
    run.eval.mkdir(exist_ok=True)
    file = run.eval / f"{benchmark}.parquet"
    pd.DataFrame({**EVAL, **columns}).to_parquet(file)
    return file


def test_evaluations_of_all_runs_and_benchmarks(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = write_run(tmp_path, LENGTHS, seed=seed)
        write_eval(run, "aime24", note="x")
        write_eval(run, "math500", correct=[1, 1, 1, 1])
    runs = load_runs(tmp_path)
    frame = runs.evals()
    assert list(frame.columns) == ["run", "experiment", "arm", "algo", "seed", "benchmark", *EVAL_COLUMNS]
    assert frame.groupby(["seed", "benchmark"])["correct"].sum().to_dict() == {
        (0, "aime24"): 1, (0, "math500"): 4, (1, "aime24"): 1, (1, "math500"): 4,
    }  # fmt: skip
    one = runs.select(seed=1).evals("aime24")
    assert one[list(EVAL)].to_dict("list") == EVAL
    assert set(one["run"]) == {"fake/gspo/seed=1"}
    none = runs.evals("gsm8k")
    assert none.empty
    assert list(none.columns) == list(frame.columns)


def test_bad_evaluations_name_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path, LENGTHS)
    file = write_eval(run, "aime24", sample=[0, 1, 0, 0])
    with pytest.raises(AnalysisError, match=r"aime24\.parquet: question 9, sample 0 is there twice"):
        load_runs(tmp_path).evals()
    pd.DataFrame(EVAL).drop(columns="outcome").to_parquet(file)
    with pytest.raises(AnalysisError, match=r"aime24\.parquet: has no column outcome"):
        load_runs(tmp_path).evals()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(AnalysisError, match=r"aime24\.parquet: not readable"):
        load_runs(tmp_path).evals()


def test_sequences_whose_columns_differ_from_step_to_step(tmp_path: Path) -> None:
    run = write_run(tmp_path, LENGTHS)
    write_sequences(run.attempts()[0], 1, tokens=[3, 4], reward=[1.0, 0.0])
    write_sequences(run.attempts()[0], 2, tokens=[5])
    runs = load_runs(tmp_path)
    assert runs.sequences()["reward"].isna().tolist() == [False, False, True]
    assert runs.sequences(["tokens"])["tokens"].tolist() == [3, 4, 5]
    with pytest.raises(AnalysisError, match=r"2\.parquet: has no column reward"):
        runs.sequences(["reward", "tokens"])


def test_analysis_imports_no_training_stack() -> None:
    code = (
        "import analysis, analysis.__main__, analysis.runs.imports, sys; "
        "assert not {'torch', 'ray', 'verl', 'transformers', 'wandb', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[4])


def test_old_names_of_columns_and_metrics_are_todays(tmp_path: Path) -> None:
    frames = []
    for folder, column, metric in (
        ("old", "kept_ratio", "groups_without_variance"),
        ("new", "effective_ratio", "frac_reward_zero_std"),
    ):
        run = write_run(tmp_path / folder, {"response_length": [9.0], metric: [0.25]})
        write_sequences(run.attempts()[-1], 1, tokens=[1, 2], **{column: [0.5, 1.0]})
        runs = load_runs(tmp_path / folder)
        frames.append((runs.sequences(), runs.sequences(["effective_ratio"]), runs.metrics))
    for old, new in zip(*frames, strict=True):
        pd.testing.assert_frame_equal(old, new)
