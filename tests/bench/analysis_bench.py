"""What the analysis costs: loading (a file a step, a file a run, the parsers alone), claims, figures, report.

    python tests/bench/analysis_bench.py [--size small|medium|large ...] [--rounds 3] [--out results/bench]

Makes synthetic run directories in a temporary folder and measures each thing in a fresh process. Writes analysis.json
(every number) and analysis.md (a table) into the output folder; asserts nothing about time.
"""

import argparse
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ARMS = ("grpo", "gspo", "luspo")
METRICS = 100  # a row, ours among them
PACKAGES = ("numpy", "orjson", "pandas", "pyarrow", "matplotlib")
CLAIM_COLUMNS = ("step", "advantage", "log_ratio", "tokens", "clipped")
BENCHMARKS, QUESTIONS, SAMPLES = ("easy", "hard"), 100, 4


@dataclass(frozen=True)
class Size:
    """Number of runs, steps of a run, responses of a step."""

    runs: int
    steps: int
    responses: int


SIZES = {"small": Size(6, 50, 64), "medium": Size(15, 200, 128), "large": Size(30, 500, 267)}


def parse_json(root: Path) -> None:
    """Every line of every metrics file, kept a file at a time."""
    import orjson

    for file in sorted(root.rglob("metrics.jsonl")):
        _ = [orjson.loads(line) for line in file.read_bytes().split(b"\n") if line]


def load(root: Path) -> None:
    from analysis.runs.load import load_runs

    load_runs(root)


def parse_parquet(root: Path) -> None:
    """All columns of every file of responses into one table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.concat_tables([pq.ParquetFile(file).read(use_threads=False) for file in files_of(root)])


def files_of(root: Path) -> list[Path]:
    """Every file of responses."""
    return sorted([*root.rglob("sequences/*.parquet"), *root.rglob("sequences.parquet")])


def sequences(root: Path) -> None:
    from analysis.runs.load import load_runs

    load_runs(root).sequences()


def five_columns(root: Path) -> None:
    from analysis.runs.load import load_runs

    load_runs(root).sequences(CLAIM_COLUMNS)


def claims(root: Path) -> None:
    from analysis.paper.claims import paper_claims
    from analysis.runs.load import load_runs
    from analysis.statistics.claims import evaluate

    evaluate(load_runs(root), paper_claims())


def figures(root: Path) -> None:
    from analysis.report.write import write_figures
    from analysis.runs.load import load_runs

    with tempfile.TemporaryDirectory(prefix="bench-figures-") as folder:
        write_figures(load_runs(root), Path(folder))


def report(root: Path) -> None:
    from rich.console import Console

    from analysis.report.write import write_report
    from analysis.runs.load import load_runs

    with tempfile.TemporaryDirectory(prefix="bench-report-") as folder:
        write_report(load_runs(root), "bench", Path(folder), console=Console(file=io.StringIO()))


STEPS, RUN = "steps", "run"  # runs that are not done have a file of responses a step, finished ones have one
# What, how it is measured, and on which of the two.
CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "orjson alone, every line": (parse_json, RUN),
    "load_runs": (load, RUN),
    "pyarrow alone, a file a step": (parse_parquet, STEPS),
    "pyarrow alone, a file a run": (parse_parquet, RUN),
    "load_runs and all responses, a file a step": (sequences, STEPS),
    "load_runs and all responses, a file a run": (sequences, RUN),
    "load_runs and the claims' five columns": (five_columns, RUN),
    "all claims": (claims, RUN),
    "all figures": (figures, RUN),
    "whole report": (report, RUN),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", nargs="+", choices=SIZES, default=list(SIZES), help="default: all, large takes minutes"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    parser.add_argument("--case", nargs=2, metavar=("CASE", "RUNS"), help=argparse.SUPPRESS)  # in the fresh process
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measured(args.case[0], Path(args.case[1]))))
        return
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "machine": platform.machine(),
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "sizes": {},
    }
    for name in args.size:
        result["sizes"][name] = bench(SIZES[name], args.rounds)
    result["load_after"] = os.getloadavg()[0]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "analysis.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "analysis.md").write_text(table(result))
    print(f"wrote {args.out / 'analysis.md'} and .json")


def bench(size: Size, rounds: int) -> dict[str, Any]:
    """Every case ``rounds`` times in turn on run directories of this size, which are deleted afterwards."""
    from harness.run.merge import merge
    from harness.rundir import find_runs

    with tempfile.TemporaryDirectory(prefix="bench-analysis-") as folder:
        roots = {form: Path(folder) / form for form in (STEPS, RUN)}
        make_runs(roots[STEPS], size)
        shutil.copytree(roots[STEPS], roots[RUN])
        for run in find_runs(roots[RUN]):
            merge(run)
        result: dict[str, Any] = {**asdict(size), "rows": size.runs * size.steps * size.responses}
        result["jsonl_bytes"] = sum(file.stat().st_size for file in roots[RUN].rglob("*.jsonl"))
        for form, root in roots.items():
            result[f"parquet_bytes_{form}"] = sum(file.stat().st_size for file in files_of(root))
        result["cases"] = {case: [] for case in CASES}
        for number in range(1, rounds + 1):
            for case, (_, form) in CASES.items():
                one = in_fresh_process(case, roots[form])
                result["cases"][case].append(one)
                print(f"round {number}, {case}: {cell([one])}", flush=True)
    return result


def in_fresh_process(case: str, root: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{case} ended with status {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measured(case: str, root: Path) -> dict[str, float]:
    """Seconds by the wall and of the processor without the imports, peak memory with them."""
    import orjson  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    before = peak_bytes()
    began, used = time.perf_counter(), time.process_time()
    CASES[case][0](root)
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    return {**seconds, "peak_bytes": peak_bytes(), "imports_bytes": before}


def peak_bytes() -> int:
    """Largest resident memory of this process; Linux's ru_maxrss would count the parent's at the fork too."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used if sys.platform == "darwin" else 1024 * used


