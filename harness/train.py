"""One run: from command-line overrides to a finished run directory; with ``-m``, one run for every combination.

    python -m harness.train algo=luspo seed=1 experiment=tiny
    python -m harness.train -m algo=grpo,gspo,luspo seed=0,1,2 hydra.launcher.n_jobs=2

Any verl key can follow (``actor_rollout_ref.actor.optim.lr=1e-4``) and makes an arm of its own. A finished run is
skipped, an interrupted one continued, a directory with other settings refused.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from harness.config import (
    ConfigError,
    code,
    compose,
    effective,
    flatten,
    matching,
    parse,
    register,
    say_error,
    say_warning,
)
from harness.doctor import checkup, engine, rules
from harness.manifest import describe, loss_module, refuse_other_settings
from harness.paths import CONF, ROOT
from harness.run import fork_server, prefork
from harness.run.arithmetic import comparable, token_noise
from harness.run.checkpoints import condemn, drop_checkpoints, passed_over, resume_point
from harness.run.failures import classify
from harness.run.offline import sync_hint
from harness.run.process import train_process
from harness.run.progress import Monitor
from harness.run.watch import Watch
from harness.rundir import BEFORE_A_RUN, BEING_TRAINED, STALE_SECONDS, RunDir, RunDirError, seal, unseal, write_json
from harness.tasks.registry import build_assets

PLAIN: Any = {"markup": False, "highlight": False, "soft_wrap": True}  # how paths are printed
# Exit statuses, for whoever launched the run.
FAILED, REFUSED, PREEMPTED, INTERRUPTED = 1, 2, os.EX_TEMPFAIL, 130


def prepare(config: DictConfig, overrides: list[str]) -> tuple[RunDir, dict[str, Any], list[str]]:
    """Check a composed configuration and work out its run directory and manifest; nothing is written but assets.

    Returns (run directory, manifest, warnings); raises ``ConfigError``.
    """
    flat = flatten(config)
    rules.settings(flat)  # before anything is built
    built = flatten(build_assets(config))
    if built["harness.fork_from"]:
        built["harness.fork_from"] = str(ROOT / built["harness.fork_from"])
    warnings = rules.check(built)
    if built["trainer.device"] != "cpu" or built[f"{rules.ROLLOUT}.name"] == "vllm":
        warnings += checkup.before_run(built) + engine.before_run(config)
    files = code.sources(built, loss_module(built))
    kinds = matching.classify(flat, matching.content_hashes(built) | code.hashes(files))
    different = effective(overrides, lambda word: matching.may_make_an_arm(word, flat))
    arm = matching.arm_name(flat, different)
    manifest = describe(flat, built, kinds, arm, overrides) | {"code": files}
    OmegaConf.update(config, "harness.arm", arm)
    return RunDir(matching.run_path(flat, different)), manifest, warnings


def open_run(run: RunDir, manifest: dict[str, Any], config: DictConfig) -> None:
    """Create the run directory, or accept the one that is there if it was made by the same settings.

    Execution settings may differ (more steps, another checkpoint frequency). Raises ``ConfigError`` with the keys
    that differ otherwise; what is there is never overwritten.
    """
    if run.path.exists() and any(p for p in run.path.iterdir() if p.name not in BEFORE_A_RUN):
        old = refuse_other_settings(run, manifest)
        manifest = {**manifest, "created": old["created"]}
        if "step1_responses" in old:
            manifest["step1_responses"] = old["step1_responses"]
    run.path.mkdir(parents=True, exist_ok=True)
    unseal(run)
    run.write_manifest(manifest)
    draft = run.config.with_suffix(".draft")
    OmegaConf.save(config, draft, resolve=True)
    draft.replace(run.config)


def train(config: DictConfig, overrides: list[str], console: Console) -> int:
    """Do one run; returns its exit status: 0 for done, ``FAILED`` or ``PREEMPTED``. Raises ``ConfigError``."""
    run, manifest, warnings = prepare(config, overrides)
    for warning in warnings:
        say_warning(warning)
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run.path / ".lock", timeout=0):
            _refuse_elsewhere(run)
            if _finished(run, manifest):
                _merge(run)
                asked = manifest["planned_steps"]
                more = f", {asked} were asked for" if asked != run.last_step() else ""
                console.print(f"{run.path} is done ({run.last_step()} steps{more}), skipped", **PLAIN)
                return 0
            open_run(run, manifest, config)
            return _train_locked(run, manifest["planned_steps"], config, console)
    except Timeout:
        raise ConfigError(f"{run.path} {BEING_TRAINED} by another process on this machine") from None


def _finished(run: RunDir, manifest: dict[str, Any]) -> bool:
    """Whether the steps that are asked for are done; such a run is not written to. Raises ``ConfigError`` as
    ``open_run``."""
    if not (run.path / "status.json").exists() or run.status().get("state") != "done":
        return False
    refuse_other_settings(run, manifest)
    return run.last_step() >= manifest["planned_steps"]


def _refuse_elsewhere(run: RunDir) -> None:
    """The lock is this machine's; of others the heartbeat tells."""
    status = run.status() if (run.path / "status.json").exists() else {}
    if status.get("state") == "running" and status.get("host") not in (None, os.uname().nodename):
        raise ConfigError(
            f"{run.path} {BEING_TRAINED} on {status['host']}; its heartbeat must be silent for {STALE_SECONDS} s"
        )


