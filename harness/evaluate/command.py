"""Evaluate runs on benchmarks.

    python -m harness.evaluate run=results/runs/tiny
    python -m harness.evaluate run=results/runs/tiny benchmark=tiny_easy,tiny_hard k=32
    python -m harness.evaluate run=results/runs/tiny/gspo/seed=0 benchmark=tiny_heldout step=0

    run=PATH[,PATH]        run directories, or folders that hold some, at any depth
    benchmark=NAME[,NAME]  files of conf/benchmark (default: of each run those that its experiment names,
                           `harness.benchmarks`)
    k=N                    answers to each question (default: the benchmark's)
    step=N                 checkpoint to evaluate (default: the last planned step); 0: the initial model, as arm `base`
    engine=NAME            transformers or vllm (default: vllm where there is a GPU and vLLM)
    gpus=N                 GPUs that share the model under vLLM (default: as in the run's rollout)
    seed=N                 seed of the sampling (default 0), the same for all runs, so only the policies differ
    Further keys override the benchmark's: temperature, top_p, top_k, max_response_length, max_prompt_length.

Writes ``eval/<benchmark>.parquet`` into each run, one row for each (question, sample), and a summary beside it.
Ends with a table of all results. An interrupted evaluation continues with the same command. A result that was made
with other settings is refused.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table
from yaml import YAMLError

from harness.config import ConfigError, say_error
from harness.evaluate.benchmark import Benchmark, as_kind, load_benchmark
from harness.evaluate.evaluation import BASE, evaluate, initial_model
from harness.paths import ROOT, python
from harness.rundir import RunDir, RunDirError, find_runs


@dataclass(frozen=True)
class Request:
    """What the command line asks for. benchmarks: names, () for each run's own; options: keys that override a
    benchmark's; step: None for the last planned one; gpus: None for those of the rollout."""

    runs: list[RunDir]
    benchmarks: tuple[str, ...]
    options: dict[str, Any]
    step: int | None
    engine: str
    seed: int
    gpus: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 2 for a mistake in it, 1 if a run could not be evaluated."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    console = Console(stderr=True)
    try:
        request = parse(arguments)
    except (ConfigError, RunDirError, TypeError, YAMLError) as error:
        say_error(error)
        return 2
    results: list[tuple[RunDir, Benchmark, dict[str, Any]]] = []
    failed, none_named = False, []
    for run in request.runs:
        try:
            if not run.config.exists():
                raise ConfigError(f"{run.config}: missing; only runs of `harness.train` can be evaluated")
            names = request.benchmarks or _own(run)
            benchmarks = [load_benchmark(name, **request.options) for name in names]
        except (ConfigError, TypeError, YAMLError) as error:
            say_error(error)
            failed = True
            continue
        if not names:
            none_named.append(run)
        for benchmark in benchmarks:
            try:
                step = run.manifest()["planned_steps"] if request.step is None else request.step
                target = initial_model(run) if step == 0 else run
                found = evaluate(target, benchmark, step, request.engine, request.seed, console, request.gpus)
            except (ConfigError, RunDirError) as error:
                say_error(error)
                failed = True
                continue
            results.append((target, benchmark, found))
        for folder in run.eval.glob(".model-*"):
            shutil.rmtree(folder)
    if results:
        out = Console()
        out.print(results_table(results))
        out.print(f"figures, and intervals over seeds: {report_command(request.runs)}", highlight=False, soft_wrap=True)
    for run in none_named:
        said = f"left out: {run.path}: its experiment names no benchmarks; give some, such as benchmark=tiny_easy"
        console.print(said, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return int(failed or not results)


def parse(arguments: Sequence[str]) -> Request:
    """The request of ``key=value`` arguments; raises ``ConfigError`` or ``RunDirError`` with one line."""
    wrong = [argument for argument in arguments if "=" not in argument]
    if wrong:
        raise ConfigError(f"{wrong[0]}: expected key=value; {_help()}")
    given: dict[str, Any] = {a.split("=", 1)[0]: a.split("=", 1)[1] for a in arguments}
    if not given.get("run"):
        raise ConfigError(f"run= is missing; {_help()}")
    names = tuple(name for name in given.pop("benchmark", "").split(",") if name)
    runs = _runs(given.pop("run"))
    options: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"{key}={value}" for key, value in given.items()]))
    step, engine = options.pop("step", None), options.pop("engine", None)
    step = None if step is None else as_kind("step", step, int)
    seed = as_kind("seed", options.pop("seed", 0), int)
    gpus = as_kind("gpus", options.pop("gpus"), int) if "gpus" in options else None
    if gpus is not None and gpus < 1:
        raise ConfigError(f"gpus={gpus}: must be at least 1")
    for name in names:
        load_benchmark(name, **options)  # a mistake in the command line is said before anything is evaluated
    if step == 0:  # one result for all runs of an experiment that start from one model; another has other benchmarks
        runs = list({_start(run): run for run in reversed(runs)}.values())[::-1]
    return Request(runs, names, options, step, engine or _default_engine(), seed, gpus)


def results_table(results: Sequence[tuple[RunDir, Benchmark, dict[str, Any]]]) -> Table:
    """A row for each (run, benchmark): avg@k and pass@k in percent, mean length, percent cut off by the token limit."""
    ks = {benchmark.k for _, benchmark, _ in results}
    k = str(ks.pop()) if len(ks) == 1 else "k"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("run", "benchmark"):
        table.add_column(header, overflow="fold")
    for header in ("questions", *(["k"] if k == "k" else []), f"avg@{k} %", f"pass@{k} %", "tokens", "truncated %"):
        table.add_column(header, justify="right")
    for run, benchmark, found in results:
        each = [str(benchmark.k)] if k == "k" else []
        shares = (found[f"avg@{benchmark.k}"], found[f"pass@{benchmark.k}"], found["tokens"], 100 * found["truncated"])
        name = "/".join(run.path.resolve().parts[-3:])
        table.add_row(name, benchmark.name, str(found["questions"]), *each, *(f"{share:.1f}" for share in shares))
    return table


def report_command(runs: Sequence[RunDir]) -> str:
    """The command that reports these runs' experiments."""
    folders = list(dict.fromkeys(run.path.resolve().parents[1] for run in runs))
    if all(folder.parent == ROOT / "results" / "runs" for folder in folders):
        return f"make report EXPERIMENT={','.join(folder.name for folder in folders)}"
    return f"{python()} -m analysis {' '.join(map(str, folders))}"


def _runs(paths: str) -> list[RunDir]:
    """Runs at or below the paths, those of the initial model left out: they are evaluated by step=0."""
    runs = [run for path in paths.split(",") for run in find_runs(Path(path))]
    runs = [run for run in runs if run.manifest().get("arm") != BASE]
    if not runs:
        raise ConfigError(f"run={paths}: no run directory there (no manifest.json at or below)")
    return runs


def _start(run: RunDir) -> tuple[Path, str]:
    """The experiment's folder, where ``initial_model`` puts its result, and the model that the run starts from."""
    return run.path.resolve().parents[1], run.manifest()["controlled"].get("hash.model")


def _own(run: RunDir) -> tuple[str, ...]:
    """The benchmarks that the run's experiment names; () if it names none."""
    return tuple(OmegaConf.select(OmegaConf.load(run.config), "harness.benchmarks") or ())


def _default_engine() -> str:
    from harness.evaluate.backends import default_engine

    return default_engine()


def _help() -> str:
    return f"`{python()} -m harness.evaluate --help` lists the keys"