def make_runs(root: Path, size: Size) -> None:
    """Made-up runs of the tiny experiment, with as many seeds of each arm as ``size`` has room for.

    All metrics that figures and claims ask for are there, so that everything is drawn and decided.
    """
    from fake_runs import write_run, write_sequences

    for number in range(size.runs):
        arm, seed = ARMS[number % len(ARMS)], number // len(ARMS)
        rng = np.random.default_rng(number)
        run = write_run(root, metrics_like(rng, size, seed, arm), experiment="tiny", arm=arm, seed=seed)
        for step in range(1, size.steps + 1):
            write_sequences(run.attempts()[0], step, **responses(rng, size.responses))
        write_evals(run.eval, rng, size.steps)


def metrics_like(rng: np.random.Generator, size: Size, seed: int, arm: str) -> dict[str, Any]:
    """One run's metrics by step, ``METRICS`` of them."""
    from fake_runs import training_like

    metrics: dict[str, Any] = training_like(size.steps, seed, growth=0.1 * ARMS.index(arm))
    length, clipped = metrics["response_length"], metrics["clip_frac_token"]
    metrics |= {
        f"response_length_{part}": length * rng.uniform(0.9, 1.1) for part in ("correct", "incorrect", "finished")
    }
    metrics |= {f"clip_frac_{sign}": clipped * rng.uniform(0.5, 2) for sign in ("pos", "neg")}
    metrics["tokens"] = length * size.responses
    metrics["cumulative_tokens"] = metrics["tokens"].cumsum()
    metrics["clip_tokens_of"] = metrics["tokens"]
    metrics["clip_tokens"] = np.round(metrics["tokens"] * clipped)
    metrics["reward_accuracy"] = metrics["accuracy"]
    for name in ("truncated", "entropy", "grad_norm", "grad_norm_clipped", "step_seconds"):
        metrics[name] = rng.random(size.steps)
    metrics["ppo_kl"] = rng.normal(1e-4, 1e-4, size.steps)
    tenth = np.arange(1, size.steps + 1) % 10 == 0
    metrics["val_accuracy"] = np.where(tenth, metrics["accuracy"], None)
    metrics["val_response_length"] = np.where(tenth, length, None)
    for name in (f"actor/group/metric_{at:03d}" for at in range(METRICS - len(metrics))):
        metrics[name] = rng.normal(size=size.steps)
    return metrics


