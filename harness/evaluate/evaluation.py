"""Evaluate runs on benchmarks: ``python -m harness.evaluate run=results/runs/tiny benchmark=tiny_easy,tiny_hard k=32``.

    run=PATH[,PATH]        run directories, or folders with any below
    benchmark=NAME[,NAME]  files of conf/benchmark
    k=N                    answers to each question (default: the benchmark's)
    step=N                 checkpoint to evaluate (default: the last planned step); 0: the initial model, as arm `base`
    engine=NAME            transformers or vllm (default: vllm where there is a GPU and vLLM)
    gpus=N                 that share the model under vLLM (default: as in the run's rollout)
    seed=N                 of the answers (default 0): equal for all runs, so their answers differ by the policy alone
    Further keys override the benchmark's: temperature, top_p, top_k, max_response_length, max_prompt_length.

Writes ``eval/<benchmark>.parquet``, one row for each (question, sample), and a summary beside it. Interrupted, the same
command continues; a result that was made with other settings is refused.
"""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from yaml import YAMLError

from harness.config import ConfigError
from harness.config.matching import content_hash
from harness.evaluate.benchmark import Benchmark, as_kind, load_benchmark
from harness.run.checkpoints import checkpoints, intact
from harness.rundir import EVAL_COLUMNS, RunDir, RunDirError, find_runs, settings_hash, write_json
from harness.tasks.registry import asset_path

ANSWERS = 1024  # of one part, which is what an interruption can lose
BASE = "base"


def initial_model(run: RunDir) -> RunDir:
    """The run directory that stands for the model before training, made beside the run's arm if not there yet.

    Its manifest is the run's, but for the arm ``base`` and 0 planned steps: matched, and nothing trained.
    """
    manifest = run.manifest()
    base = RunDir(run.path.parents[1] / BASE / run.path.name)
    if not (base.path / "manifest.json").exists():
        base.write_status("done", last_step=0, planned_steps=0)
        base.config.write_bytes(run.config.read_bytes())
        arm = {"arm": BASE, "algo": BASE, "clip": "", "treatment": {}, "planned_steps": 0, "overrides": []}
        base.write_manifest({**manifest, **arm})  # last: where it is, the others are
    return base


