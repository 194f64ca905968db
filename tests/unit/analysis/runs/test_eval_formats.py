"""Files in the forms that lm-evaluation-harness, lighteval and VLMEvalKit write, and what is refused with a reason."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.runs.eval_formats import read_answers
from analysis.runs.import_evals import main
from analysis.runs.load import AnalysisError, load_runs

TABLE = "question,sample,correct,tokens\n7,0,1,10\n7,1,0,20\n9,0,1,30\n9,1,1,\n"
NEW = ("--experiment", "multimodal", "--arm", "gspo", "--algo", "gspo", "--seed", "0")


def refused(*files: Path, **options: Any) -> str:
    with pytest.raises(AnalysisError) as caught:
        read_answers(files, **options)
    said = str(caught.value)
    assert "\n" not in said
    return said


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def correct(*files: Path, **options: Any) -> dict[Any, list[float]]:
    frame = read_answers(files, **options).frame
    return {question: rows["correct"].astype(float).to_list() for question, rows in frame.groupby("question")}


def lm_eval_line(doc: int, score: float, version: str = "0.4.2", response: str = "so 4", **more: Any) -> dict[str, Any]:
    """What 0.4.2, 0.4.3 and 0.4.7 log of a document: their keys, in their order."""
    options = {"until": ["Question:"], "do_sample": False, "temperature": 0.0}
    prompt = f"Question: {doc}\nAnswer:"
    old = version == "0.4.2"
    return {
        "doc_id": doc,
        "doc": {"question": str(doc), "answer": "#### 4"},
        "target": "#### 4",
        "arguments": [[prompt, options]] if old else {"gen_args_0": {"arg_0": prompt, "arg_1": options}},
        "resps": [[response]],
        "filtered_resps": ["4"],
        **({} if old else {"doc_hash": f"d{doc}", "prompt_hash": f"p{doc}", "target_hash": "t"}),
        "exact_match": score,
        **more,
    }


def lm_eval_file(path: Path, lines: list[dict[str, Any]], version: str = "0.4.2") -> Path:
    array = json.dumps(lines, indent=2, ensure_ascii=False)
    return write(path, array if version == "0.4.2" else "".join(json.dumps(line) + "\n" for line in lines))


def two_filters(version: str) -> list[dict[str, Any]]:
    """Two documents, first as the strict filter grades them, then as the flexible one does."""
    return [lm_eval_line(doc, score, version) for score in (0.0, 1.0) for doc in (0, 1)]


def test_an_indented_array_of_lm_eval(tmp_path: Path) -> None:
    file = lm_eval_file(tmp_path / "pretrained__x_gsm8k.jsonl", [lm_eval_line(0, 1.0), lm_eval_line(1, 0.0)])
    answers = read_answers([file])
    assert correct(file) == {0: [1], 1: [0]}
    assert answers.form == "samples of lm-evaluation-harness (JSON array), metric exact_match, filter none"
    assert "temperature" in answers.settings["generation"][0]
    assert answers.frame["where"][1] == f"{file}, item 2"
    other = lm_eval_file(
        tmp_path / "b.jsonl", [lm_eval_line(0, 1.0), {**lm_eval_line(1, 0.0), "doc": {"question": "2"}}]
    )
    assert "question 1 is another document" in refused(file, other)
    assert correct(file, file) == {0: [1, 1], 1: [0, 0]}
    torn = write(tmp_path / "torn.jsonl", file.read_text()[:-20])
    assert "torn.jsonl: not readable (" in refused(torn)


@pytest.mark.parametrize("version", ["0.4.2", "0.4.3"])
def test_filters_without_names_are_chosen_by_place(tmp_path: Path, version: str) -> None:
    file = lm_eval_file(tmp_path / "s.jsonl", two_filters(version), version)
    said = refused(file)
    assert "the same responses 2 times, of filters that no line names" in said
    assert "--filter 1 to 2" in said
    assert correct(file, chosen="1") == {0: [0], 1: [0]}
    assert correct(file, chosen="2") == {0: [1], 1: [1]}
    strict, flexible = (read_answers([file], chosen=chosen) for chosen in "12")
    assert (strict.settings["filter"], flexible.settings["filter"]) == ("1 of 2", "2 of 2")
    assert "no samples of filter strict-match; there are 1, 2, places" in refused(file, chosen="strict-match")


def test_filters_of_several_processes_are_interleaved(tmp_path: Path) -> None:
    """Each process logs all filters of its own documents; the files hold one process after the other."""
    lines = [lm_eval_line(doc, score) for docs in ((0, 2), (1,)) for score in (0.0, 1.0) for doc in docs]
    assert correct(lm_eval_file(tmp_path / "s.jsonl", lines), chosen="2") == {0: [1], 1: [1], 2: [1]}


def test_repeated_documents_that_are_no_filters_are_refused(tmp_path: Path) -> None:
    lines = [lm_eval_line(0, 1.0), lm_eval_line(0, 1.0, response="perhaps 4")]
    assert "item 2: question 0 is there twice; other samples are files" in refused(
        lm_eval_file(tmp_path / "a.jsonl", lines)
    )
    assert "question 1 is there 1 times, others 2" in refused(
        lm_eval_file(tmp_path / "b.jsonl", [*two_filters("0.4.2")[:3], *two_filters("0.4.2")[4:], lm_eval_line(2, 1.0),
                                            lm_eval_line(2, 1.0)])
    )  # fmt: skip
    named = [
        lm_eval_file(tmp_path / f"{name}.jsonl", [lm_eval_line(0, 1.0, filter=name)], "0.4.7") for name in ("c", "d")
    ]
    assert "d.jsonl: filter d, in the file before c" in refused(*named)


def test_scores_of_each_repeat_are_answers(tmp_path: Path) -> None:
    more = {"filter": "none", "metrics": ["exact_match"], "scores_per_repeat": {"exact_match": [1.0, 0.0]}}
    line = lm_eval_line(0, 0.5, "0.5", resps=[["4", "5"]], **more)
    assert correct(lm_eval_file(tmp_path / "s.jsonl", [line], "0.5")) == {0: [1, 0]}


def lighteval_row(doc: int, metric: dict[str, float], texts: int = 1, **response: Any) -> dict[str, Any]:
    """A row of 0.11 and later: the document, the model's response and the scores."""
    return {
        "doc": {"query": f"q{doc}", "choices": ["4"], "gold_index": [0], "id": str(doc), "task_name": "aime24|0",
                "generation_size": 512, "stop_sequences": [], "num_samples": texts},
        "metric": metric,
        "model_response": {"text": ["so 4"] * texts, "output_tokens": [[5, 6, 7]] * texts, "input_tokens": [1, 2],
                           "truncated_tokens_count": 0, **response},
    }  # fmt: skip