def write_evals(folder: Path, rng: np.random.Generator, step: int) -> None:
    """Answers of the last checkpoint to ``QUESTIONS`` questions, ``SAMPLES`` each, of two benchmarks."""
    import pandas as pd

    folder.mkdir()
    question, sample = np.indices((QUESTIONS, SAMPLES)).reshape(2, -1)
    for name in BENCHMARKS:
        correct = rng.integers(0, 2, question.size)
        outcome = np.where(correct, "right", "wrong")
        fixed = {"tokens": 40, "truncated": False, "outcome": outcome, "step": step, "settings": "made up"}
        frame = pd.DataFrame({"question": question, "sample": sample, "correct": correct, **fixed})
        frame.to_parquet(folder / f"{name}.parquet")


def responses(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """One step's responses, with every column that a real file has."""
    from harness.rundir import SEQUENCE_COLUMNS

    columns = {name: rng.normal(size=n).astype("float32") for name in SEQUENCE_COLUMNS if name != "step"}
    whole = ("prompt_id", "prompt_tokens", "out_of_range_low", "out_of_range_high", "response_hash")
    columns |= {name: rng.integers(0, 100, n) for name in whole}
    tokens = rng.integers(1, 80, n)
    right = rng.integers(0, 2, n)
    columns |= {
        "tokens": tokens,
        "clipped": tokens * (rng.random(n) < 0.05),
        "sample": np.arange(n) % 8,
        "update": np.arange(n) * 4 // n + 1,
        "truncated": tokens > 70,
        "accuracy": right.astype("float32"),
        "reward": right.astype("float32"),
        "log_ratio": rng.normal(0, 2e-3, n).astype("float32"),
    }
    return columns


def table(result: dict[str, Any]) -> str:
    """analysis.md: a column a size."""
    sizes = result["sizes"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# What the analysis costs",
        "",
        "| | " + " | ".join(sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    facts: dict[str, Callable[[dict[str, Any]], str]] = {
        "runs x steps x metrics": lambda s: f"{s['runs']} x {s['steps']} x {METRICS}",
        "responses": lambda s: f"{s['rows']:,}",
        "metrics, MB of JSON": lambda s: f"{s['jsonl_bytes'] / 1e6:.1f}",
        "responses, MB of Parquet, a file a step": lambda s: f"{s['parquet_bytes_steps'] / 1e6:.1f}",
        "responses, MB of Parquet, a file a run": lambda s: f"{s['parquet_bytes_run'] / 1e6:.1f}",
    }
    lines += [f"| {name} | " + " | ".join(fact(s) for s in sizes.values()) + " |" for name, fact in facts.items()]
    for case in CASES:
        lines.append(f"| {case} | " + " | ".join(cell(s["cases"][case]) for s in sizes.values()) + " |")
    lines += [
        "",
        "Seconds without Python's imports, by the wall: median over rounds, with the lowest and the highest, and the "
        "processor's; and the process's peak memory, imports included. The files are in the system's cache. Made-up "
        "runs of the tiny experiment. Where other work shares the "
        "cores, the processor's seconds are what the case needs.",
        "",
        f"{result['date']}, {result['cores']} cores ({result['machine']}), {result['memory_bytes'] / 1e9:.0f} GB, "
        f"load before the start {result['load_before']:.1f}, at the end {result['load_after']:.1f}. {versions}.",
    ]
    return "\n".join(lines) + "\n"


def cell(rounds: list[dict[str, float]]) -> str:
    seconds, used, memory = ([one[key] for one in rounds] for key in ("seconds", "cpu_seconds", "peak_bytes"))
    spread = f" [{min(seconds):.3g}, {max(seconds):.3g}]" if len(rounds) > 1 else ""
    return f"{median(seconds):.3g} s{spread}, {median(used):.3g} s of CPU, {median(memory) / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
