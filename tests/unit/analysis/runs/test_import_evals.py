"""Results made elsewhere: tables and lm-evaluation-harness logs, read back by the analysis; bad input names its row."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_runs import write_run

from analysis.runs.import_evals import main
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.benchmarks import cell, compare
from analysis.statistics.matched import require_matched

TABLE = "question,sample,correct,tokens\n7,0,1,10\n7,1,0,20\n9,0,1,30\n9,1,1,\n"
NEW = ("--experiment", "multimodal", "--algo", "gspo", "--seed", "0")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def line(doc: int, score: Any = 1.0, answers: int = 1, **more: Any) -> dict[str, Any]:
    """A line as lm-evaluation-harness 0.4.13 logs it."""
    return {
        "doc_id": doc,
        "doc": {"question": f"q{doc}"},
        "target": "4",
        "arguments": {"gen_args_0": {"arg_0": f"q{doc}", "arg_1": {"until": ["\n"], "temperature": 1.0}}},
        "resps": [["4"] * answers],
        "filtered_resps": ["4"],
        "filter": "none",
        "metrics": ["exact_match"],
        "doc_hash": f"d{doc}",
        "prompt_hash": f"p{doc}",
        "target_hash": "t",
        "exact_match": score,
        **more,
    }


def log(path: Path, *lines: dict[str, Any]) -> str:
    return write(path, "".join(json.dumps(one) + "\n" for one in lines))


def imported(root: Path, *arguments: str, arm: str = "gspo", benchmark: str = "MathVista") -> int:
    run = ("--run", str(root / "multimodal" / arm / "seed=0"), "--benchmark", benchmark, "--arm", arm)
    return main([*arguments, *run, *NEW])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    return said


def test_a_table_becomes_an_evaluation_of_a_new_run(tmp_path: Path) -> None:
    assert imported(tmp_path, write(tmp_path / "a.csv", TABLE)) == 0
    runs = load_runs(tmp_path)
    (row,) = runs.runs.to_dict("records")
    assert (row["run"], row["fingerprint"], row["state"]) == ("multimodal/gspo/seed=0", "", "done")
    frame = runs.evals("MathVista")
    assert frame["correct"].tolist() == [1, 0, 1, 1]
    assert frame["tokens"].tolist()[:3] == [10, 20, 30]
    assert frame["tokens"].isna().tolist() == [False] * 3 + [True]
    assert frame["truncated"].isna().all()
    assert frame["outcome"].tolist() == ["right", "wrong", "right", "right"]
    assert (frame["step"] == row["last_step"]).all()  # or it would not be a result of the trained model
    assert cell(frame).mean == pytest.approx(75)
    record = json.loads((tmp_path / "multimodal/gspo/seed=0/eval/MathVista.json").read_text())
    assert record["summary"] == {"questions": 2, "answers": 4, "avg@2": 75.0}
    assert record["imported"][0]["sha256"] == hashlib.sha256((tmp_path / "a.csv").read_bytes()).hexdigest()


def test_imported_runs_are_not_taken_for_matched(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", TABLE)
    assert [imported(tmp_path, file, arm=arm) for arm in ("gspo", "luspo")] == [0, 0]
    with pytest.raises(AnalysisError, match="are not recorded"):
        require_matched(load_runs(tmp_path))


def test_parquet_with_everything(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"question": [5, 4], "sample": [3, 3], "correct": [True, False], "tokens": [1.0, 2.0],
         "truncated": [True, None], "outcome": ["right", "timeout"], "note": "x"}
    )  # fmt: skip
    frame.to_parquet(tmp_path / "a.parquet")
    assert imported(tmp_path, str(tmp_path / "a.parquet")) == 0
    found = load_runs(tmp_path).evals().set_index("question")
    assert found["correct"].to_dict() == {4: 0, 5: 1}
    assert found["outcome"].to_dict() == {4: "timeout", 5: "right"}
    assert found["truncated"].isna().to_dict() == {4: True, 5: False}
    assert found["truncated"].to_dict()[5]
    assert set(found["sample"]) == {0}


def test_text_questions_get_the_same_integers_whatever_else_the_file_has(tmp_path: Path) -> None:
    head = "question,sample,correct,tokens\n"
    for arm, rows in (("gspo", "a1,0,1,1\nb2,0,0,1\n"), ("luspo", "zz,0,1,1\nb2,0,0,1\na1,0,1,1\n")):
        assert imported(tmp_path, write(tmp_path / f"{arm}.csv", head + rows), arm=arm) == 0
    by_arm = {arm: set(rows["question"]) for arm, rows in load_runs(tmp_path).evals().groupby("arm")}
    assert by_arm["gspo"] < by_arm["luspo"]
    assert int(hashlib.sha256(b"b2").hexdigest()[:12], 16) in by_arm["gspo"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TABLE.replace("9,0,1,30", "7,1,1,30"), "a.csv, row 3: question 7, sample 1 is there twice"),
        (TABLE.replace("9,0,1,30", "9,0,0.5,30"), "a.csv, row 3: correct is 0.5, not 0 or 1"),
        (TABLE.replace("9,0,1,30", "9,0,,30"), "a.csv, row 3: correct is nan, not 0 or 1"),
        (TABLE.replace("9,0,1,30", "9,x,1,30"), "a.csv, row 3: sample is x, not an integer"),
        (TABLE.replace("9,0,1,30", ",0,1,30"), "a.csv, row 3: question is nan, not an integer or text"),
        (TABLE.replace("9,0,1,30", "9,0,1,-3"), "a.csv, row 3: tokens is -3.0, not a count"),
        (TABLE.replace("9,0,1,30", "9,0,1,few"), "a.csv, row 3: tokens is few, not a count"),
        (TABLE + "9,2,1,5\n3,0,0,1\n3,1,0,1\n", "a.csv, row 3: question 9 has 3 samples, others 2"),
        (TABLE.replace("correct", "score"), "a.csv: has no column correct; there must be question, sample"),
        (TABLE.split("\n")[0], "the file has no rows"),
        ("", "a.csv: not readable"),
    ],
)
def test_bad_rows_are_named_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert imported(tmp_path, write(tmp_path / "a.csv", text)) == 2
    assert message in error_of(capsys)
    assert not (tmp_path / "multimodal").exists()


def test_lm_eval_lines_with_tokens_from_elsewhere(tmp_path: Path) -> None:
    counts = {0: [{"output_tokens": 12}], 1: [{"output_tokens": 3}]}
    lines = [line(doc, score, token_counts=counts[doc]) for doc, score in ((1, 0.0), (0, 1.0))]
    arguments = ("--format", "lm-eval", "--tokens", "token_counts.0.output_tokens")
    assert imported(tmp_path, log(tmp_path / "s.jsonl", *lines), *arguments) == 0
    found = load_runs(tmp_path).evals().set_index("question")
    assert found["correct"].to_dict() == {0: 1, 1: 0}
    assert found["tokens"].to_dict() == {0: 12, 1: 3}


def test_lm_eval_repeats_are_files_or_lists(tmp_path: Path) -> None:
    files = [log(tmp_path / f"{n}.jsonl", line(0, float(n == 0)), line(1, 0.0)) for n in range(3)]
    assert imported(tmp_path, *files, "--format", "lm-eval") == 0
    listed = [line(0, [1.0, 0.0, 0.0], 3, ids=[[1], [1, 2], [1, 2, 3]]), line(1, [0, 0, 0], 3, ids=[[], [9], [9]])]
    file = log(tmp_path / "list.jsonl", *listed)
    assert imported(tmp_path, file, "--format", "lm-eval", "--tokens", "ids", arm="luspo") == 0
    frame = load_runs(tmp_path).evals()
    by_arm = {arm: rows.sort_values(["question", "sample"]) for arm, rows in frame.groupby("arm")}
    assert by_arm["gspo"]["correct"].tolist() == by_arm["luspo"]["correct"].tolist() == [1, 0, 0, 0, 0, 0]
    assert by_arm["gspo"]["tokens"].isna().all()
    assert by_arm["luspo"]["tokens"].tolist() == [1, 2, 3, 0, 1, 1]


def test_lm_eval_filters_and_nested_metrics_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [(doc, name) for name in ("strict", "flexible") for doc in range(2)]
    lines = [line(doc, score={"true_false": float(name == "strict")}, filter=name) for doc, name in pairs]
    file = log(tmp_path / "s.jsonl", *lines)
    assert imported(tmp_path, file, "--format", "lm-eval", "--metric", "exact_match.true_false") == 2
    assert f"{file}:3: filters flexible, strict; choose one with --filter" in error_of(capsys)
    chosen = ("--format", "lm-eval", "--metric", "exact_match.true_false", "--filter", "strict")
    assert imported(tmp_path, file, *chosen) == 0
    assert load_runs(tmp_path).evals()["correct"].tolist() == [1, 1]
    assert imported(tmp_path, file, *chosen[:-1], "loose", arm="luspo") == 2
    assert "no samples of filter loose; there are flexible, strict" in error_of(capsys)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(0), line(0)], "s.jsonl:2: question 0 is there twice"),
        ([line(0), line(1, 0.5)], "s.jsonl:2: correct is 0.5, not 0 or 1"),
        ([line(0), line(1, {"pred": "A"})], "s.jsonl:2: correct is {'pred': 'A'}, not 0 or 1"),
        ([line(0, 1.0, 8)], "s.jsonl:1: one exact_match for 8 answers"),
        ([line(0, [1, 0], 8)], "s.jsonl:1: 2 values of exact_match need as many answers"),
        (
            [line(0, metrics=["acc", "exact_match"])],
            "s.jsonl:1: 2 metrics (acc, exact_match); choose one",
        ),
        ([line(0, metrics=["acc"])], "s.jsonl:1: has no acc; there are doc_id"),
        ([{"question": 0}], "s.jsonl:1: no doc_id"),
        ([], "s.jsonl: not readable (the file is empty)"),
    ],
)
def test_bad_lm_eval_lines_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[dict[str, Any]], message: str
) -> None:
    assert imported(tmp_path, log(tmp_path / "s.jsonl", *lines), "--format", "lm-eval") == 2
    assert message in error_of(capsys)
    assert not (tmp_path / "multimodal").exists()


def test_lm_eval_files_of_other_documents_are_not_samples_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [log(tmp_path / f"{name}.jsonl", line(0, doc_hash=name)) for name in "ab"]
    assert imported(tmp_path, *files, "--format", "lm-eval") == 2
    assert "b.jsonl:1: question 0 is another document" in error_of(capsys)
    file = write(tmp_path / "torn.jsonl", json.dumps(line(0)) + '\n{"doc_id": ')
    assert imported(tmp_path, file, "--format", "lm-eval") == 2
    assert "torn.jsonl:2: not JSON" in error_of(capsys)


def test_the_same_again_changes_nothing_and_another_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.csv", TABLE)
    assert imported(tmp_path, file) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert imported(tmp_path, file) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert imported(tmp_path, write(tmp_path / "b.csv", TABLE.replace("7,1,0", "7,1,1"))) == 2
    assert "is there already and holds something else" in error_of(capsys)
    assert imported(tmp_path, file, "--setting", "temperature=0") == 2
    assert "holds something else" in error_of(capsys)


def test_an_existing_run_is_evaluated_at_its_last_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, {"response_length": [1.0, 2.0, 3.0]}, arm="gspo")
    arguments = [write(tmp_path / "a.csv", TABLE), "--run", str(run.path), "--benchmark", "MMMU"]
    assert main([*arguments, "--arm", "luspo"]) == 2
    assert "is another run: arm luspo (the run's is gspo)" in error_of(capsys)
    assert main(arguments) == 0
    assert set(load_runs(tmp_path).evals()["step"]) == {3}


def test_bad_command_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.csv", TABLE)
    assert main([file, "--run", str(tmp_path / "new"), "--benchmark", "x", "--arm", "gspo"]) == 2
    assert "give --experiment --algo --seed" in error_of(capsys)
    assert imported(tmp_path, file, "--setting", "temperature") == 2
    assert "--setting temperature: expected KEY=VALUE" in error_of(capsys)
    assert imported(tmp_path, file, file) == 2
    assert "a table is one file" in error_of(capsys)
    assert imported(tmp_path, str(tmp_path / "none.csv")) == 2
    assert "none.csv: not readable" in error_of(capsys)


def test_unequal_settings_share_no_table(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", TABLE)
    for arm, temperature in (("gspo", "1.0"), ("luspo", "1.0"), ("grpo", "0.0")):
        assert imported(tmp_path, file, "--setting", f"temperature={temperature}", arm=arm) == 0
    by_arm = dict(list(load_runs(tmp_path).evals().groupby("arm")))
    assert compare(by_arm["gspo"], by_arm["luspo"]).estimate == 0
    with pytest.raises(AnalysisError, match="2 settings") as refused:
        compare(by_arm["gspo"], by_arm["grpo"])
    assert all(f"multimodal/{arm}/seed=0" in str(refused.value) for arm in ("gspo", "grpo"))
    old = by_arm["luspo"].assign(settings="")
    with pytest.raises(AnalysisError, match=r"not recorded: multimodal/luspo/seed=0"):
        compare(by_arm["gspo"], old)


def test_evaluations_from_before_the_column_have_settings_of_their_own(tmp_path: Path) -> None:
    assert imported(tmp_path, write(tmp_path / "a.csv", TABLE)) == 0
    result = tmp_path / "multimodal/gspo/seed=0/eval/MathVista.parquet"
    pd.read_parquet(result).drop(columns="settings").to_parquet(result, index=False)
    found = load_runs(tmp_path).evals()
    assert set(found["settings"]) == {""}
    assert cell(found).mean == pytest.approx(75)
