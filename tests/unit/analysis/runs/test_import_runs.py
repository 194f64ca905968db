"""Other frameworks' records as run directories: what is taken, what stays unknown, and what bad input leaves behind."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from importing import RECORDS, imported, only, record_of, write_lines

from analysis.runs.imports import import_verl
from analysis.runs.load import load_runs
from analysis.runs.sources import history
from harness.rundir import RunDir, read_texts

REFERENCE = Path(__file__).parents[4] / "results" / "reference" / "tiny" / "gspo" / "seed=20"
TRL = RECORDS / "trl" / "seed=20"


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    return said


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f): (hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files}


def history_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_a_real_run_of_trl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(TRL)
    assert imported(tmp_path, TRL, "--arm", "grpo-trl", "--algo", "grpo", "--seed", 20) == 0
    assert snapshot(TRL) == before
    runs = only(tmp_path)
    row = runs.runs.iloc[0]
    assert row[["run", "algo", "state", "fingerprint"]].to_list() == ["cmp/grpo-trl/seed=20", "grpo", "done", ""]
    metrics = runs.metrics.set_index("step")
    train = {log["step"]: log for log in history_of(TRL) if "loss" in log}
    names = {
        "response_length": "completions/mean_length", "reward": "reward", "grad_norm": "grad_norm",
        "accuracy": "rewards/accuracy_reward/mean", "truncated": "completions/clipped_ratio", "entropy": "entropy",
    }  # fmt: skip
    for ours, theirs in names.items():
        expected = {step: log[theirs] for step, log in train.items() if theirs in log}
        assert metrics[ours].dropna().to_dict() == pytest.approx(expected)
    evals = {log["step"]: log["eval_completions/mean_length"] for log in history_of(TRL) if "eval_loss" in log}
    assert metrics["val_response_length"].dropna().to_dict() == pytest.approx(evals)
    for unknown in ("tokens", "ppo_kl", "clip_frac_token"):  # not recorded, so not 0
        assert metrics[unknown].isna().all()
    said = capsys.readouterr().out
    assert "num_tokens counts prompts too" in said
    assert "clip_ratio/region_mean is a mean" in said
    closing = next(line for line in said.splitlines() if line.startswith("imported "))
    for part in ("TRL", "24 training steps of 24 by step", "0 repeated", "not used (", "not known: "):
        assert part in closing


def test_the_source_is_named_with_its_hash(tmp_path: Path) -> None:
    assert imported(tmp_path, TRL, "--arm", "a") == 0
    (file,) = record_of(only(tmp_path))["files"]
    state = TRL / "trainer_state.json"
    assert file == {
        "file": str(state), "sha256": hashlib.sha256(state.read_bytes()).hexdigest(), "bytes": state.stat().st_size,
    }  # fmt: skip


def test_two_updates_of_a_rollout_are_one_step(tmp_path: Path) -> None:
    """As trl's ``steps_per_generation=2``: lengths are logged at every second update, losses at each."""
    assert imported(tmp_path, TRL, "--arm", "a", "--per-step", 2) == 0
    metrics = only(tmp_path).metrics.set_index("step")
    train = [log for log in history_of(TRL) if "loss" in log]
    pairs = [(train[at], train[at + 1]) for at in range(0, 24, 2)]
    norms = [sum(log["grad_norm"] for log in pair) / 2 for pair in pairs]
    lengths = [[log["completions/mean_length"] for log in pair if "completions/mean_length" in log] for pair in pairs]
    trained = metrics.loc[1:12]
    assert trained["grad_norm"].to_list() == pytest.approx(norms)
    assert trained["response_length"].to_list() == pytest.approx([sum(one) / len(one) for one in lengths])
    assert metrics["val_response_length"].dropna().index.to_list() == [6, 12]


def test_what_verl_wrote_gives_what_the_recorder_wrote(tmp_path: Path) -> None:
    rows, _ = RunDir(REFERENCE).metrics()
    own = [(step, {key: value for key, value in data.items() if "/" in key}) for step, data in rows.items()]
    assert imported(tmp_path, write_lines(tmp_path / "a.jsonl", own), "--arm", "gspo", "--seed", 20) == 0
    ours, recorded = only(tmp_path / "cmp").metrics, load_runs(REFERENCE).metrics
    for name in (
        "response_length", "reward", "grad_norm", "step_seconds", "tokens", "cumulative_tokens", "val_accuracy",
        "val_response_length",
    ):  # fmt: skip
        assert recorded[name].notna().any()
        pd.testing.assert_series_equal(ours[name], recorded[name], rtol=1e-6)
    for name in ("entropy", "clip_frac_token"):  # verl's mean something else
        assert ours[name].isna().all()


def lengths(*steps: int, factor: float = 10.0) -> list[tuple[int, dict[str, Any]]]:
    return [(step, {"response_length/mean": factor * step, "actor/grad_norm": 1.0}) for step in steps]