def _train_locked(run: RunDir, planned: int, config: DictConfig, console: Console) -> int:
    """Continue the run from its last whole checkpoint, or start it (from ``harness.fork_from`` if that is set)."""
    step, checkpoint = resume_point(run)
    skipped = passed_over(run, step)
    drop_checkpoints(run, step, config.trainer.max_actor_ckpt_to_keep)
    attempt, began = run.new_attempt(), time.time()
    number = int(attempt.name)
    run.write_status("planned", planned_steps=planned, attempt=number, error=None, cause=None, started=began)
    run.add_event("attempt", attempt=number, step=step, host=os.uname().nodename)
    if skipped:
        why = f"not whole, or without a record: {', '.join(skipped)}"
        run.add_event("checkpoint", attempt=number, step=step, message=why)
    if step:
        console.print(f"continuing {run.path} after step {step}", **PLAIN)
    start = ROOT / config.harness.fork_from if config.harness.fork_from else None
    limits: Any = OmegaConf.to_container(config.harness.watch, resolve=True)
    flat = flatten(config)
    limits |= {"token_noise": token_noise(flat), "comparable": comparable(flat)}
    watch = Watch(run, attempt, limits, step, planned)
    state, cause, error = "incomplete", "interrupted", "interrupted"
    try:
        with Monitor(console) as monitor:
            monitor.watch(run)
            status, said = train_process(
                run, attempt, checkpoint or start, watch, limits["grace_seconds"], monitor.update, _forked(config)
            )
        state, cause, error = _verdict(run, planned, status, said)
        if cause == "checkpoint" and checkpoint:
            condemn(checkpoint)
    finally:
        _close(run, attempt, {"state": state, "cause": cause, "error": error, "first_step": step, "began": began})
    if state == "done":
        _merge(run)
        seal(run)
        minutes = run.status()["seconds"] / 60
        console.print(f"{run.path}: done, {minutes:.1f} minutes", **PLAIN)
        if hint := sync_hint([run]):
            console.print(hint, **PLAIN)
        return 0
    console.print(f"{run.path}: {error}\n  log: {attempt / 'log.txt'}", style="red", **PLAIN)
    return PREEMPTED if cause == "preempted" else FAILED


def _forked(config: DictConfig) -> dict[str, str] | None:
    """What the configuration sets in the environment of the run's process, if that may be a fork."""
    variables = config.ray_kwargs.ray_init.runtime_env.get("env_vars", {})
    return {name: str(value) for name, value in variables.items()} if fork_server.wanted(config) else None


def _merge(run: RunDir) -> None:
    """The finished run's responses as one file; if that fails they stay as they are, which every reader knows."""
    from harness.run.merge import merge  # pyarrow is not needed to start a run

    try:
        merge(run)
    except RunDirError as error:
        say_warning(error)


def _verdict(run: RunDir, planned: int, status: int, said: str | None) -> tuple[str, str | None, str | None]:
    """(state, cause, error) of an attempt that ended with this exit status and last words."""
    reached = run.last_step()
    if status == 0 and reached >= planned:
        return "done", None, None
    error = said or f"training ended at step {reached} of {planned} without an error"
    cause = classify(error)
    return ("incomplete" if cause == "preempted" else "failed"), cause, error


def _close(run: RunDir, attempt: Path, ending: dict[str, Any]) -> None:
    """Write how an attempt ended: for itself, among the run's events, and into its status."""
    reached, ended = run.last_step(), time.time()
    state, cause, error = ending["state"], ending["cause"], ending["error"]
    write_json(attempt / "outcome.json", {**ending, "ended": ended, "last_step": reached})
    run.add_event(state, attempt=int(attempt.name), step=reached, cause=cause, message=error)
    seconds = run.status().get("seconds", 0.0) + ended - ending["began"]
    gone = {"pid": None, "host": None, "seconds_left": None}
    run.write_status(state, last_step=reached, error=error, cause=cause, seconds=seconds, **gone)


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def _hydra(config: DictConfig) -> None:
    """Hydra's task: one run with a flag of Hydra's, such as ``--config-dir``. A multirun does not come here: its
    launcher starts one process of this module a run."""
    try:
        status = train(config, list(HydraConfig.get().overrides.task), Console(stderr=True))
    except (ConfigError, RunDirError) as error:
        say_error(error)
        status = REFUSED
    if status:
        sys.exit(status)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Entry point of ``python -m harness.train``; returns the exit status."""
    words, flags = [w for w in sys.argv[1:] if not w.startswith("-")], {w for w in sys.argv[1:] if w.startswith("-")}
    if flags & {"-h", "--help"}:
        print(__doc__)
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not flags:
            with prefork.standing(prefork.eligible(words)):
                return train(compose(words), words, Console(stderr=True))
        register()
        if flags <= {"-m", "--multirun"}:  # what is wrong in all runs is said before Hydra takes over
            several = parse(words, multirun=True)
            compose([word for word, one in zip(words, several, strict=True) if not one.is_sweep_override()])
        _hydra()
    except (ConfigError, RunDirError) as error:
        say_error(error)
        return REFUSED
    except OSError as error:  # where even the status could not be written
        say_error(error)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
