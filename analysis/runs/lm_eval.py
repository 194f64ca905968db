"""The samples that lm-evaluation-harness logs (``--log_samples``), as answers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.frames import parse_line
from analysis.runs.load import AnalysisError
from harness.rundir import settings_hash

# What a line of lm-evaluation-harness holds besides its scores.
NO_SCORE = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
HASHES = ("doc_hash", "prompt_hash", "target_hash")

# question, sample, correct, tokens, `where` it was found, perhaps truncated and outcome; the settings told
Answers = tuple[pd.DataFrame, dict[str, Any]]


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