def test_a_resumed_run_replaces_what_it_trains_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same rows as ``import_verl``, which cuts a file into attempts."""
    rows = [*lengths(1, 2, 3, 4), (2, {"val-core/a/acc/mean@1": 0.5}), *lengths(3, factor=7.0)]
    file = write_lines(tmp_path / "a.jsonl", rows)
    assert imported(tmp_path, file, "--arm", "a") == 0
    metrics = only(tmp_path / "cmp").metrics.set_index("step")
    theirs = import_verl(file, "a", 0).metrics.set_index("step")
    for name in ("response_length", "val_accuracy"):
        pd.testing.assert_series_equal(metrics[name], theirs[name])
    assert metrics["response_length"].to_dict() == {1: 10.0, 2: 20.0, 3: 21.0}
    assert "steps go back from 4 to 3, taken as a resumed run" in capsys.readouterr().out


def test_several_files_are_parts_of_one_run(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", lengths(1, 2, 3))
    second = write_lines(tmp_path / "b.jsonl", lengths(3, 4, factor=7.0))
    assert imported(tmp_path, first, second, "--arm", "a", "--planned-steps", 9) == 0
    runs = only(tmp_path / "cmp")
    assert runs.metrics["response_length"].to_list() == [10.0, 20.0, 21.0, 28.0]
    assert runs.runs[["state", "last_step", "planned_steps"]].iloc[0].to_list() == ["incomplete", 4, 9]


def test_missing_steps_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(tmp_path, write_lines(tmp_path / "a.jsonl", lengths(10, 20, 30)), "--arm", "a") == 0
    said = capsys.readouterr().out
    assert "27 of the steps 1 to 30 are not recorded, the first is 1" in said
    assert "lengths are recorded every 10 steps only" in said
    assert "--per-step 10" in said
    assert imported(tmp_path, tmp_path / "a.jsonl", "--arm", "b", "--per-step", 10) == 0
    by_arm = load_runs(tmp_path / "cmp").metrics.groupby("arm")["step"].apply(list)
    assert by_arm["b"] == [1, 2, 3]


def test_sums_of_steps_need_every_part(tmp_path: Path) -> None:
    rows = [(step, {"response_length": 5.0, "step_seconds": 2.0}) for step in (1, 2, 3)]
    assert imported(tmp_path, write_lines(tmp_path / "a.jsonl", rows), "--arm", "a", "--per-step", 2) == 0
    seconds = only(tmp_path / "cmp").metrics.set_index("step")["step_seconds"]
    assert seconds[1] == 4.0
    assert math.isnan(seconds[2])


def test_the_first_steps_alone(tmp_path: Path) -> None:
    assert imported(tmp_path, write_lines(tmp_path / "a.jsonl", lengths(1, 2, 3, 4)), "--arm", "a", "--until", 2) == 0
    runs = only(tmp_path / "cmp")
    assert runs.runs[["state", "last_step", "planned_steps"]].iloc[0].to_list() == ["done", 2, 2]


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "a.jsonl", lengths(1, 2))
    file.write_text(file.read_text() + '{"step": 3, "da')
    assert imported(tmp_path, file, "--arm", "a") == 0
    assert only(tmp_path / "cmp").metrics["step"].to_list() == [1, 2]
    assert "its last line has no end" in capsys.readouterr().out


def test_the_checkpoint_that_goes_furthest_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (5, 20, 100):
        folder = tmp_path / "out" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        log = [{"step": at, "completions/mean_length": 1.0 * at} for at in range(1, step + 1)]
        state = {"global_step": step, "max_steps": 200, "log_history": log}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    assert imported(tmp_path, tmp_path / "out", "--arm", "a") == 0
    runs = only(tmp_path / "cmp")
    assert runs.runs[["state", "last_step", "planned_steps"]].iloc[0].to_list() == ["incomplete", 100, 200]
    assert "not read: checkpoint-20" in capsys.readouterr().out


def test_completions_become_texts(tmp_path: Path) -> None:
    assert imported(tmp_path, TRL, "--arm", "a", "--per-step", 2) == 0
    texts = read_texts(RunDir(tmp_path / "cmp" / "a" / "seed=0"))
    files = sorted((TRL / "completions").glob("*.parquet"))
    frames = {math.ceil(int(file.stem.split("_")[1]) / 2): pd.read_parquet(file) for file in files}
    assert [text["step"] for text in texts] == [1, 1, 2, 2]  # two prompts of each rollout, though it is there twice
    for text in texts:
        frame = frames[text["step"]]
        row = frame[[prompt[0]["content"] == text["prompt"] for prompt in frame["prompt"]]].iloc[0]
        assert text["response"] == row["completion"][0]["content"]
        assert text["accuracy"] == row["accuracy_reward"]
        assert text["prompt_id"] == int(hashlib.sha256(text["prompt"].encode()).hexdigest()[:12], 16)
        assert text["tokens"] is None  # TRL does not say


def test_validation_dumps_of_verl(tmp_path: Path) -> None:
    dumps = tmp_path / "val"
    dumps.mkdir()
    for step, right in ((0, [0, 0, 1, 0]), (2, [1, 1, 0.5, 0])):
        lines = [{"input": f"q{n}", "output": f"o{step}{n}", "gts": "4", "score": 1.0 * ok, "step": step, "acc": ok}
                 for n, ok in enumerate(right)]  # fmt: skip
        (dumps / f"{step}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = write_lines(tmp_path / "a.jsonl", lengths(1, 2))
    assert imported(tmp_path, file, "--arm", "a", "--validations", dumps) == 0
    assert only(tmp_path / "cmp").metrics.set_index("step")["val_accuracy"].dropna().to_dict() == {0: 0.25, 2: 0.625}
    texts = read_texts(RunDir(tmp_path / "cmp" / "a" / "seed=0"))
    assert {(text["of"], text["step"], text["response"]) for text in texts} == {
        ("validation", step, f"o{step}{n}") for step in (0, 2) for n in range(4)
    }


def test_the_same_again_changes_nothing_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_lines(tmp_path / "a.jsonl", lengths(1, 2))
    assert imported(tmp_path, file, "--arm", "a") == 0
    before = snapshot(tmp_path)
    assert imported(tmp_path, file, "--arm", "a") == 0
    assert snapshot(tmp_path) == before
    write_lines(file, lengths(1, 2, 3))
    assert imported(tmp_path, file, "--arm", "a") == 2
    assert "is there already and holds something else" in error_of(capsys)
    changed = {path for path, content in snapshot(tmp_path).items() if before.get(path) != content}
    assert changed == {str(file)}


def test_a_run_of_our_own_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = RunDir(tmp_path / "cmp" / "gspo" / "seed=0")
    own.write_manifest({"experiment": "cmp", "arm": "gspo", "algo": "gspo", "seed": 0, "planned_steps": 1})
    assert imported(tmp_path, write_lines(tmp_path / "a.jsonl", lengths(1)), "--arm", "gspo") == 2
    assert "is a run of this harness" in error_of(capsys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file or folder; it may be verl's .jsonl"),
        ("a.jsonl", "", "the file is empty"),
        ("a.jsonl", '{"step": 1, "data": {}}\nnot\n{"step": 2, "data": {}}\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is no object"),
        ("a.jsonl", '{"step": 1, "data": {"x": 1}}\n', "no row of training with a metric that is known"),
        ("a.jsonl", '{"data": {"reward": 1}}\n', "holds no row of metrics|no row of training"),
        ("a.jsonl", '{"step": 1.5, "data": {"reward": 1}}\n', "step 1.5 in step is no whole number"),
        ("a.json", '{"log_history": [{"step": 1', "not valid JSON"),
        ("a.json", '{"epoch": 1}', "has no log_history"),
        ("a.json", '{"log_history": 3}', "has no log_history"),
        ("a.csv", "x,y\n1,2\n", "no column of steps"),
        ("a.csv", "step,accuracy\n1,44.5\n", "accuracy is 44.5 at step 1, and accuracy is a share from 0 to 1"),
        ("a.csv", 'step,reward\n1,"2\n', "not readable as CSV"),
        ("a.csv.gz", "no gzip", "not readable as CSV"),
        ("a.parquet", "PAR1", "not readable as Parquet"),
        ("a.wandb", "xxxxxxxx", "not a file of W&B"),
        ("a.db", "SQLite format 3\x00rest", "not a readable database of Trackio"),
        ("a.pickle", "x", "not known; it may be"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert imported(tmp_path / "out", tmp_path / name, "--arm", "a") == 2
    said = error_of(capsys)
    assert any(part in said for part in message.split("|"))
    assert not (tmp_path / "out").exists()


def test_too_many_steps_or_resumes_are_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_STEPS", 50)
    many = write_lines(tmp_path / "many.jsonl", lengths(*range(1, 52)))
    assert imported(tmp_path / "out", many, "--arm", "a") == 2
    assert "more than 50 steps in step" in error_of(capsys)
    back = write_lines(tmp_path / "back.jsonl", lengths(1, *[2, 1] * 102))
    assert imported(tmp_path / "out", back, "--arm", "a") == 2
    assert "steps go back more than 100 times" in error_of(capsys)


def test_bad_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "a.jsonl", lengths(1))
    assert imported(tmp_path, file, "--setting", "lr") == 2
    assert "expected KEY=VALUE" in error_of(capsys)
    assert imported(tmp_path, file, "--arm", "a/b") == 2
    assert "without a slash" in error_of(capsys)
    assert imported(tmp_path, file, "--step", "epoch") == 2
    assert "has no column epoch; there are" in error_of(capsys)
    assert imported(tmp_path, file, "--responses", tmp_path / "nowhere") == 2
    assert "no dumped responses" in error_of(capsys)
