"""Which tool wrote a file of answers, and its answers: our own table, lm-evaluation-harness, lighteval, VLMEvalKit."""

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.eval_files import Answers, Content, read_content, value
from analysis.runs.lm_eval import read_lm_eval
from analysis.runs.load import AnalysisError
from harness.rundir import settings_hash

REQUIRED = ("question", "sample", "correct", "tokens")
GRADES = ("hit", "verifier_match", "verifier_score", "score")  # columns of VLMEvalKit that grade an answer
VALUES = ("metrics", "predictions", "choices", "cont_tokens")  # flat columns of lighteval that may be values as text
GENERATION = ("generation_size", "stop_sequences")  # what lighteval's documents say of it
FORMATS = {
    "table": f"a table with the columns {', '.join(REQUIRED)}",
    "lm-eval": "samples of lm-evaluation-harness",
    "lighteval": "details of lighteval",
    "vlmevalkit": "graded answers of VLMEvalKit",
}
RIGHT = (
    f"right would be {FORMATS['table']}, or samples_*.jsonl of lm-evaluation-harness, details_*.parquet of lighteval, "
    "*_result.xlsx of VLMEvalKit"
)


def read_answers(
    files: Sequence[Path],
    form: str | None = None,
    metric: str | None = None,
    chosen: str | None = None,
    tokens: str | None = None,
) -> Answers:
    """The answers in files of one of ``FORMATS``; several files are one sample of each question after the other.

    form: by default what the columns of the first file say. metric: what grades an answer, 1 or 0, by default the only
    one. chosen: of lm-evaluation-harness, the filter. tokens: what holds the tokens of an answer, a number or a list.
    Raises ``AnalysisError``, one line that says what was found and what would be right.
    """
    contents = [read_content(file) for file in files]
    kinds = [_kind(content, form) for content in contents]
    for content, kind in zip(contents, kinds, strict=True):
        if kind != kinds[0]:
            raise AnalysisError(f"{content.file}: {FORMATS[kind]}, the file before holds {FORMATS[kinds[0]]}")
    for option, given in (("--metric", metric), ("--tokens", tokens)):
        if kinds[0] == "table" and given:
            raise AnalysisError(f"{option} {given}: {files[0]} is a table; its columns are {', '.join(REQUIRED)}")
    if kinds[0] != "lm-eval" and chosen:
        raise AnalysisError(f"--filter {chosen}: {files[0]} holds {FORMATS[kinds[0]]}, which have no filters")
    if kinds[0] == "lm-eval":
        return read_lm_eval(contents, metric, chosen, tokens)
    if kinds[0] == "lighteval":
        return read_lighteval(contents, metric, tokens)
    if kinds[0] == "vlmevalkit":
        return read_vlmevalkit(contents, metric, tokens)
    if len(files) > 1:
        raise AnalysisError(f"{files[1]}: a table is one file with all samples")
    frame = contents[0].frame.assign(where=contents[0].where)
    return Answers(frame, {"imported": "table"}, f"a table ({contents[0].form})")


def read_lighteval(contents: Sequence[Content], metric: str | None = None, tokens: str | None = None) -> Answers:
    """The answers in details of lighteval: nested columns doc, metric and model_response from 0.11 on, before that
    flat ones, which up to 0.6 are the text of Python's values.

    A question is the document's number, in files before 0.11 its text. tokens: by default the generated ones, where
    they are recorded. Raises ``AnalysisError`` naming the row, as ``read_lm_eval`` does.
    """
    rows: list[dict[str, Any]] = []
    asked: dict[str, Any] = {}
    names, options = set(), set()
    for sample, content in enumerate(contents):
        for where, cells in zip(content.where, content.rows, strict=True):
            row = {**cells, **{key: _parsed(cells[key]) for key in VALUES if key in cells}}
            name, answer = _lighteval_answer(row, metric, tokens, where)
            names.add(name)
            rows.append({**answer, "sample": sample, "where": where})
            doc = row.get("doc") or {}
            prompt = doc.get("query") or row.get("full_prompt")
            if asked.setdefault(str(answer["question"]), prompt) != prompt:
                raise AnalysisError(f"{where}: question {answer['question']} is another prompt than in the file before")
            options.add(json.dumps({key: doc[key] for key in GENERATION if key in doc}, sort_keys=True))
    settings = {
        "imported": "lighteval",
        "metric": sorted(names),
        "generation": sorted(options),
        "asked": settings_hash(asked),
    }
    form = f"details of lighteval ({contents[0].form}), metric {', '.join(settings['metric'])}"
    return Answers(pd.DataFrame(rows), settings, form)


