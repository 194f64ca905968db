"""One run: from command-line overrides to a finished run directory; with ``-m``, one run for every combination.

    python -m harness.train algo=luspo seed=1 experiment=tiny
    python -m harness.train -m algo=grpo,gspo,luspo seed=0,1,2 hydra.launcher.n_jobs=2

Any verl key can follow (``actor_rollout_ref.actor.optim.lr=1e-4``) and makes an arm of its own. A finished run is
skipped, an interrupted one continued, a directory with other settings refused.
"""

import os
import platform
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
import psutil
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from harness import checks, matching
from harness.assets import ROOT
from harness.config import CONF, ConfigError, build_assets, digest, flatten, register
from harness.grading import mathematics
from harness.launch import drop_checkpoints, resume_point, train_process
from harness.progress import Monitor
from harness.rundir import RunDir, write_json

SWEEP_DIR = "HARNESS_SWEEP_DIR"  # where the cells of a multirun tell their sweep how they are doing
PACKAGES = ("verl", "torch", "ray", "transformers", "tensordict", "TransferQueue", "hydra-core", "pandas", "numpy")
KEPT_CHECKPOINTS = 2


def prepare(config: DictConfig, overrides: list[str]) -> tuple[RunDir, dict[str, Any], list[str]]:
    """Check a composed configuration and work out its run directory and manifest; nothing is written but assets.

    Returns (run directory, manifest, warnings); raises ``ConfigError``.
    """
    try:
        flat, built = flatten(config), flatten(build_assets(config))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    if built["harness.fork_from"]:
        built["harness.fork_from"] = str(ROOT / built["harness.fork_from"])
    warnings = checks.check(built)
    kinds = matching.classify(flat, matching.content_hashes(built))
    arm = matching.arm_name(flat, overrides)
    root = Path(flat["harness.root"])
    experiment = flat["harness.experiment"] + flat["harness.suffix"]
    path = (root if root.is_absolute() else ROOT / root) / experiment / arm / f"seed={flat['seed']}"
    manifest = {
        "experiment": experiment,
        "arm": arm,
        "arm_id": digest(arm)[:8],
        "algo": flat["harness.algo"],
        "clip": flat["harness.clip"],
        "seed": flat["seed"],
        "fingerprint": kinds.fingerprint,
        "treatment": kinds.treatment,
        "controlled": kinds.controlled,
        "execution": kinds.execution,
        "planned_steps": flat[matching.STEPS],
        "overrides": overrides,
        "created": time.time(),
        "versions": {name: metadata.version(name) for name in PACKAGES}
        | mathematics.versions()
        | {"python": platform.python_version()},
        "commit": _commit(),
        "hardware": _hardware(),
    }
    OmegaConf.update(config, "harness.arm", arm)
    return RunDir(path), manifest, warnings


def open_run(run: RunDir, manifest: dict[str, Any], config: DictConfig) -> None:
    """Create the run directory, or accept the one that is there if it was made by the same settings.

    Execution settings may differ (more steps, another checkpoint frequency). Raises ``ConfigError`` with the keys
    that differ otherwise; what is there is never overwritten.
    """
    if run.path.exists() and any(p for p in run.path.iterdir() if p.name != ".lock"):
        old = run.manifest()
        changed: dict[str, tuple[Any, Any]] = {}
        for kind in ("treatment", "controlled"):
            changed |= matching.differences(old[kind], manifest[kind])
        if changed:
            shown = "; ".join(f"{key}: {a} there, {b} now" for key, (a, b) in list(changed.items())[:8])
            raise ConfigError(f"{run.path} was made with other settings ({shown}); use another harness.root or move it")
        manifest = {**manifest, "created": old["created"]}
        if "step1_responses" in old:
            manifest["step1_responses"] = old["step1_responses"]
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_manifest(manifest)
    draft = run.config.with_suffix(".draft")
    OmegaConf.save(config, draft, resolve=True)
    draft.replace(run.config)