def lighteval_flat(doc: int, metrics: dict[str, float], as_text: bool, **more: Any) -> dict[str, Any]:
    """A row of before 0.11; up to 0.6 each value is the text of Python's."""
    row = {
        "choices": [], "cont_tokens": [[5, 6]], "example": f"[{doc}]", "full_prompt": f"Q: [{doc}]", "gold": ["4"],
        "metrics": metrics, "num_asked_few_shots": 0, "predictions": ["so 4"], "truncated": [0], **more,
    }  # fmt: skip
    return {key: str(cell) for key, cell in row.items()} if as_text else row


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def test_details_of_lighteval(tmp_path: Path) -> None:
    file = parquet(tmp_path / "details_a.parquet", *(lighteval_row(doc, {"pass@k:k=1": float(doc)}) for doc in (0, 1)))
    answers = read_answers([file])
    assert correct(file) == {"0": [0], "1": [1]}
    assert answers.frame["tokens"].to_list() == [3, 3]
    assert answers.form == "details of lighteval (Parquet), metric pass@k:k=1"
    assert "512" in answers.settings["generation"][0]
    assert correct(file, file) == {"0": [0, 0], "1": [1, 1]}
    silent = parquet(tmp_path / "api.parquet", lighteval_row(0, {"em": 1.0}, output_tokens=[]))
    assert read_answers([silent]).frame["tokens"].isna().all()
    two = parquet(tmp_path / "two.parquet", lighteval_row(0, {"pass@k:k=1": 1.0, "avg@n:n=1": 1.0}))
    assert "row 1: 2 metrics (pass@k:k=1, avg@n:n=1); choose one with --metric" in refused(two)
    assert correct(two, metric="avg@n:n=1") == {"0": [1]}
    assert "has no em; there are pass@k:k=1" in refused(two, metric="em")
    several = parquet(tmp_path / "several.parquet", lighteval_row(0, {"avg@n:n=4": 0.5}, texts=4))
    assert "one avg@n:n=4 for 4 answers; which it grades is not recorded" in refused(several)


