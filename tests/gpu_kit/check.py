"""What one GPU makes of the losses and of short runs: ``python3 tests/gpu_kit/check.py --kit /tmp/kit``; see pack.py.

Needs no network and under ten minutes. Writes a JSON file and a Markdown table, named after the device:

- every loss on the GPU in fp32 and bf16 against the same loss on the CPU in float64;
- tiny on the GPU with the transformers rollout: the recorder on, off, and on again; its first responses against those
  of the CPU;
- SmolLM2-135M in fp32 and bf16, and in bf16 with a batch of a GPU's size: seconds a step, tokens a second, memory.

A check that fails is written down as such and does not stop the others; the exit status is then 1.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RESPONSES, WIDTH, SHORTEST = 256, 4096, 16  # of the batch that the losses are computed on
SPREAD = {"token": 0.15, "sequence": 3e-3}  # standard deviation of a log-ratio: of a token, of a response's mean
LOSS_COLUMNS = ("value", "gradient", "clipped otherwise")
RUN_COLUMNS = {  # header: (metric, format), the median over the steps from the second on
    "s a step": ("timing_s/step", "{:.2f}"),
    "log-probs s": ("timing_s/old_log_prob", "{:.2f}"),
    "update s": ("timing_s/update_actor", "{:.2f}"),
    "weights s": ("timing_s/update_weights", "{:.2f}"),
    "tokens": ("tokens", "{:.0f}"),
    "GPU GB": ("actor/perf/max_memory_allocated_gb", "{:.1f}"),
    "log-ratio noise": ("onpolicy_log_ratio_rms", "{:.1e}"),
    "engine gap": ("rollout_logprob_diff", "{:.1e}"),
    "clipped": ("clip_frac_token", "{:.3f}"),
}
BF16 = (
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",
    "actor_rollout_ref.rollout.dtype=bfloat16",
)
FAST = ("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1", "seed=0")


def runs(device: str) -> dict[str, tuple[str, ...]]:
    """Every run as its overrides, in the order of what is most wanted if time runs out.

    Those of tiny are compared with one another and train side by side; the times of the others are measured alone.
    """
    tiny = ("experiment=tiny", "algo=luspo", *FAST, "trainer.total_training_steps=10")
    smollm2 = ("experiment=smollm2", "algo=luspo", *FAST, "trainer.total_training_steps=5", f"trainer.device={device}")
    large = ("data.train_batch_size=64", "actor_rollout_ref.actor.ppo_mini_batch_size=32",
             "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=64",
             "actor_rollout_ref.rollout.engine_kwargs.transformers.batch_size=512")  # fmt: skip
    there = (*tiny, f"trainer.device={device}")
    return {
        "tiny": there,
        "tiny, not recorded": (*there, "harness.record=false"),
        "tiny again": there,
        "tiny on the CPU": (*tiny, "trainer.total_training_steps=2"),
        "tiny bf16": (*there, *BF16),
        "smollm2 bf16": (*smollm2, *BF16),
        "smollm2 bf16, 512 responses": (*smollm2, *BF16, *large),
        "smollm2 fp32": smollm2,
        "smollm2 bf16, not recorded": (*smollm2, *BF16, "harness.record=false"),
    }


def losses(device: str) -> list[dict[str, Any]]:
    """Each loss of conf/algo by dtype: relative error of its value, of its gradient (L2 norms), and the share of tokens
    whose gradient is zero in one of the two only."""
    import torch
    from loss_batches import Batch, installed
    from verl.utils.config import omega_conf_to_dataclass

    from harness.config import compose
    from harness.losses.registry import importance_sampling_level, register_losses

    register_losses()
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    lengths = torch.randint(SHORTEST, WIDTH + 1, (RESPONSES,), generator=generator)
    mask = torch.arange(WIDTH) < lengths[:, None]
    old, token, shift = -noise(RESPONSES, WIDTH).abs(), noise(RESPONSES, WIDTH), noise(RESPONSES, 1)
    advantages = noise(RESPONSES, 1).expand(RESPONSES, WIDTH).clone()
    found = []
    for file in sorted((ROOT / "conf" / "algo").glob("*.yaml")):
        config = compose(["experiment=text_dense_1gpu", f"algo={file.stem}"])
        actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        level = importance_sampling_level(actor.policy_loss.loss_mode)
        centred = token - (token * mask).sum(1, keepdim=True) / lengths[:, None]
        step = SPREAD["token"] * centred + (SPREAD[level] * shift if level == "sequence" else 0)

        def at(dtype: torch.dtype, where: str, actor: Any = actor, step: torch.Tensor = step) -> tuple[Any, ...]:
            given = [x.to(where, dtype) for x in (old, old + step, advantages)]
            batch = Batch(given[0], given[1], given[2], mask.to(where))
            value, gradient, _ = installed(actor, batch, RESPONSES)
            return value.double().cpu(), gradient.double().cpu()

        exact, slope = at(torch.float64, "cpu")
        row: dict[str, Any] = {"loss": file.stem}
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            value, gradient = at(dtype, device)
            row[f"{name}: value"] = float((value - exact).abs() / exact.abs())
            row[f"{name}: gradient"] = float((gradient - slope).norm() / slope.norm())
            row[f"{name}: clipped otherwise"] = float(((gradient == 0) != (slope == 0))[mask].double().mean())
        found.append(row)
    return found


def smollm2_weights() -> str:
    """Convert SmolLM2's weights before the runs that are timed."""
    from harness.tasks.registry import asset_builders

    return str(asset_builders()["smollm2"](0))


