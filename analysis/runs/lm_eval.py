"""The samples that lm-evaluation-harness logs (``--log_samples``), as answers.

Up to 0.4.2 a file is one indented JSON array, from 0.4.3 on a JSON line per document and filter. Documents, prompts and
targets have hashes from 0.4.3 on, a line names its filter and its metrics from 0.4.7 on.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.runs.eval_files import Answers, Content, value
from analysis.runs.load import AnalysisError
from harness.rundir import settings_hash

# What a line of lm-evaluation-harness holds besides its scores.
NO_SCORE = {
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "scores_per_repeat",
}  # fmt: skip
HASHES = ("doc_hash", "prompt_hash", "target_hash")

Line = tuple[str, dict[str, Any]]  # where it is, what it holds


def read_lm_eval(
    contents: Sequence[Content], metric: str | None = None, chosen: str | None = None, tokens: str | None = None
) -> Answers:
    """The answers in samples files of lm-evaluation-harness; several files are one after the other's samples.

    metric: by default the only one. chosen: the filter, by default the only one; where no line names it, its place
    among the task's filters, from 1. tokens: where a line holds the tokens of its answers. The settings are both names,
    generation options and a hash of documents, prompts and targets. Raises ``AnalysisError`` naming the line: no
    document's number, a document twice in a file, several filters or metrics to choose from, one score for several
    answers (whose of them is not recorded), no such value.
    """
    rows: list[dict[str, Any]] = []
    asked: dict[str, list[Any]] = {}
    names, options, filters = set(), set(), set()
    samples: dict[Any, int] = {}
    for content in contents:
        answer_filter, lines = _of_one_filter(content, chosen)
        if filters and answer_filter not in filters:
            raise AnalysisError(f"{content.file}: filter {answer_filter}, in the file before {filters.pop()}; take one")
        filters.add(answer_filter)
        seen: set[Any] = set()
        for where, line in lines:
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
            hashes = _hashes(line)
            if asked.setdefault(str(doc), hashes) != hashes:
                raise AnalysisError(f"{where}: question {doc} is another document or prompt than in the file before")
            options.add(json.dumps(_generation(line), sort_keys=True))
    settings = {
        "imported": "lm-eval",
        "metric": sorted(names),
        "filter": filters.pop(),
        "generation": sorted(options),
        "asked": settings_hash(asked),
    }
    said = f"metric {', '.join(settings['metric'])}, filter {settings['filter']}"
    return Answers(pd.DataFrame(rows), settings, f"samples of lm-evaluation-harness ({contents[0].form}), {said}")


def _of_one_filter(content: Content, chosen: str | None) -> tuple[str, list[Line]]:
    """The lines of the chosen filter or the only one, and its name."""
    lines = list(zip(content.where, content.rows, strict=True))
    for where, line in lines:
        if "doc_id" not in line:
            raise AnalysisError(f"{where}: no doc_id; is this a samples file of lm-evaluation-harness?")
    named = any("filter" in line for _, line in lines)
    by_filter: dict[str, list[Line]] = {}
    for name, line in _named(lines) if named else _numbered(lines):
        by_filter.setdefault(name, []).append(line)
    there = sorted(by_filter)
    if chosen is None and len(there) > 1:
        where = list(by_filter.values())[1][0][0]
        if named:
            raise AnalysisError(f"{where}: filters {', '.join(there)}; choose one with --filter")
        raise AnalysisError(
            f"{where}: the same responses {len(there)} times, of filters that no line names, as lm-evaluation-harness "
            f"before 0.4.7 writes them; choose one by its place in the task's filter_list: --filter 1 to {len(there)}"
        )
    name = chosen or there[0]
    if name not in by_filter:
        unnamed = "" if named else ", places in the task's filter_list: no line names its filter"
        raise AnalysisError(f"{content.file}: no samples of filter {name}; there are {', '.join(there)}{unnamed}")
    return name if named or len(there) == 1 else f"{name} of {len(there)}", by_filter[name]


def _named(lines: Sequence[Line]) -> list[tuple[str, Line]]:
    return [(str(line.get("filter", "none")), (where, line)) for where, line in lines]


def _numbered(lines: Sequence[Line]) -> list[tuple[str, Line]]:
    """Lines without a filter's name by its place: a document's n-th line is of the n-th filter; with one it is "none".

    Filters see the same responses. With other ones a repeated document would be another sample, not another filter.
    """
    responses: dict[Any, Any] = {}
    times: Counter[Any] = Counter()
    numbered = []
    for where, line in lines:
        doc = line["doc_id"]
        times[doc] += 1
        if responses.setdefault(doc, line.get("resps")) != line.get("resps"):
            raise AnalysisError(f"{where}: question {doc} is there twice; other samples are files of their own")
        numbered.append((str(times[doc]), (where, line)))
    usual = max(times.values(), default=1)
    if short := [(doc, count) for doc, count in times.items() if count != usual]:
        doc, count = short[0]
        where = next(where for where, line in lines if line["doc_id"] == doc)
        raise AnalysisError(f"{where}: question {doc} is there {count} times, others {usual}; is the file complete?")
    return numbered if usual > 1 else [("none", line) for _, line in numbered]


def _only_metric(line: Mapping[str, Any], where: str) -> str:
    named = line.get("metrics") or [key for key in line if key not in NO_SCORE and not isinstance(line[key], str)]
    if len(named) != 1:
        raise AnalysisError(f"{where}: {len(named)} metrics ({', '.join(named)}); choose one with --metric")
    return named[0]


def _answers(line: Mapping[str, Any], metric: str, tokens: str | None, where: str) -> tuple[list[Any], list[Any]]:
    """Score and tokens of each answer of a line."""
    score, spent = value(line, metric, where), None if tokens is None else value(line, tokens, where)
    score = (line.get("scores_per_repeat") or {}).get(metric, score)  # 0.5: the scores that the other is the mean of
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


def _arguments(line: Mapping[str, Any]) -> list[Any]:
    """Prompt, then generation options or continuation, of a line's first request; [] where there is none."""
    arguments = line.get("arguments")
    if isinstance(arguments, dict):
        first = arguments.get("gen_args_0", {})
        return [first[key] for key in ("arg_0", "arg_1") if key in first]
    return arguments[0] if isinstance(arguments, list) and arguments and isinstance(arguments[0], list) else []


def _generation(line: Mapping[str, Any]) -> dict[str, Any]:
    """Generation options, where the line says any: temperature, where to stop and the like."""
    options = _arguments(line)[1:2]
    return options[0] if options and isinstance(options[0], dict) else {}


def _hashes(line: Mapping[str, Any]) -> list[Any]:
    """What tells documents, prompts and targets apart: their hashes, or of files without any, hashes of our own."""
    if any(key in line for key in HASHES):
        return [line.get(key, "") for key in HASHES]
    return [settings_hash({"": part}) for part in (line.get("doc"), _arguments(line)[:1], line.get("target"))]