@pytest.mark.parametrize("as_text", [True, False])
def test_flat_details_of_lighteval(tmp_path: Path, as_text: bool) -> None:
    rows = [lighteval_flat(doc, {"extractive_match": doc}, as_text) for doc in (0, 1)]
    file = parquet(tmp_path / "details.parquet", *rows)
    assert correct(file) == {"[0]": [0], "[1]": [1]}
    assert read_answers([file]).frame["tokens"].to_list() == [2, 2]
    choice = lighteval_flat(0, {"acc": 1}, as_text, choices=["A", "B"], predictions=[[-1.0, True], [-2.0, False]])
    frame = read_answers([parquet(tmp_path / "choice.parquet", choice)]).frame
    assert (frame["correct"].to_list(), frame["tokens"].isna().all()) == ([1], True)
    assert "metrics are {'acc': nan}" in refused(
        parquet(tmp_path / "nan.parquet", {**lighteval_flat(0, {}, True), "metrics": "{'acc': nan}"})
    )


def vlmevalkit(**more: Any) -> pd.DataFrame:
    """Columns as of a multiple-choice benchmark; an answer with a line break and quotes, as there always are."""
    return pd.DataFrame(
        {"index": [3, 11], "question": ["How many?", 'What is "x"?'], "A": ["1", "2"], "B": ["2", "1"],
         "answer": ["A", "B"], "category": ["counting", "algebra"], "prediction": ['It is "A",\nsince ...', "B;\t1"],
         **more}
    )  # fmt: skip


def written(frame: pd.DataFrame, path: Path) -> Path:
    """As VLMEvalKit dumps it, by the name's end."""
    if path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(frame.to_dict("records"), indent=4))
    else:
        frame.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False, quoting=1)
    return path


@pytest.mark.parametrize(("end", "form"), [("tsv", "TSV"), ("xlsx", "XLSX"), ("json", "JSON array"), ("csv", "CSV")])
def test_graded_answers_of_vlmevalkit(tmp_path: Path, end: str, form: str) -> None:
    file = written(vlmevalkit(hit=[1, 0], log=["", ""]), tmp_path / f"m_MMStar_exact_matching_result.{end}")
    assert list(correct(file).values()) == [[0], [1]] if end != "json" else [[1], [0]]
    answers = read_answers([file, file])
    assert answers.frame["sample"].to_list() == [0, 0, 1, 1]
    assert answers.form == f"graded answers of VLMEvalKit ({form}), metric hit"
    verified = written(
        vlmevalkit(verifier_score=[True, False], verifier_match=[1.0, 0.0]), tmp_path / f"m_detailed_results.{end}"
    )
    assert read_answers([verified]).settings["metric"] == ["verifier_match"]
    assert sorted(correct(verified, metric="verifier_score").values()) == [[0], [1]]


def test_vlmevalkits_files_without_a_grade_are_refused(tmp_path: Path) -> None:
    raw = written(vlmevalkit(), tmp_path / "m_MMStar.xlsx")
    assert "VLMEvalKit's predictions without a grade (columns index, question" in refused(raw)
    extracted = written(vlmevalkit(res=["1", "2"], log=["", ""]), tmp_path / "m_MathVista_MINI_gpt-4.tsv")
    assert "extracted answers (res) without a grade; evaluate with --use-verifier" in refused(extracted)
    assert "has no column grade; there are index" in refused(raw, metric="grade")
    totals = pd.DataFrame({"Task&Skill": ["Overall"], "tot": [2], "hit": [1], "acc": [50.0]})
    assert "totals of VLMEvalKit, no answers" in refused(written(totals, tmp_path / "m_score.csv"))
    other = written(vlmevalkit(hit=[1, 0]).replace("How many?", "How few?"), tmp_path / "other.tsv")
    graded = written(vlmevalkit(hit=[1, 0]), tmp_path / "graded.tsv")
    assert "index 3 is another question than in the file before" in refused(graded, other)


