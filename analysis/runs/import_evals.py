"""Benchmark results made elsewhere -> a run directory.

    python -m analysis.runs.import_evals FILE --run DIR --benchmark NAME
    python -m analysis.runs.import_evals samples_aime24.jsonl --run results/runs/mine/luspo/seed=0 --benchmark aime24

What a file holds decides how it is read, its name does not; one line says what was read. CSV (with commas, semicolons
or tabs), XLSX, Parquet and JSON may hold

a table: one row per question and sample, with the columns

- question: integer or text; text becomes the first 48 bits of its SHA-256, equal in all runs whatever else they have,
- sample: an integer, another one for each answer to the question; numbered from 0 here,
- correct: 1 correct, 0 incorrect; tokens: of the response, may be empty,
- truncated (1, 0, true, false or empty) and outcome (text), which may both be left out;

samples of lm-evaluation-harness, 0.4.0 or later (``--log_samples``; lmms-eval writes the same): one row per document
and filter. Before 0.4.7 no row names its filter; ``--filter 1`` is the first of the task's filter_list;

details of lighteval, 0.4 or later (``--save-details``): tokens are in them, where the model's backend told them;

graded answers of VLMEvalKit: index is the question, the grade is hit, verifier_match, verifier_score or score.

``--metric`` is the score of an answer, 1 or 0; a list of scores is one for each answer. Several files are one answer
each, such as runs with other seeds. ``--tokens`` names what holds the tokens, as a number or a list of tokens. Both
reach nested values with dots, such as ``token_counts.0.output_tokens``.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.eval_formats import FORMATS, read_answers
from analysis.runs.frames import read_eval
from analysis.runs.load import AnalysisError
from harness.rundir import EVAL_COLUMNS, RunDir, RunDirError, settings_hash, write_json

KEYS = ("experiment", "arm", "algo", "seed")
BASE = "base"
TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def import_evals(
    answers: pd.DataFrame, run: RunDir, benchmark: str, step: int, settings: Mapping[str, Any], source: Sequence[Path]
) -> Path:
    """Write answers, as ``read_answers`` returns them, as the run's evaluation; returns its path.

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
    said = answers["answer"] if "answer" in answers else pd.Series("", index=answers.index)
    frame["answer"] = said.astype("object").fillna("").astype(str)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for input that cannot be imported."""
    args = _parser().parse_args(argv)
    try:
        unclear = [setting for setting in args.setting if "=" not in setting]
        if unclear:
            raise AnalysisError(f"--setting {unclear[0]}: expected KEY=VALUE, such as temperature=1.0")
        answers, settings, form = read_answers(args.files, args.format, args.metric, args.filter, args.tokens)
        settings |= {"given": dict(setting.split("=", 1) for setting in args.setting)}
        frame, counts = checked(answers)  # before a run directory is made for them
        run, step = run_directory(args.run, {key: getattr(args, key) for key in KEYS}, args.step)
        samples = f"{counts.iloc[0]} sample{'s' * int(counts.iloc[0] > 1)} of each"
        known = f"tokens known of {frame['tokens'].notna().sum()} of {len(frame)} answers"
        print(f"read {form}: {len(counts)} questions, {samples}, {known}")
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
    add("--format", choices=tuple(FORMATS), help="refuse FILE if it holds anything else (default: take what it holds)")
    add("--metric", metavar="NAME", help="score of an answer, 1 or 0 (default: the only one)")
    add("--filter", metavar="NAME", help="lm-eval: of several answer filters the one to take")
    add("--tokens", metavar="NAME", help="what holds the tokens (default: not known; lighteval records them)")
    add("--setting", action="append", default=[], metavar="KEY=VALUE", help="what else the answers were sampled and "
        "graded with; runs with other settings are not compared; may be repeated")  # fmt: skip
    add("--step", type=int, metavar="N", help="training steps of the model (default: the run's planned steps)")
    for key in KEYS:
        add(f"--{key}", type=int if key == "seed" else str, help="of a run directory to make")
    return parser


if __name__ == "__main__":
    sys.exit(main())
