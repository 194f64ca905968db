"""Benchmark results made elsewhere -> a run directory.

    python -m analysis.runs.import_evals FILE --run DIR --benchmark NAME [--format table|lm-eval]

``--format table``: CSV or Parquet, one row per question and sample, with the columns

- question: integer or text; text becomes the first 48 bits of its SHA-256, equal in all runs whatever else they have,
- sample: an integer, another one for each answer to the question; numbered from 0 here,
- correct: 1 right, 0 not; tokens: of the response, may be empty,
- truncated (1, 0, true, false or empty) and outcome (text), which may both be left out.

``--format lm-eval``: the ``samples_*.jsonl`` that lm-evaluation-harness writes with ``--log_samples``, one line per
document and filter (its 0.4.13; lmms-eval writes the same). ``--metric`` is the line's score; a list of scores is one
for each answer. Several files are one answer each, such as runs with other seeds. Tokens are not in it: ``--tokens``
names what else holds them, as a number or a list of tokens. Both reach nested values with dots, such as
``token_counts.0.output_tokens``.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.frames import parse_line, read_eval
from analysis.runs.load import AnalysisError
from harness.rundir import EVAL_COLUMNS, RunDir, RunDirError, settings_hash, write_json

REQUIRED = ("question", "sample", "correct", "tokens")
KEYS = ("experiment", "arm", "algo", "seed")
BASE = "base"
TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
# What a line of lm-evaluation-harness holds besides its scores.
NO_SCORE = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
HASHES = ("doc_hash", "prompt_hash", "target_hash")

Answers = tuple[pd.DataFrame, dict[str, Any]]  # REQUIRED, perhaps truncated and outcome, and `where`; settings told


def import_evals(
    answers: pd.DataFrame, run: RunDir, benchmark: str, step: int, settings: Mapping[str, Any], source: Sequence[Path]
) -> Path:
    """Write answers, as ``read_table`` and ``read_lm_eval`` return them, as the run's evaluation; returns its path.

    step: of the model that answered. settings: all that is known of how the answers were sampled and graded; answers
    of unequal settings are not compared. source: the files that the record names. The same again changes nothing.
    Raises ``AnalysisError`` naming file and row: no question, a sample that is no integer or there twice, correct that
    is not 0 or 1, tokens that are no count, questions with unequal numbers of samples; another result there already.
    """
    frame, counts = checked(answers)
    settings = {"name": benchmark, "k": int(counts.iloc[0]), **settings}
    frame = frame.assign(step=step, settings=settings_hash(settings))[list(EVAL_COLUMNS)]
    result = run.eval / f"{benchmark}.parquet"
    result.parent.mkdir(parents=True, exist_ok=True)
    draft = result.with_name(f".{result.name}")
    frame.to_parquet(draft, index=False)
    if result.exists():
        try:
            same = read_eval(result).equals(read_eval(draft))
        except RunDirError as error:
            raise AnalysisError(str(error)) from None
        finally:
            draft.unlink()
        if not same:
            raise AnalysisError(f"{result} is there already and holds something else; move it away to import anew")
        return result
    summary = {"questions": len(counts), "answers": len(frame), f"avg@{settings['k']}": 100 * frame["correct"].mean()}
    files = [{"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in source]
    record = {"settings": {**settings, "step": step}, "summary": summary, "imported": files}
    write_json(result.with_suffix(".json"), record)
    draft.replace(result)
    return result


def read_table(file: Path) -> Answers:
    """The answers of a CSV or Parquet file; raises ``AnalysisError`` for a file that is broken or lacks a column."""
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype={"question": str})
    except (OSError, ValueError) as error:  # of pandas and pyarrow, too
        raise AnalysisError(f"{file}: not readable ({' '.join(str(error).split())})") from None
    missing = [column for column in REQUIRED if column not in frame]
    if missing:
        raise AnalysisError(f"{file}: has no column {', '.join(missing)}; there must be {', '.join(REQUIRED)}")
    frame = frame.reset_index(drop=True)
    return frame.assign(where=[f"{file}, row {at + 1}" for at in range(len(frame))]), {"imported": "table"}


def read_lm_eval(
    files: Sequence[Path], metric: str | None = None, chosen: str | None = None, tokens: str | None = None
) -> Answers:
    """The answers in samples files of lm-evaluation-harness; several files are one after the other's samples.

    metric: by default the only one. chosen: the filter, by default the only one. tokens: where a line holds the tokens
    of its answers. The settings are both names, generation options and a hash of documents, prompts and targets.
    Raises ``AnalysisError`` naming the line: not JSON, a document twice in a file, several filters or metrics to choose
    from, one score for several answers (whose of them is not recorded), no such value.
    """
    rows: list[dict[str, Any]] = []
    asked: dict[str, list[Any]] = {}
    names, options, filters = set(), set(), set()
    samples: dict[Any, int] = {}
    for file in files:
        seen: set[Any] = set()
        for where, line in _lines(file):
            if chosen not in (None, line.get("filter")):
                filters.add(str(line.get("filter")))
                continue
            filters.add(str(line.get("filter", "none")))
            if chosen is None and len(filters) > 1:
                raise AnalysisError(f"{where}: filters {', '.join(sorted(filters))}; choose one with --filter")
            doc = line["doc_id"]
            if doc in seen:
                raise AnalysisError(f"{where}: question {doc} is there twice; other samples are files of their own")
            seen.add(doc)
            name = metric or _only_metric(line, where)
            names.add(name)
            scores, spent = _answers(line, name, tokens, where)
            for score, count in zip(scores, spent, strict=True):
                sample = samples[doc] = samples.get(doc, -1) + 1
                rows.append({"question": doc, "sample": sample, "correct": score, "tokens": count, "where": where})
            hashes = [line.get(key, "") for key in HASHES]
            if asked.setdefault(str(doc), hashes) != hashes:
                raise AnalysisError(f"{where}: question {doc} is another document or prompt than in the file before")
            options.add(json.dumps(_generation(line), sort_keys=True))
    if not rows:
        there = f" of filter {chosen}; there are {', '.join(sorted(filters))}" if filters else ""
        raise AnalysisError(f"{', '.join(map(str, files))}: no samples{there}")
    settings = {
        "imported": "lm-eval",
        "metric": sorted(names),
        "filter": chosen or sorted(filters)[0],
        "generation": sorted(options),
        "asked": settings_hash(asked),
    }
    return pd.DataFrame(rows), settings


def checked(answers: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """The answers with the columns of an evaluation but step and settings, by question and sample; samples a question.

    Raises ``AnalysisError`` as ``import_evals``.
    """

    def refuse(bad: pd.Series, column: str, right: str) -> None:
        if bad.any():
            row = answers[bad].iloc[0]
            raise AnalysisError(f"{row['where']}: {column} is {row[column]}, {right}")

    if answers.empty:
        raise AnalysisError("no answers to import: the file has no rows")
    numbers = {name: pd.to_numeric(answers[name], errors="coerce") for name in ("sample", "correct", "tokens")}
    refuse(answers["question"].isna(), "question", "not an integer or text")
    refuse(~(numbers["sample"] % 1 == 0), "sample", "not an integer")
    refuse(~numbers["correct"].isin([0, 1]), "correct", "not 0 or 1")
    count = np.isfinite(numbers["tokens"]) & numbers["tokens"].ge(0)
    refuse(answers["tokens"].notna() & ~count, "tokens", "not a count")
    correct = numbers["correct"].astype(int)
    frame = pd.DataFrame(
        {
            "question": question_ids(answers["question"]),
            "sample": numbers["sample"].astype(int),
            "correct": correct,
            "tokens": numbers["tokens"].astype(float),
            "truncated": pd.Series(pd.NA, index=answers.index, dtype="boolean"),
            "outcome": correct.map({1: "right", 0: "wrong"}),
        }
    )
    if "truncated" in answers:
        said = answers["truncated"].astype(str).str.lower().map(TRUTH)
        refuse(answers["truncated"].notna() & said.isna(), "truncated", "not 0, 1, true or false")
        frame["truncated"] = said.astype("boolean")
    if "outcome" in answers:
        frame["outcome"] = answers["outcome"].astype("object").fillna(frame["outcome"]).astype(str)
    again = frame.duplicated(["question", "sample"])
    if again.any():
        row = answers[again].iloc[0]
        raise AnalysisError(f"{row['where']}: question {row['question']}, sample {row['sample']} is there twice")
    counts = frame.groupby("question")["sample"].count()
    usual = counts.mode()[0]
    odd = frame["question"].map(counts) != usual
    if odd.any():
        row, has = answers[odd].iloc[0], counts[frame.loc[odd, "question"].iloc[0]]
        raise AnalysisError(
            f"{row['where']}: question {row['question']} has {has} samples, others {usual}; all need as many"
        )
    frame = frame.sort_values(["question", "sample"], ignore_index=True)
    return frame.assign(sample=frame.groupby("question").cumcount()), counts


def question_ids(ids: pd.Series) -> pd.Series:
    """Integers as they are; if any is none, all as the first 48 bits of the SHA-256 of their text."""
    numbers = pd.to_numeric(ids, errors="coerce")
    if (numbers % 1 == 0).all():
        return numbers.astype("int64")
    return ids.map(lambda one: int(hashlib.sha256(str(one).encode()).hexdigest()[:12], 16)).astype("int64")


def run_directory(path: Path, given: Mapping[str, Any], step: int | None = None) -> tuple[RunDir, int]:
    """The run at ``path`` and the step of the model that is evaluated, by default its last planned one.

    Without a run there, one is made for results whose training is not recorded here: ``given`` has all of ``KEYS``, the
    fingerprint is empty, so that nothing proves it matched, and its training is one row of metrics without a value, at
    ``step`` (by default 1: trained, for how long is not known). The arm ``base`` is step 0 and has none. Raises
    ``AnalysisError`` where keys are missing or contradict the run's manifest.
    """
    run = RunDir(path)
    given = {key: value for key, value in given.items() if value is not None}
    if (path / "manifest.json").exists():
        try:
            manifest = run.manifest()
        except RunDirError as error:
            raise AnalysisError(str(error)) from None
        differ = [f"{key} {value} (the run's is {manifest.get(key)})" for key, value in given.items()
                  if manifest.get(key) != value]  # fmt: skip
        if differ:
            raise AnalysisError(f"{path} is another run: {', '.join(differ)}")
        return run, manifest["planned_steps"] if step is None else step
    missing = [f"--{key}" for key in KEYS if key not in given]
    if missing:
        raise AnalysisError(f"{path}: no run directory; to make one for these results give {' '.join(missing)}")
    last = 0 if given["arm"] == BASE else step or 1
    if last:
        row = {"step": last, "data": {"response_length": None}}
        (run.new_attempt() / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    run.write_status("done", last_step=last, planned_steps=last)
    run.write_manifest({**given, "clip": "", "fingerprint": "", "planned_steps": last, "imported": True})
    return run, last


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of a samples file, with what names it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise AnalysisError(f"{file}: not readable ({error.strerror})") from None
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                row = parse_line(line)
            except ValueError as error:
                raise AnalysisError(f"{file}:{number}: not JSON ({error})") from None
            if not isinstance(row, dict) or "doc_id" not in row:
                raise AnalysisError(f"{file}:{number}: no doc_id; is this a samples file of lm-evaluation-harness?")
            yield f"{file}:{number}", row


def _only_metric(line: Mapping[str, Any], where: str) -> str:
    named = line.get("metrics") or [key for key in line if key not in NO_SCORE and not isinstance(line[key], str)]
    if len(named) != 1:
        raise AnalysisError(f"{where}: {len(named)} metrics ({', '.join(named)}); choose one with --metric")
    return named[0]


def _answers(line: Mapping[str, Any], metric: str, tokens: str | None, where: str) -> tuple[list[Any], list[Any]]:
    """Score and tokens of each answer of a line."""
    score, spent = _value(line, metric, where), None if tokens is None else _value(line, tokens, where)
    responses = line.get("resps") or [[]]
    repeats = len(responses[0]) if isinstance(responses[0], list) else 1
    if not isinstance(score, list):
        if repeats > 1:
            raise AnalysisError(
                f"{where}: one {metric} for {repeats} answers; which it grades is not recorded: log one answer a file"
            )
        return [score], [len(spent) if isinstance(spent, list) else spent]
    counts = [None] * len(score) if spent is None else spent
    if repeats not in (1, len(score)) or not isinstance(counts, list) or len(counts) != len(score):
        raise AnalysisError(f"{where}: {len(score)} values of {metric} need as many answers and tokens")
    return score, [len(one) if isinstance(one, list) else one for one in counts]


def _value(line: Mapping[str, Any], name: str, where: str) -> Any:
    """A value by its key, or by keys and places joined with dots."""
    if name in line:
        return line[name]
    value: Any = line
    try:
        for key in name.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (KeyError, IndexError, ValueError, TypeError):
        raise AnalysisError(f"{where}: has no {name}; there are {', '.join(map(str, line))}") from None
    return value


def _generation(line: Mapping[str, Any]) -> dict[str, Any]:
    """Generation options, where the line says any: temperature, where to stop and the like."""
    arguments = line.get("arguments")
    first = arguments.get("gen_args_0", {}).get("arg_1") if isinstance(arguments, dict) else None
    return first if isinstance(first, dict) else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for input that cannot be imported."""
    args = _parser().parse_args(argv)
    try:
        unclear = [setting for setting in args.setting if "=" not in setting]
        if unclear:
            raise AnalysisError(f"--setting {unclear[0]}: expected KEY=VALUE, such as temperature=1.0")
        if args.format == "table":
            if len(args.files) > 1:
                raise AnalysisError(f"{args.files[1]}: a table is one file with all samples")
            answers, settings = read_table(args.files[0])
        else:
            answers, settings = read_lm_eval(args.files, args.metric, args.filter, args.tokens)
        settings |= {"given": dict(setting.split("=", 1) for setting in args.setting)}
        checked(answers)  # before a run directory is made for them
        run, step = run_directory(args.run, {key: getattr(args, key) for key in KEYS}, args.step)
        print(import_evals(answers, run, args.benchmark, step, settings, args.files))
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.runs.import_evals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Without a run at DIR one is made; it needs --experiment, --arm, --algo and --seed.",
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE")
    add("--run", type=Path, required=True, metavar="DIR", help="run directory")
    add("--benchmark", required=True, metavar="NAME", help="the same in all runs")
    add("--format", choices=("table", "lm-eval"), default="table", help="of FILE (default: table)")
    add("--metric", metavar="NAME", help="lm-eval: score of an answer, 1 or 0 (default: the only one)")
    add("--filter", metavar="NAME", help="lm-eval: of several answer filters the one to take")
    add("--tokens", metavar="NAME", help="lm-eval: what holds the tokens (default: not known)")
    add("--setting", action="append", default=[], metavar="KEY=VALUE", help="what else the answers were sampled and "
        "graded with; runs with other settings are not compared; may be repeated")  # fmt: skip
    add("--step", type=int, metavar="N", help="training steps of the model (default: the run's planned steps)")
    for key in KEYS:
        add(f"--{key}", type=int if key == "seed" else str, help="of a run directory to make")
    return parser


if __name__ == "__main__":
    sys.exit(main())