def _lighteval_answer(
    row: dict[str, Any], metric: str | None, tokens: str | None, where: str
) -> tuple[str, dict[str, Any]]:
    """The metric of a row, and question, correct and tokens."""
    doc, response = row.get("doc"), row.get("model_response") or {}
    scores = row.get("metric" if doc else "metrics")
    if not isinstance(scores, dict):
        raise AnalysisError(f"{where}: metrics are {scores}, not values by name")
    # One struct for all rows: what a row has no score of is empty.
    scores = {name: score for name, score in scores.items() if score is not None}
    if metric is None and len(scores) != 1:
        raise AnalysisError(f"{where}: {len(scores)} metrics ({', '.join(scores)}); choose one with --metric")
    name = metric or next(iter(scores))
    # In multiple choice each choice has a likelihood; these are no answers.
    texts = (response.get("text") if doc else None if row.get("choices") else row.get("predictions")) or []
    if len(texts) > 1:
        raise AnalysisError(
            f"{where}: one {name} for {len(texts)} answers; which it grades is not recorded: evaluate with one answer "
            "a question, and give several such files"
        )
    spent = value(row, tokens, where) if tokens else None
    if tokens is None and texts:
        spent = response.get("output_tokens") or row.get("cont_tokens")
        spent = None if isinstance(spent, str) else spent  # such as "[tensor([1, 2])]"
    question = doc["id"] if doc else row["example"]
    return name, {"question": question, "correct": value(scores, name, where), "tokens": _count(spent)}


def read_vlmevalkit(contents: Sequence[Content], metric: str | None = None, tokens: str | None = None) -> Answers:
    """The answers in files that VLMEvalKit's evaluation writes with a grade a row; index is the question.

    metric: the grade's column, by default the first of ``GRADES``. Raises ``AnalysisError``: predictions that are not
    graded yet, or no such column.
    """
    frames, asked, names = [], {}, set()
    for sample, content in enumerate(contents):
        frame = content.frame
        name = metric or next((grade for grade in GRADES if grade in frame), None)
        if name is None and "res" in frame:
            raise AnalysisError(
                f"{content.file}: VLMEvalKit's extracted answers (res) without a grade; evaluate with --use-verifier "
                "and give *_detailed_results.xlsx, or name a column of 1 and 0 with --metric"
            )
        if name is None:
            raise AnalysisError(
                f"{content.file}: VLMEvalKit's predictions without a grade (columns {content.columns}); give the file "
                f"of its evaluation that has {' or '.join(GRADES)}, or name a column of 1 and 0 with --metric"
            )
        for column in (name, *([tokens] if tokens else [])):
            if column not in frame:
                raise AnalysisError(f"{content.file}: has no column {column}; there are {content.columns}")
        names.add(name)
        for row in content.rows:
            there = [str(row.get(key)) for key in ("question", "answer")]
            if asked.setdefault(str(row["index"]), there) != there:
                raise AnalysisError(f"{content.file}: index {row['index']} is another question than in the file before")
        spent = frame[tokens].map(_count) if tokens else None
        frames.append(
            pd.DataFrame({"question": frame["index"], "sample": sample, "correct": frame[name], "tokens": spent})
            .assign(where=content.where)
        )  # fmt: skip
    settings = {"imported": "vlmevalkit", "metric": sorted(names), "asked": settings_hash(asked)}
    form = f"graded answers of VLMEvalKit ({contents[0].form}), metric {', '.join(settings['metric'])}"
    return Answers(pd.concat(frames, ignore_index=True), settings, form)


def _kind(content: Content, asked: str | None) -> str:
    """Which of ``FORMATS`` a file is by its columns; it must be the one that was asked for."""
    columns = set(content.frame.columns)
    found = None
    if set(REQUIRED) <= columns:
        found = "table"
    elif "doc_id" in columns:
        found = "lm-eval"
    elif {"doc", "metric"} <= columns or {"example", "metrics"} <= columns:
        found = "lighteval"
    elif "index" in columns and columns & {"prediction", *GRADES}:
        found = "vlmevalkit"
    if found is not None and asked in (None, found):
        return found
    if found is not None:
        raise AnalysisError(f"{content.file}: {FORMATS[found]}, not {FORMATS[str(asked)]}; leave out --format")
    if asked == "table" or (asked is None and len(set(REQUIRED) & columns) > 1):
        missing = ", ".join(column for column in REQUIRED if column not in columns)
        raise AnalysisError(
            f"{content.file}: has no column {missing}; there must be {', '.join(REQUIRED)}; there are {content.columns}"
        )
    if asked == "lm-eval":
        return asked  # whose reader names the line
    totals = {"hit", "tot"} <= columns or {"split", "Overall"} <= columns
    what = "totals of VLMEvalKit, no answers" if totals else content.form
    raise AnalysisError(f"{content.file}: {what}, columns {content.columns}; {RIGHT}")


def _parsed(cell: Any) -> Any:
    """A cell that is the text of a Python value as that value, any other as it is."""
    if isinstance(cell, str) and cell[:1] in ("{", "["):
        try:
            return ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            return cell
    return cell


def _count(spent: Any) -> Any:
    """How many tokens: of a list its length, None of an empty one or of several; anything else as it is."""
    while isinstance(spent, list) and len(spent) == 1 and isinstance(spent[0], list):
        spent = spent[0]
    if isinstance(spent, list):
        return len(spent) if spent and not isinstance(spent[0], list) else None
    return spent
