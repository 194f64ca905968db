"""Answers graded per second: the pool, math-verify in this process, and verl's own scorers, on the same answers.

    python tests/bench/grading_bench.py [--answers 150] [--workers 2] [--seconds 5] [--rounds 3] [--out results/bench]

Contestants take turns (``--rounds``), every round with answers of its own, so that nobody's cache helps; nothing else
should run. Writes grading.json (every number) and grading.md (a table) into the output folder, in about five minutes on
2 cores; asserts nothing about time.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import platform
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
from bench import described, environment, spread, write

from harness.grading import mathematics
from harness.grading.pool import GradingPool
from harness.paths import ROOT
from harness.run.process import end_session

CORPUS = ROOT / "tests" / "unit" / "harness" / "grading" / "corpus" / "answers.csv"
POOL, OURS = "pool", "our grader in one process"
HANGING, HANGS = r"\boxed{9^{9^{9^{9}}}}", 5  # one more than verl's math_verify has processes
HANG_LIMIT = 150.0  # seconds that a contestant has for all of them, its start included
SENTENCE = "Since $x^2 + {} = {}$ we have $x = {}$, and it remains to look at the other case. "
Pair = tuple[str, str]
Scorer = Callable[[list[Pair]], list[bool]]
NOTES = (
    """*Integers*: a response of about 8,000 characters with one box at its end, and an integer as the truth, as in
    DAPO-Math-17K. *Formulas*: a short response and a truth that must be parsed (fractions, roots, intervals, sets,
    tuples, polynomials, multiples of pi), as in MATH. Half of the answers are right, no two are alike. Cells: the
    median over rounds, with the lowest and the highest. CPU time, of all processes, says more than the clock where
    others compute too. *Right*: share of right verdicts, on integers and on formulas.""",
    """*Corpus*: share of the verdicts of the tests' `corpus/answers.csv` that a grader shares; it was written for the
    pool's grader and leans to formats where graders disagree. verl's first two compare text, so formulas written
    otherwise are wrong to them: their speed there is no merit.""",
    """*Hanging*: {hangs} answers `{hanging}`, then an easy right one; {seconds:g} s for each (CPU time in the pool, the
    clock in verl's math_verify, twice math-verify's own alarm of 5 s, which works in a main thread only). "never": not
    within {limit:g} s. Our grader has no limit of its own and always runs in the pool.""",
    """The pool of {workers} was ready after {start:.2g} s and took {memory:.0f} MB a worker at the end. An
    answer takes it as much CPU time as it takes our grader in one process, so that it is faster on formulas only where
    cores are free for its workers; a hanging answer costs its limit and the start of one worker.""",
)


def integers(draw: random.Random, n: int) -> Iterator[tuple[str, str, bool]]:
    """``n`` of (response, truth, is it right): long responses, integers as truths."""
    for number in range(n):
        truth = draw.randrange(10**6)
        steps = "".join(SENTENCE.format(*(draw.randrange(10**4) for _ in range(3))) for _ in range(100))
        yield rf"{steps}So the answer is $\boxed{{{truth + number % 2}}}$.", str(truth), number % 2 == 0


def formulas(draw: random.Random, n: int) -> Iterator[tuple[str, str, bool]]:
    """``n`` of (response, truth, is it right): an answer that means the same as the truth or, with ``c``, does not."""
    for number in range(n):
        a, b = draw.randrange(2, 10**4), draw.randrange(2, 10**4)
        c = b + number % 2
        answer, truth = (
            (rf"\frac{{{2 * a}}}{{{2 * c}}}", rf"{a}/{b}"),
            (rf"{a}\sqrt{{{c}}}", rf"\sqrt{{{b}}}\cdot {a}"),
            (rf"\left[{a}, {a + c}\right)", rf"[{a},{a + b})"),
            (rf"\{{{c}, {a}\}}", rf"\{{{a},{b}\}}"),
            (rf"({a}, {c}.0)", rf"({a},{b})"),
            (rf"{a} + {c}x + x^2", rf"x^2+{b}x+{a}"),
            (rf"\frac{{\pi}}{{{c}}}\cdot {a}", rf"\frac{{{a}\pi}}{{{b}}}"),
        )[number // 2 % 7]
        yield rf"Hence it is $\boxed{{{answer}}}$.", truth, number % 2 == 0


SETS = {"integers": integers, "formulas": formulas}


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


def contestants(pool: GradingPool, seconds: float) -> dict[str, Scorer]:
    """Name -> scorer; math-verify alone finds the answer by itself, the pool grades with our extraction."""
    from math_verify import parse, verify
    from verl.utils.reward_score import math_dapo, math_reward, math_verify

    dapo: Any = math_dapo.compute_score  # a dictionary, whatever its annotation says
    return {
        POOL: lambda pairs: [one.outcome == "right" for one in pool.grade_many([(*pair, True) for pair in pairs])],
        OURS: one_by_one(lambda r, t: mathematics.grade(r, t, True)["accuracy"]),
        "math-verify in one process": one_by_one(lambda r, t: float(verify(parse(f"${t}$"), parse(r)))),
        "verl's math_dapo (text)": one_by_one(lambda r, t: dapo(r, t)["score"]),
        "verl's math_reward (text)": one_by_one(math_reward.compute_score),
        "verl's math_verify (4 processes)": one_by_one(lambda r, t: math_verify.compute_score(r, t, timeout=seconds)),
    }


def measure(answers: int, workers: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Rates (answers per second) by contestant and set, agreement with the corpus, start and memory of the pool."""
    with CORPUS.open(newline="") as file:
        corpus = [(row["answer"], row["truth"], row["verdict"] == "right") for row in csv.DictReader(file)]
    began = time.perf_counter()
    with GradingPool(workers, seconds) as pool:
        started = time.perf_counter() - began
        scorers = contestants(pool, seconds)
        found: dict[str, dict[str, Any]] = {}
        for name, scorer in scorers.items():  # starts what only a first answer starts, too
            found[name] = {"corpus": graded(scorer, corpus)["agree"], **{kind: [] for kind in SETS}}
        for number in range(rounds):
            for kind, make in SETS.items():
                rows = list(make(random.Random(number), answers))
                for name, scorer in scorers.items():
                    found[name][kind].append(one := graded(scorer, rows))
                    print(f"round {number + 1}, {kind}, {name}: {one['rate']:.3g} a second", flush=True)
        memory = [psutil.Process(pid).memory_full_info().uss for pid in pool.processes()]
    return {"start_seconds": started, "worker_bytes": memory, "contestants": found}