def train(root: Path, overrides: tuple[str, ...], seconds: float) -> dict[str, Any]:
    """Train for real: the medians of RUN_COLUMNS, seconds until the first step was done and until the end."""
    from harness.run.process import end_session
    from harness.rundir import find_runs

    began = time.time()
    command = [sys.executable, "-m", "harness.train", f"harness.root={root}", *overrides]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    finally:
        end_session(process.pid)
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {said[-2000:]}")
    (run,) = find_runs(root)
    metrics, _ = run.metrics()
    later = [data for step, data in metrics.items() if step > 1] or list(metrics.values())
    medians = {}
    for header, (name, _) in RUN_COLUMNS.items():
        values = [data[name] for data in later if data.get(name) is not None]
        medians[header] = statistics.median(values) if values else None
    spent = sum(data.get("timing_s/step", 0.0) for data in metrics.values())
    total = time.time() - began
    first = run.manifest().get("step1_responses")
    return {"overrides": list(overrides), "first": first, "total s": total, "start and end s": total - spent, **medians}


def compared(roots: dict[str, Path]) -> dict[str, Any]:
    """The three statements about tiny's runs: is training deterministic, does recording change it, what differs from
    the CPU's first responses."""
    import pandas as pd

    from harness.rundir import find_runs

    found: dict[str, Any] = {}
    run = {name: find_runs(root)[0] for name, root in roots.items() if root.exists() and find_runs(root)}

    def learnt(name: str) -> dict[int, dict[str, float]]:
        noisy = ("timing", "perf/", "memory", "mfu")  # verl's metrics have a slash: recorded with and without ours
        steps = run[name].metrics()[0].items()
        return {s: {k: v for k, v in d.items() if "/" in k and not any(n in k for n in noisy)} for s, d in steps}

    def first(name: str) -> pd.DataFrame:
        frame = pd.concat([pd.read_parquet(file.path) for file in run[name].response_files()])
        return frame[frame["step"] == 1].set_index(["prompt_id", "sample"])

    if {"tiny", "tiny again"} <= run.keys():
        found["the same run twice gives the same metrics, bit for bit"] = learnt("tiny") == learnt("tiny again")
    if {"tiny", "tiny, not recorded"} <= run.keys():
        found["recording leaves verl's metrics as they are, bit for bit"] = learnt("tiny") == learnt(
            "tiny, not recorded"
        )
    if {"tiny", "tiny on the CPU"} <= run.keys():
        here, cpu = first("tiny")["response_hash"], first("tiny on the CPU")["response_hash"]
        found["first responses that are the CPU's"] = f"{int((here == cpu.reindex(here.index)).sum())} of {len(here)}"
    return found


def machine(device: str) -> dict[str, Any]:
    """Device, driver and versions."""
    from importlib import metadata

    import torch

    versions = {
        name: metadata.version(name) for name in ("verl", "ray", "torch", "transformers", "tensordict", "numpy")
    }
    found = {"python": platform.python_version(), "cores": os.cpu_count(), "versions": versions}
    if device == "cpu":
        return {"device": platform.processor() or "CPU", **found}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {"device": torch.cuda.get_device_name(), "nvidia-smi": said, "cuda": torch.version.cuda, **found}


def table(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))