@pytest.mark.parametrize(
    ("text", "encoding", "form"),
    [
        (TABLE.replace(",", ";"), "utf-8", "CSV with semicolons"),
        (TABLE.replace(",", ";").replace(";1;", ";1,0;"), "utf-8-sig", "CSV with semicolons"),
        (TABLE.replace(",", "\t"), "utf-16", "TSV"),
        (TABLE.replace(",", "|"), "utf-8", "CSV with bars"),
    ],
)
def test_tables_with_other_separators(tmp_path: Path, text: str, encoding: str, form: str) -> None:
    file = write(tmp_path / "a.csv", text, encoding)
    assert read_answers([file]).form == f"a table ({form})"
    assert correct(file) == {"7": [1, 0], "9": [1, 1]}


def test_a_table_in_excel_and_as_json(tmp_path: Path) -> None:
    frame = pd.read_csv(write(tmp_path / "a.csv", TABLE)).assign(question=["007", "007", "9b", "9b"])
    assert correct(written(frame, tmp_path / "a.xlsx")) == {"007": [1, 0], "9b": [1, 1]}
    assert correct(written(frame, tmp_path / "a.json")) == {"007": [1, 0], "9b": [1, 1]}
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        frame.to_excel(book, sheet_name="first", index=False)
        frame.to_excel(book, sheet_name="second", index=False)
    assert "2 sheets that are not empty (first, second); keep one" in refused(tmp_path / "two.xlsx")


def test_excel_without_openpyxl_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(vlmevalkit(hit=[1, 0]), tmp_path / "a.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "a.xlsx: an Excel file needs openpyxl: pip install openpyxl" in refused(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xd0\xcf\x11\xe0old", "an Excel file of before 2007; save it as .xlsx or CSV"),
        (b"\x1f\x8b\x08", "compressed with gzip; unpack it first"),
        (pickle.dumps([1]), "a Python pickle, which can run code"),
        (b"PK\x03\x04 no workbook", "not readable ("),
        (b"PAR1 torn", "not readable ("),
        ("question;größe".encode("latin-1"), "neither UTF-8 text, Parquet nor XLSX; save it as UTF-8"),
        (b"[]", "no answers in it (an empty JSON array)"),
        (b"[1, 2]", ", item 1: int, not a JSON object"),
        (b"a,b\n1,2\n", "CSV, columns a, b; right would be a table with the columns question, sample, correct, tokens"),
        (b"question,sample,correct,tokens\n1,0,1,5,9\n", "row 1: more values than the 4 columns that the head names"),
        (b"question,sample,score\n1,0,1\n", "has no column correct, tokens; there must be"),
        (b'{\n  "results": {"gsm8k": 0.5},\n  "configs": {}\n}\n', "one JSON object with results, configs: totals"),
    ],
)
def test_other_files_are_named_and_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    said = refused(file)
    assert said.startswith(str(file))
    assert message in said


def test_options_that_do_not_fit_what_was_found(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", TABLE)
    samples = lm_eval_file(tmp_path / "s.jsonl", [lm_eval_line(0, 1.0)])
    details = parquet(tmp_path / "d.parquet", lighteval_row(0, {"em": 1.0}))
    assert "d.parquet: details of lighteval, not samples of lm-evaluation-harness; leave out --format" in refused(
        details, form="lm-eval"
    )
    assert "d.parquet: details of lighteval, the file before holds samples of" in refused(samples, details)
    assert "--metric em" in refused(table, metric="em")
    assert "--tokens n" in refused(table, tokens="n")
    assert "--filter strict" in refused(details, chosen="strict")
    assert "there must be" in refused(write(tmp_path / "b.csv", "a,b\n1,2\n"), form="table")
    assert read_answers([details], form="lighteval").settings["imported"] == "lighteval"


def test_one_line_says_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(vlmevalkit(hit=[1, 0], spent=[12, 30]), tmp_path / "m_MMStar_result.tsv")
    run = ("--run", str(tmp_path / "multimodal/gspo/seed=0"), "--benchmark", "MMStar", *NEW)
    assert main([str(file), "--tokens", "spent", *run]) == 0
    said, path = capsys.readouterr().out.splitlines()
    assert said == (
        "read graded answers of VLMEvalKit (TSV), metric hit: 2 questions, 1 sample of each, "
        "tokens known of 2 of 2 answers"
    )
    assert path.endswith("MMStar.parquet")
    found = load_runs(tmp_path).evals().set_index("question")
    assert found["correct"].to_dict() == {3: 1, 11: 0}
    assert found["tokens"].to_dict() == {3: 12, 11: 30}