def graded(scorer: Scorer, rows: list[tuple[str, str, bool]]) -> dict[str, float]:
    """rate: answers per second; cpu_ms: CPU time of an answer in all processes; agree: share of right verdicts."""
    pairs = [(response, truth) for response, truth, _ in rows]
    began, cpu = time.perf_counter(), cpu_seconds()
    right = scorer(pairs)
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    agree = sum(one == verdict for one, (_, _, verdict) in zip(right, rows, strict=True))
    return {"rate": len(rows) / seconds, "cpu_ms": 1000 * cpu / len(rows), "agree": agree / len(rows)}


def cpu_seconds() -> float:
    """CPU time of this process and of all that it started."""
    here = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (here, *here.children(recursive=True)))


def hang(name: str, workers: int, seconds: float) -> None:
    """In a process of its own: grade the hanging answers, then an easy one; prints seconds of both and the verdict."""
    with GradingPool(workers, seconds) as pool:
        scorer = contestants(pool, seconds)[name]
        scorer([(r"\boxed{1}", "1")])
        times, found = [time.perf_counter()], []
        for pairs in ([(HANGING, "5")] * HANGS, [(r"\boxed{\frac{1}{2}}", "1/2")]):
            found = scorer(pairs)
            times.append(time.perf_counter())
    print(
        json.dumps({"seconds": times[1] - times[0], "then_seconds": times[2] - times[1], "right": found[0]}), flush=True
    )
    os._exit(0)  # verl's processes still hang, and would be waited for


def after_hanging(name: str, workers: int, seconds: float) -> dict[str, Any] | None:
    """What ``hang`` says of a contestant, None if it says nothing within ``HANG_LIMIT``; its processes are ended."""
    command = [sys.executable, __file__, "--hang", name, "--workers", str(workers), "--seconds", str(seconds)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    try:
        process.wait(HANG_LIMIT)
    except subprocess.TimeoutExpired:
        pass
    finally:
        end_session(process.pid, grace=1.0)
    lines = process.stdout.read().splitlines()
    process.wait()
    return json.loads(lines[-1]) if lines else None


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    measured: dict[str, dict[str, Any]] = result["contestants"]
    workers = f"{result['workers']} worker{'s' * (result['workers'] > 1)}"
    lines = [f"# Grading, {result['rounds']} rounds of {result['answers']} answers", "", described(result), ""]
    columns = ("integers, answers/s", "formulas, answers/s", "a formula, CPU ms", "right", "corpus")
    columns += (f"{HANGS} hanging, s", "an easy one after that")
    lines += [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name, one in measured.items():
        right = " and ".join(f"{100 * fmean(each['agree'] for each in one[kind]):.0f}" for kind in SETS)
        cells = [spread([each["rate"] for each in one[kind]]) for kind in SETS]
        cells += [spread([each["cpu_ms"] for each in one["formulas"]]), f"{right} %", f"{100 * one['corpus']:.0f} %"]
        lines.append(f"| {name}{f', {workers}' if name == POOL else ''} | {' | '.join(cells + _hanging(one))} |")
    notes = (" ".join(note.split()) for note in NOTES)
    values = {"hangs": HANGS, "hanging": HANGING, "limit": HANG_LIMIT, "seconds": result["seconds"]}
    values |= {"start": result["start_seconds"], "memory": max(result["worker_bytes"]) / 1e6, "workers": workers}
    return "\n".join(lines) + "\n\n" + "\n\n".join(textwrap.fill(note.format(**values), 120) for note in notes) + "\n"


def _hanging(one: dict[str, Any]) -> list[str]:
    if "hanging" not in one:
        return ["-", "-"]
    if one["hanging"] is None:
        return ["never", "-"]
    verdict = "right" if one["hanging"]["right"] else "not right"
    return [f"{one['hanging']['seconds']:.3g}", f"{verdict}, {one['hanging']['then_seconds']:.3g} s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=150, help="of each set in each round")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=5.0, help="limit of one answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    parser.add_argument("--hang", metavar="CONTESTANT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # math-verify's, that its time limits are off
    if args.hang:
        hang(args.hang, args.workers, args.seconds)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that what was started is ended too
    result = environment()
    result["versions"] = {
        "python": platform.python_version(),
        "verl": metadata.version("verl"),
        **mathematics.versions(),
    }
    result |= {"answers": args.answers, "rounds": args.rounds, "workers": args.workers, "seconds": args.seconds}
    result |= measure(args.answers, args.workers, args.seconds, args.rounds)
    for name, one in result["contestants"].items():
        if name != OURS:
            one["hanging"] = after_hanging(name, args.workers, args.seconds)
            print(f"{HANGS} hanging answers, {name}: {one['hanging']}", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "grading", result, table(result))


if __name__ == "__main__":
    main()
