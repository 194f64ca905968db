"""What a run costs through TRL, through verl alone and through the harness, on the same model, prompts and batch.

    python tests/bench/bench.py [--model tiny|smollm2] [--rounds 3] [--steps N] [--out results/bench]
    python tests/bench/bench.py --sweep [--rounds 1]      # the default sweep instead

Rounds are interleaved (TRL, verl, harness, TRL, ...) and nothing else should run. Writes <model>.json (every number)
and <model>.md (a table) into the output folder; asserts nothing about time.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import psutil
from common import measure
from omegaconf import DictConfig, OmegaConf

from harness.config import compose
from harness.paths import ROOT
from harness.tasks.registry import build_assets

HERE = Path(__file__).resolve().parent
TRL = "1.16.0"
TRL_FOLDER = ROOT / ".venv-bench"
STEPS = {"tiny": 20, "smollm2": 4}
CONTESTANTS = ("trl", "verl", "harness")
PACKAGES = ("verl", "torch", "transformers", "accelerate", "ray", "TransferQueue", "numpy")
# Training steps only: no validation, no checkpoints.
COMMON = ("algo=luspo", "seed=0", "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1")
MEASURES: dict[str, tuple[str, Callable[[dict[str, Any]], float]]] = {
    "start": ("start of the process to the end of step 1, s", lambda run: run["steps"][0]["seconds"]),
    "step": ("one step, s", lambda run: median(step_seconds(run))),
    "memory": ("peak memory, GB", lambda run: run["peak_bytes"] / 1e9),
    "length": ("mean length of the responses, tokens", lambda run: fmean(lengths(run)[1:])),
}
NOTES = (  # paragraphs
    """A step is one rollout and all its updates: {prompts} prompts x {n} responses of up to {limit} tokens, {updates}
    updates of {per_update} responses in micro-batches of {micro}. Its time is the wall clock between two lines of the
    program's record of steps, seen from outside; a run's value is the median over steps 2 to {steps}. Memory is the
    sum over the run's processes (proportional set size, looked at every one to few seconds). Cells: the median over
    rounds, with the lowest and the highest; ratios are taken within a round.""",
    """Equal for all three: model folder, prompts, chat template, batch and micro-batch sizes, number of updates, limit
    of the responses, temperature {temperature:g}, learning rate {lr:g} (AdamW, {schedule}), gradient clipping
    {clip_grad:g}, LUSPO's loss and clip range, no KL term, float32 on the CPU, {threads}, the grader; no validation, no
    checkpoints. In TRL's words: per_device_train_batch_size={micro}, gradient_accumulation_steps={accumulation},
    steps_per_generation={per_generation}, num_iterations={iterations}.""",
    """Equal for verl and the harness only: the sampled responses ({same}).""",
    """Not equal: TRL is one process with one copy of the policy; verl has a trainer, a training worker, a rollout
    server and Ray's own processes, moves every batch between them and copies the weights to the server after each
    step. TRL draws its responses from another random stream and its prompts in another order, so lengths differ; it
    keeps ended responses in the batch until the last one ends, where the rollout used here drops them; it spreads the
    responses of a prompt over the updates, where verl keeps them in one; it trains on padded batches, verl on
    {padding}. "verl" has this project's CPU backend, rollout
    and agent loop, all chosen by configuration, since verl has none for the CPU. "harness" adds the record of every
    response, the launcher and the checks before a run.""",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="name in conf/experiment (tiny, smollm2)")
    parser.add_argument("--rounds", type=int, help="default: 3, and 1 with --sweep")
    parser.add_argument("--steps", type=int, help="at least 2; with --sweep default: as configured")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    parser.add_argument("--sweep", action="store_true", help="measure the default sweep of three losses, two at a time")
    args = parser.parse_args()
    if args.steps is not None and args.steps < 2:
        parser.error("--steps must be at least 2: the first one is counted as start-up")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that what was started is ended too
    args.out.mkdir(parents=True, exist_ok=True)
    if args.sweep:
        bench_sweep(args.model, args.rounds or 1, args.steps, args.out)
    else:
        bench_runs(args.model, args.rounds or 3, args.steps or STEPS.get(args.model, 10), args.out)


def bench_runs(model: str, rounds: int, steps: int, out: Path) -> None:
    """Measure the three contestants ``rounds`` times in turn; both files are written anew after each round."""
    install_trl()
    overrides = [f"experiment={model}", *COMMON, f"trainer.total_training_steps={steps}"]
    config = compose(overrides)
    settings = trl_settings(build_assets(config))
    result = {**environment(), "model": model, "steps": steps, "overrides": overrides}
    result["trl_settings"] = trl_settings(config)  # names of assets, not paths
    result["rounds"] = []
    for number in range(1, rounds + 1):
        measured = {}
        for name in CONTESTANTS:
            measured[name] = run_contestant(name, overrides, settings, steps)
            values = ", ".join(f"{text}: {value(measured[name]):.3g}" for text, value in MEASURES.values())
            print(f"round {number}, {name}: {values}", flush=True)
        result["rounds"].append(measured)
        write(out / model, result, table(result) + "\n" + notes(config, result))


def install_trl() -> None:
    """Put TRL alone into a folder beside the environment: all that it depends on is there already, because of verl."""
    if not (TRL_FOLDER / f"trl-{TRL}.dist-info").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(TRL_FOLDER)]
        subprocess.run([*command, f"trl=={TRL}"], check=True)


def run_contestant(name: str, overrides: list[str], settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """One run in a temporary folder, as a dictionary of ``common.Measurement``."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        work = Path(folder)
        more = {"PYTHONPATH": str(ROOT)}
        if name == "trl":
            more = {**settings["environment"], "PYTHONPATH": os.pathsep.join([str(ROOT), str(TRL_FOLDER)])}
            (work / "settings.json").write_text(json.dumps(settings))
            command = [str(HERE / "trl_worker.py"), str(work / "settings.json"), str(work)]
        elif name == "verl":
            command = [str(HERE / "bare_verl.py"), str(work), *overrides]
        else:
            command = ["-m", "harness.train", *overrides, f"harness.root={work}"]
        run = asdict(measure([sys.executable, *command], work, more))
    if len(run["steps"]) != steps:
        raise RuntimeError(f"{name} recorded {len(run['steps'])} of {steps} steps")
    return run