def markdown(found: dict[str, Any]) -> str:
    """The page: what was measured on, what holds, the losses, the runs, what failed."""
    where = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    parts = [f"# One {where['device']}", f"{where.get('nvidia-smi', '')}; {where['cores']} cores; {versions}."]
    parts += [found["note"]] if "note" in found else []
    parts += [
        "\n".join(
            f"- {name}: **{'yes' if v is True else 'NO' if v is False else v}**."
            for name, v in found["compared"].items()
        )
    ]
    if found["losses"]:
        columns = [f"{dtype}: {column}" for dtype in ("fp32", "bf16") for column in LOSS_COLUMNS]
        parts += [
            f"## Losses\n\nEach loss against itself in float64 on the CPU: {RESPONSES} responses of {SHORTEST} to "
            f"{WIDTH} tokens. Value and gradient: relative error (of the gradient in the L2 norm). Clipped otherwise: "
            "share of the tokens whose gradient is zero in one of the two only. fp32 is what verl computes it in; "
            "bf16 shows what would happen if the log-probabilities themselves were rounded.",
            table(["loss", *columns], [[row["loss"], *(f"{row[c]:.1e}" for c in columns)] for row in found["losses"]]),
        ]
    rows = [
        [
            name,
            f"{run['start and end s']:.0f}",
            *("-" if run[h] is None else f.format(run[h]) for h, (_, f) in RUN_COLUMNS.items()),
        ]
        for name, run in found["runs"].items()
    ]
    parts += [
        "## Runs\n\nLUSPO through verl with FSDP2 and the transformers rollout. Medians over the steps from the second "
        "on; what is left of a step is mostly sampling. `start and end`: all seconds of the process outside its steps. "
        "The runs of tiny trained side by side.",
        table(["run", "start and end s", *RUN_COLUMNS], rows),
    ]
    if found["failed"]:
        parts += ["## Failed", "\n".join(f"- {name}: {_last_line(why)}" for name, why in found["failed"].items())]
    return "\n\n".join(parts) + "\n"


def _last_line(why: str) -> str:
    return re.sub(r"Command '.*' timed out", "timed out", why.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, help="the unpacked kit; without it: the packages of this Python")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu", help="folder of the two files")
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpu-check"), help="folder of the runs")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the check itself")
    parser.add_argument("--minutes", type=float, default=8.0, help="no run is started later than this")
    parser.add_argument("--only", default="", help="checks whose name contains this")
    given = parser.parse_args()
    if given.kit:
        for folder in (given.kit / "kit-assets").iterdir():
            shutil.copytree(folder, ROOT / "results" / "assets" / folder.name, dirs_exist_ok=True)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    end = time.time() + 60 * given.minutes
    found: dict[str, Any] = {"machine": machine(given.device), "losses": [], "runs": {}, "compared": {}, "failed": {}}
    name = re.sub(r"[^a-z0-9]+", "-", found["machine"]["device"].lower()).strip("-")
    roots = {run: given.work / re.sub(r"\W+", "-", run) for run in runs(given.device)}

    lock = Lock()

    def write() -> None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (given.out / f"{name}.md").write_text(markdown(found))

    def attempt(check: str, function: Callable[[], Any]) -> Any:
        if given.only not in check:
            return None
        try:
            if time.time() > end:
                raise TimeoutError("not started: the time was up")
            return function()
        except Exception as error:  # noqa: BLE001  (one failed check must not hide the others)
            found["failed"][check] = f"{type(error).__name__}: {error}"
        finally:
            with lock:
                write()
            print(f"{check}: {'failed' if check in found['failed'] else 'done'}", flush=True)
        return None

    def one(run: str) -> None:
        shutil.rmtree(roots[run], ignore_errors=True)
        seconds = max(60.0, end + 60 - time.time())
        result = attempt(run, lambda: train(roots[run], runs(given.device)[run], seconds))
        if result:
            found["runs"][run] = result

    tiny = [run for run in roots if run.startswith("tiny")]
    with ThreadPoolExecutor(len(tiny) + 1) as pool:
        of_losses = pool.submit(attempt, "losses", lambda: losses(given.device))
        list(pool.map(one, tiny))
    found["losses"] = of_losses.result() or []
    attempt("smollm2: weights", smollm2_weights)
    found["compared"] = attempt("compared", lambda: compared(roots)) or {}
    for run in roots:
        if run not in tiny:
            one(run)
    write()
    print(markdown(found))
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
