"""Answers graded per second: the pool, math-verify in this process, and verl's own scorers, on the same answers.

    python tests/bench/grading_bench.py [--answers 2000] [--workers 4] [--seconds 5] [--out results/bench]

The answers are those of the test corpus, repeated. Contestants take turns (``--rounds``); nothing else should run.
Writes grading.json and grading.md; asserts nothing about time. ``agree`` is the share of the corpus's verdicts that a
contestant gives: verl's scorers were made for other formats, so theirs says how much the formats differ.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from harness.assets import ROOT
from harness.grading import mathematics
from harness.grading.pool import GradingPool

CORPUS = ROOT / "tests" / "unit" / "corpus" / "answers.csv"
Pair = tuple[str, str]
Scorer = Callable[[list[Pair]], list[bool]]


def one_by_one(score: Callable[[str, str], float]) -> Scorer:
    """A scorer that grades in this process; what raises counts as wrong."""

    def run(pairs: list[Pair]) -> list[bool]:
        found = []
        for response, truth in pairs:
            right = False
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                right = score(response, truth) > 0
            found.append(right)
        return found

    return run


def contestants(pool: GradingPool) -> dict[str, Scorer]:
    """Name -> scorer; math-verify alone finds the answer by itself, the pool grades with our extraction."""
    from math_verify import parse, verify
    from verl.utils.reward_score import math_dapo, math_reward, math_verify

    return {
        f"pool, {len(pool.processes())} workers": lambda pairs: [
            verdict.outcome == "right" for verdict in pool.grade_many([(*pair, True) for pair in pairs])
        ],
        "our grader, this process": one_by_one(lambda r, t: mathematics.grade(r, t, True)["accuracy"]),
        "math-verify, this process": one_by_one(lambda r, t: float(verify(parse(f"${t}$"), parse(r)))),
        "verl math_dapo": one_by_one(lambda r, t: math_dapo.compute_score(r, t)["score"]),
        "verl math_reward": one_by_one(math_reward.compute_score),
        "verl math_verify": one_by_one(math_verify.compute_score),
    }


def measure(answers: int, workers: int, seconds: float, rounds: int) -> dict[str, object]:
    """Answers per second (median, lowest and highest over rounds) and agreement of every contestant."""
    rows = list(csv.DictReader(CORPUS.open(newline="")))
    pairs = [(row["answer"], row["truth"]) for row in islice(cycle(rows), answers)]
    truth = [row["verdict"] == "right" for row in islice(cycle(rows), answers)]
    with GradingPool(workers, seconds) as pool:
        scorers = contestants(pool)
        rates: dict[str, list[float]] = {name: [] for name in scorers}
        agree: dict[str, float] = {}
        for scorer in scorers.values():  # imports, caches and processes of verl's are not measured
            scorer(pairs[:20])
        for _ in range(rounds):
            for name, scorer in scorers.items():
                began = time.perf_counter()
                found = scorer(pairs)
                rates[name].append(answers / (time.perf_counter() - began))
                agree[name] = sum(a == b for a, b in zip(found, truth, strict=True)) / answers
    return {
        "answers": answers,
        "seconds": seconds,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "versions": mathematics.versions(),
        "contestants": {
            name: {
                "answers_per_second": median(values),
                "lowest": min(values),
                "highest": max(values),
                "agree": agree[name],
            }
            for name, values in rates.items()
        },
    }


def table(result: dict[str, object]) -> str:
    """The result as Markdown."""
    lines = ["| grader | answers per second | agrees with the corpus |", "|---|---|---|"]
    measured: dict[str, dict[str, float]] = result["contestants"]  # type: ignore[assignment]
    for name, one in measured.items():
        rate = f"{one['answers_per_second']:.3g} [{one['lowest']:.3g}, {one['highest']:.3g}]"
        lines.append(f"| {name} | {rate} | {100 * one['agree']:.1f} % |")
    lines.append(f"\n{result['answers']} answers, {result['rounds']} rounds, {result['cores']} cores.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    options = parser.parse_args()
    outcome = measure(options.answers, options.workers, options.seconds, options.rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "grading.json").write_text(json.dumps(outcome, indent=2) + "\n")
    (options.out / "grading.md").write_text(table(outcome))
    print(table(outcome))