def policy_folder(run: RunDir, config: DictConfig, step: int) -> Path:
    """The transformers folder of the policy after ``step`` steps; a checkpoint is converted by verl's model merger.

    Raises ``ConfigError`` if there is no whole checkpoint of that step.
    """
    if step == 0:
        return Path(config.actor_rollout_ref.model.path)
    there = {at: folder for at, folder in checkpoints(run) if intact(folder)}
    if step not in there:
        steps = ", ".join(map(str, sorted(there))) or "none"
        raise ConfigError(f"{run.checkpoints}: no whole checkpoint of step {step}; there are {steps}; choose step=")
    target = run.eval / f".model-{step}"
    if not (target / "config.json").exists():
        draft = target.with_name(f"{target.name}.draft")
        backend = "megatron" if config.actor_rollout_ref.actor.strategy == "megatron" else "fsdp"
        command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", backend]
        command += ["--local_dir", str(there[step] / "actor"), "--target_dir", str(draft)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise ConfigError(f"{there[step]}: cannot be converted to a model folder ({lines[-1]})")
        draft.rename(target)
    return target


def settings_of(
    benchmark: Benchmark, file: Path, config: DictConfig, engine: str, seed: int, step: int
) -> dict[str, Any]:
    """Everything that a result depends on besides the weights; results of unequal settings never share a table."""
    return {
        **asdict(benchmark),
        "file": content_hash(file),
        "engine": engine,
        "seed": seed,
        "dtype": str(config.actor_rollout_ref.rollout.dtype),
        "grader": str(config.reward.reward_kwargs.grader),
        "step": step,
    }


def parts(questions: list[dict[str, Any]], k: int) -> Iterator[list[dict[str, Any]]]:
    """The questions in shares of about ``ANSWERS`` answers."""
    size = max(1, ANSWERS // k)
    for start in range(0, len(questions), size):
        yield questions[start : start + size]


def pass_at(n: int, k: int, correct: int) -> float:
    """The chance that ``n`` of ``k`` answers, drawn without replacement, hold a correct one (arXiv 2107.03374)."""
    return 1 - math.comb(k - int(correct), n) / math.comb(k, n)


def summary(frame: pd.DataFrame, k: int) -> dict[str, Any]:
    """avg@k and unbiased pass@k in percent, mean tokens, truncated share, number of answers by the grader's outcome."""
    right = frame.groupby("question")["correct"].sum()
    powers = sorted({1, k, *(2**i for i in range(k.bit_length()) if 2**i <= k)})
    return {
        "questions": len(right),
        "answers": len(frame),
        f"avg@{k}": 100 * float(frame["correct"].mean()),
        **{f"pass@{n}": 100 * sum(pass_at(n, k, c) for c in right) / len(right) for n in powers},
        "tokens": float(frame["tokens"].mean()),
        "truncated": float(frame["truncated"].mean()),
        "outcomes": {str(name): int(count) for name, count in frame["outcome"].value_counts().items()},
    }


def evaluate(
    run: RunDir, benchmark: Benchmark, step: int, engine: str, seed: int, console: Console, gpus: int | None = None
) -> dict[str, Any]:
    """Evaluate one run on one benchmark, or continue; returns the summary. Raises ``ConfigError``."""
    from harness.evaluate.sampler import Answerer

    loaded = OmegaConf.load(run.config)
    assert isinstance(loaded, DictConfig)
    config = _with_assets(loaded)
    file = Path(asset_path("file", benchmark.file, config.harness.asset_seed))
    if not file.exists():
        raise ConfigError(
            f"benchmark={benchmark.name}: {file} is missing; `python -m harness.data prepare {benchmark.name}`"
        )
    settings = settings_of(benchmark, file, config, engine, seed, step)
    result, record = run.eval / f"{benchmark.name}.parquet", run.eval / f"{benchmark.name}.json"
    drafts = run.eval / f".{benchmark.name}"
    if not record.exists():  # nobody knows with which settings these were made
        shutil.rmtree(drafts, ignore_errors=True)
    elif result.exists() or any(drafts.glob("*.parquet")):
        old = json.loads(record.read_text())
        differ = [key for key in settings if old["settings"].get(key) != settings[key]]
        if differ:
            named = ", ".join(f"{key} ({old['settings'].get(key)} there, {settings[key]} now)" for key in differ)
            raise ConfigError(f"{record} was made with other settings: {named}; move it away to evaluate anew")
        if result.exists() and "summary" in old:
            return old["summary"]
    write_json(record, {"settings": settings})
    questions: Any = pd.read_parquet(file).to_dict("records")
    drafts.mkdir(parents=True, exist_ok=True)
    shares = list(enumerate(parts(questions, benchmark.k)))
    missing = [(number, share) for number, share in shares if not (drafts / f"{number}.parquet").exists()]
    if missing:
        label = f"{run.path.parent.name} {run.path.name} {benchmark.name}"
        with closing(Answerer(policy_folder(run, config, step), benchmark, config, engine, seed, gpus)) as answerer:
            for number, share in track(missing, label, console=console):
                frame = pd.DataFrame(answerer.answers(share)).assign(step=step, settings=settings_hash(settings))
                draft = drafts / f".{number}"
                frame[list(EVAL_COLUMNS)].to_parquet(draft, index=False)
                draft.replace(drafts / f"{number}.parquet")
    whole = pd.concat([pd.read_parquet(drafts / f"{number}.parquet") for number, _ in shares], ignore_index=True)
    draft = result.with_name(f".{result.name}")
    whole.to_parquet(draft, index=False)
    draft.replace(result)
    found = summary(whole, benchmark.k)
    write_json(record, {"settings": settings, "summary": found})
    shutil.rmtree(drafts)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 2 for a mistake in it, 1 if a run could not be evaluated."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    console = Console(stderr=True)
    try:
        wrong = [argument for argument in arguments if "=" not in argument]
        if wrong:
            raise ConfigError(f"{wrong[0]}: expected key=value; `python -m harness.evaluate --help` lists the keys")
        given: dict[str, Any] = {a.split("=", 1)[0]: a.split("=", 1)[1] for a in arguments}
        missing = [key for key in ("run", "benchmark") if not given.get(key)]
        if missing:
            raise ConfigError(f"{missing[0]}= is missing; `python -m harness.evaluate --help` lists the keys")
        names, paths = given.pop("benchmark").split(","), given.pop("run")
        runs = _runs(paths)
        options: Any = OmegaConf.to_container(
            OmegaConf.from_dotlist([f"{key}={value}" for key, value in given.items()])
        )
        step, engine = options.pop("step", None), options.pop("engine", None)
        step = None if step is None else as_kind("step", step, int)
        seed = as_kind("seed", options.pop("seed", 0), int)
        gpus = as_kind("gpus", options.pop("gpus"), int) if "gpus" in options else None
        if gpus is not None and gpus < 1:
            raise ConfigError(f"gpus={gpus}: at least one")
        benchmarks = [load_benchmark(name, **options) for name in names]
        engine = engine or _default_engine()
    except (ConfigError, RunDirError, TypeError, YAMLError) as error:
        console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True)
        return 2
    failed = 0
    if step == 0:  # one initial model for all runs that start from it, so one result
        runs = list({run.manifest()["controlled"].get("hash.model"): run for run in reversed(runs)}.values())
    for run in runs:
        for benchmark in benchmarks:
            try:
                if not run.config.exists():
                    raise ConfigError(f"{run.config}: missing; only runs of `harness.train` can be evaluated")
                at = run.manifest()["planned_steps"] if step is None else step
                target = initial_model(run) if at == 0 else run
                found = evaluate(target, benchmark, at, engine, seed, console, gpus)
            except (ConfigError, RunDirError) as error:
                failed += 1
                console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True)
                continue
            shown = ", ".join(
                f"{name} {found[name]:.1f}" for name in (f"avg@{benchmark.k}", f"pass@{benchmark.k}", "tokens")
            )
            console.print(f"{target.path}: {benchmark.name}: {shown}", highlight=False, soft_wrap=True)
        for folder in run.eval.glob(".model-*"):
            shutil.rmtree(folder)
    return 1 if failed else 0


def _runs(paths: str) -> list[RunDir]:
    """Runs at or below the paths, those of the initial model left out: they are evaluated by step=0."""
    runs = [run for path in paths.split(",") for run in find_runs(Path(path))]
    runs = [run for run in runs if run.manifest().get("arm") != BASE]
    if not runs:
        raise ConfigError(f"run={paths}: no run directory there (no manifest.json at or below)")
    return runs


def _default_engine() -> str:
    from harness.evaluate.backends import default_engine

    return default_engine()


def _with_assets(config: DictConfig) -> DictConfig:
    from harness.tasks.registry import build_assets

    return build_assets(config)