def train(config: DictConfig, overrides: list[str], console: Console, report: Any = None) -> str:
    """Do one run; returns its final state. ``report(run)`` is called once the run directory exists."""
    run, manifest, warnings = prepare(config, overrides)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.path / ".lock", timeout=0):
            open_run(run, manifest, config)
            if report:
                report(run)
            start = config.harness.fork_from
            start = ROOT / start if start else None
            return _train_locked(run, manifest["planned_steps"], start, console, quiet=report is not None)
    except Timeout:
        raise ConfigError(f"{run.path} is being trained by another process on this machine") from None


def _train_locked(run: RunDir, planned: int, start: Path | None, console: Console, quiet: bool) -> str:
    """``start``: the checkpoint of another run to begin with, where the run has none of its own."""
    if run.last_step() >= planned and run.status().get("state") == "done":
        run.write_status("done", planned_steps=planned)
        console.print(f"{run.path} is done ({run.last_step()} steps), skipped", highlight=False, soft_wrap=True)
        return "done"
    step, checkpoint = resume_point(run)
    drop_checkpoints(run, step, KEPT_CHECKPOINTS)
    earlier = run.status().get("seconds", 0.0) if (run.path / "status.json").exists() else 0.0
    attempt = run.new_attempt()
    run.write_status("planned", planned_steps=planned, attempt=int(attempt.name), error=None, started=time.time())
    if step:
        console.print(f"continuing {run.path} after step {step}", highlight=False, soft_wrap=True)
    began = time.time()
    state, error = "incomplete", "interrupted"
    try:
        if quiet:
            status, error = train_process(run, attempt, checkpoint or start, lambda: None)
        else:
            with Monitor(console) as monitor:
                monitor.watch(run)
                status, error = train_process(run, attempt, checkpoint or start, monitor.update)
        reached = run.last_step()
        state = "done" if status == 0 and reached >= planned else "failed"
        if state == "failed" and error is None:
            error = f"training ended at step {reached} of {planned} without an error"
    finally:
        seconds = earlier + time.time() - began
        run.write_status(state, last_step=run.last_step(), seconds=seconds, error=error, pid=None, host=None)
    if state == "done" and not quiet:
        console.print(f"{run.path}: done, {seconds / 60:.1f} minutes", highlight=False, soft_wrap=True)
    if error:
        console.print(
            f"{run.path}: {error}\n  log: {attempt / 'log.txt'}", style="red", highlight=False, soft_wrap=True
        )
    return state


def _hardware() -> dict[str, Any]:
    """What this machine is, without its name: processor, cores, memory in GiB."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"processor": model, "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30)}


def _commit() -> str | None:
    """The checkout's git commit, with a + if files differ from it; None outside git."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _cell(config: DictConfig) -> None:
    """Hydra's task: one run. In a multirun it reports to the sweep and never raises, so the other cells go on."""
    signal.signal(signal.SIGTERM, _interrupt)
    hydra_config = HydraConfig.get()
    overrides = list(hydra_config.overrides.task)
    console = Console(stderr=True)
    sweep = os.environ.get(SWEEP_DIR) if hydra_config.mode == RunMode.MULTIRUN else None
    told: dict[str, Any] = {"overrides": overrides, "run_dir": None, "state": "failed", "error": None}

    def tell(run: RunDir | None = None) -> None:
        if run:
            told["run_dir"] = str(run.path)
        if sweep:
            write_json(Path(sweep) / f"{hydra_config.job.num}.json", told)

    try:
        told["state"] = train(config, overrides, console, tell if sweep else None)
    except ConfigError as error:
        told["error"] = str(error)
        console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True)
    tell()
    if not sweep and told["state"] != "done":
        sys.exit(1)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of ``python -m harness.train``."""
    try:
        register()
    except ConfigError as error:
        sys.exit(f"error: {error}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _cell()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command continues where it stopped")


if __name__ == "__main__":
    main()
