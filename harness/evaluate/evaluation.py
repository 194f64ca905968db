"""One run on one benchmark: the checkpoint as a model folder, its answers graded, written row by row and summed up."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from harness.config import ConfigError
from harness.config.matching import content_hash
from harness.evaluate.benchmark import Benchmark
from harness.paths import python
from harness.run.checkpoints import checkpoints, intact
from harness.rundir import EVAL_COLUMNS, RunDir, settings_hash, write_json
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
    from harness.evaluate.sampler import Sampler

    loaded = OmegaConf.load(run.config)
    assert isinstance(loaded, DictConfig)
    config = _with_assets(loaded)
    file = Path(asset_path("file", benchmark.file, config.harness.asset_seed))
    if not file.exists():
        raise ConfigError(
            f"benchmark={benchmark.name}: {file} is missing; `{python()} -m harness.data prepare {benchmark.name}`"
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
        with closing(Sampler(policy_folder(run, config, step), benchmark, config, engine, seed, gpus)) as sampler:
            for number, share in track(missing, label, console=console):
                frame = pd.DataFrame(sampler.answers(share)).assign(step=step, settings=settings_hash(settings))
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


def _with_assets(config: DictConfig) -> DictConfig:
    from harness.tasks.registry import build_assets

    return build_assets(config)