def trl_settings(config: DictConfig) -> dict[str, Any]:
    """What ``trl_worker.py`` needs, so that a rollout of TRL is the work of one step of ``config``.

    TRL counts in responses and in micro-batches: a rollout is ``steps_per_generation`` micro-batches of
    ``per_device_train_batch_size`` responses, and every ``gradient_accumulation_steps`` of them make an update.
    """
    data, actor, rollout = config.data, config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    micro, per_update = actor.ppo_micro_batch_size_per_gpu, actor.ppo_mini_batch_size * rollout.n
    if actor.use_dynamic_bsz or config.trainer.n_gpus_per_node * config.trainer.nnodes != 1:
        sys.exit("TRL can do the same work only with a fixed micro-batch size and one rank")
    updates = data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
    runtime_env = config.ray_kwargs.ray_init.get("runtime_env") or {}
    environment = {name: str(value) for name, value in (runtime_env.get("env_vars") or {}).items()}
    engine = (rollout.get("engine_kwargs") or {}).get("transformers") or {}
    template = data.get("apply_chat_template_kwargs") or {}
    grpo_config = {
        "loss_type": "luspo",
        "importance_sampling_level": "sequence",
        "beta": 0.0,
        "scale_rewards": "group" if config.algorithm.norm_adv_by_std_in_grpo else "none",
        "epsilon": actor.clip_ratio_low,
        "epsilon_high": actor.clip_ratio_high,
        "num_generations": rollout.n,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": per_update // micro,
        "steps_per_generation": data.train_batch_size * rollout.n // micro,
        "num_iterations": actor.ppo_epochs,
        "max_steps": config.trainer.total_training_steps * updates,
        "max_completion_length": data.max_response_length,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": max(rollout.top_k, 0),  # verl's "off" is -1, TRL's 0
        "chat_template_kwargs": OmegaConf.to_container(template) if template else None,
        "learning_rate": actor.optim.lr,
        "lr_scheduler_type": actor.optim.lr_scheduler_type,
        "optim": "adamw_torch",
        "adam_beta1": actor.optim.betas[0],
        "adam_beta2": actor.optim.betas[1],
        "weight_decay": actor.optim.weight_decay,
        "max_grad_norm": actor.optim.clip_grad,
        "model_init_kwargs": {"dtype": "float32", "attn_implementation": "sdpa"},
        "gradient_checkpointing": config.actor_rollout_ref.model.enable_gradient_checkpointing,
        "bf16": False,
        "use_cpu": True,
        "seed": config.seed,
        "logging_steps": updates,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return {
        "model": config.actor_rollout_ref.model.path,
        "train_file": config.data.train_files,
        "grader": config.reward.reward_kwargs.grader,
        "environment": environment,  # what verl's workers have: numbers of threads, malloc's options
        "threads": max(int(environment.get("OMP_NUM_THREADS", 0)), int(engine.get("threads", 0))),  # 0: torch's default
        "updates_per_rollout": updates,
        "grpo_config": grpo_config,
    }


def step_seconds(run: dict[str, Any]) -> list[float]:
    """Seconds of wall clock of steps 2, 3, ...: from the record of the step before to its own."""
    times = [step["seconds"] for step in run["steps"]]
    return [later - earlier for earlier, later in pairwise(times)]


def lengths(run: dict[str, Any]) -> list[float]:
    return [step["response_length"] for step in run["steps"]]


def table(result: dict[str, Any]) -> str:
    """The Markdown table: a row a measure, a column a contestant, and the harness's ratio to each of the others."""
    versions = result["versions"]
    head = [f"TRL {versions['trl']}", f"verl {versions['verl']}", "harness", "harness / TRL", "harness / verl"]
    lines = [f"# {rounds_of(result)}", "", described(result)]
    lines += ["", f"| | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    for text, value in MEASURES.values():
        values = {name: [value(measured[name]) for measured in result["rounds"]] for name in CONTESTANTS}
        cells = [spread(values[name]) for name in CONTESTANTS]
        for other in ("trl", "verl"):
            cells.append(spread([a / b for a, b in zip(values["harness"], values[other], strict=True)]))
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def notes(config: DictConfig, result: dict[str, Any]) -> str:
    """What is equal between the contestants and what is not."""
    actor, rollout, settings = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout, result["trl_settings"]
    equal = all(lengths(measured["verl"]) == lengths(measured["harness"]) for measured in result["rounds"])
    threads = settings["threads"]
    values: dict[str, Any] = {
        "prompts": config.data.train_batch_size,
        "n": rollout.n,
        "limit": config.data.max_response_length,
        "updates": settings["updates_per_rollout"],
        "per_update": actor.ppo_mini_batch_size * rollout.n,
        "micro": actor.ppo_micro_batch_size_per_gpu,
        "steps": result["steps"],
        "temperature": rollout.temperature,
        "lr": actor.optim.lr,
        "schedule": actor.optim.lr_scheduler_type,
        "clip_grad": actor.optim.clip_grad,
        "threads": f"{threads} thread{'s' * (threads > 1)} a process"
        if threads
        else "torch's default number of threads",
        "accumulation": settings["grpo_config"]["gradient_accumulation_steps"],
        "per_generation": settings["grpo_config"]["steps_per_generation"],
        "iterations": settings["grpo_config"]["num_iterations"],
        "padding": "unpadded ones" if config.actor_rollout_ref.model.use_remove_padding else "padded ones too",
        "same": "their mean length is the same at every step" if equal else "BUT THEIR MEAN LENGTHS DIFFER",
    }
    paragraphs = (" ".join(paragraph.split()).format(**values) for paragraph in NOTES)
    return "\n\n".join(textwrap.fill(paragraph, 120) for paragraph in paragraphs) + "\n"


def bench_sweep(model: str, rounds: int, steps: int | None, out: Path) -> None:
    """Wall time and peak memory of the default sweep, validation and checkpoints included."""
    overrides = ["algo=grpo,gspo,luspo", "seed=0", f"experiment={model}", "hydra.launcher.n_jobs=2"]
    overrides += [f"trainer.total_training_steps={steps}"] if steps else []
    planned = compose([f"experiment={model}"])
    build_assets(planned)  # now, so that the building is not measured
    result = {**environment(), "model": model, "steps": steps or planned.trainer.total_training_steps}
    result |= {"command": " ".join(["python -m harness.train -m", *overrides]), "rounds": []}
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory(prefix="bench-sweep-") as folder:
            command = [sys.executable, "-m", "harness.train", "-m", *overrides, f"harness.root={folder}"]
            run = asdict(measure(command, Path(folder), {}, follow=False))
            statuses = {path.parts[-3]: json.loads(path.read_text()) for path in Path(folder).rglob("status.json")}
        run["runs"] = {arm: {key: s[key] for key in ("state", "last_step", "seconds")} for arm, s in statuses.items()}
        print(f"round {number}: {run['seconds']:.0f} s, {run['peak_bytes'] / 1e9:.2f} GB", flush=True)
        result["rounds"].append(run)
        lines = [f"# Default sweep of {rounds_of(result)}", "", described(result), "", f"`{result['command']}`", ""]
        lines += ["| | |", "|---|---|", f"| wall time, s | {spread([r['seconds'] for r in result['rounds']])} |"]
        lines.append(f"| peak memory, GB | {spread([r['peak_bytes'] / 1e9 for r in result['rounds']])} |")
        for arm in sorted(run["runs"]):
            lines.append(f"| {arm} alone, s | {spread([r['runs'][arm]['seconds'] for r in result['rounds']])} |")
        write(out / f"{model}_sweep", result, "\n".join(lines) + "\n")


def rounds_of(result: dict[str, Any]) -> str:
    number = len(result["rounds"])
    return f"{result['model']}, {number} round{'s' * (number > 1)} of {result['steps']} steps"


def spread(values: list[float]) -> str:
    """``median (lowest to highest)`` with three digits; the median alone if there is one value."""
    middle = f"{median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"


def environment() -> dict[str, Any]:
    """When and on what: date, machine, load before the first run, versions."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "machine": platform.machine(),
        "system": platform.system(),
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "trl": TRL}
        | {name: metadata.version(name) for name in PACKAGES},
    }


def described(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{result['date']}, {result['cores']} cores ({result['machine']}), {result['memory_bytes'] / 1e9:.0f} GB, "
        f"load before the start {result['load_before']:.1f}. {versions}."
    )


def write(path: Path, result: dict[str, Any], text: str) -> None:
    """``path``.json and ``path``.md."""
    path.with_name(f"{path.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_name(f"{path.name}.md").write_text(text)
    print(f"wrote {path}.md and .json", flush=True)


if __name__ == "__main__":
    main()
