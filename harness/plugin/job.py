"""The training process of one run: verl's ``run_ppo`` on the run directory's configuration, and nothing beside it.

Started by ``harness.run.process`` in a session of its own. Standard input is a lifeline: when it ends, the process that
watches over this run is gone, and everything of this session ends with it.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from harness.paths import LONGEST_RAY_FOLDER, ROOT
from harness.plugin.nodes import Nodes
from harness.run import fork_server
from harness.run.process import end_session
from harness.rundir import ERROR_FILE, STAGE_FILE, RunDir
from harness.tasks.registry import build_assets

# What every Ray worker needs in its environment, besides what conf/cluster sets: on a cluster that was started
# before, workers inherit the raylet's environment and not this process's.
# No secret is among them: verl prints and logs its configuration. W&B finds its key through `wandb login` on the nodes.
WEIGHTS_ONLY, TRANSPORT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "VERL_DATAPROTO_SERIALIZATION_METHOD"
FORWARDED = (WEIGHTS_ONLY, TRANSPORT, "HARNESS_ASSETS", "PYTHONPATH", "WANDB_MODE", "WANDB_BASE_URL", "HF_HOME")
FORWARDED_PREFIXES = ("HF_HUB_", "TRANSFORMERS_", "NCCL_", "GLOO_", "VLLM_")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")

LONGEST_REASON = 300  # characters; Ray's are essays


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("attempt_dir", type=Path)
    parser.add_argument("--resume", type=Path, help="checkpoint folder global_step_<n> to continue from")
    args = parser.parse_args()
    try:
        (args.attempt_dir / STAGE_FILE).write_text("importing verl and starting Ray")
        config = configure(RunDir(args.run_dir), args.attempt_dir, args.resume)
        local = start_nodes(config)
        threading.Thread(target=_end_with_parent, daemon=True).start()  # after every fork
        train(config, local)
    except BaseException as error:  # noqa: BLE001  (the reason must reach the run directory whatever it is)
        traceback.print_exc()
        (args.attempt_dir / ERROR_FILE).write_text(json.dumps({"error": reason(error)}))
        return 1
    return 0


def configure(run: RunDir, attempt: Path, resume: Path | None) -> DictConfig:
    """The run's configuration with what belongs to this attempt alone: paths, environment, where to resume."""
    loaded = OmegaConf.load(run.config)
    assert isinstance(loaded, DictConfig)
    set_variables = loaded.ray_kwargs.ray_init.runtime_env.get("env_vars", {})
    os.environ.update({name: str(value) for name, value in set_variables.items()})  # numpy reads them when imported
    os.environ.update(fork_server.WITHOUT_THREADS)
    config = build_assets(loaded)
    if config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2"):
        # verl loads its checkpoints as arbitrary pickles; torch can be told to load nothing but data. Megatron's hold
        # more than that.
        os.environ[WEIGHTS_ONLY] = "1"
        # Else verl's agent loop sends its batches to reward workers as pickles, which torch would then refuse.
        os.environ[TRANSPORT] = "numpy"
    if config.ray_kwargs.ray_init.get("address") == "local":
        if len(tempfile.gettempdir()) > LONGEST_RAY_FOLDER:
            os.environ.setdefault("RAY_TMPDIR", "/tmp")
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # a Ray of our own admits nobody else
    environment = {name: value for name, value in os.environ.items() if forwarded(name)}
    environment["RAY_worker_niceness"] = "0"  # Ray's 15 makes a run crawl beside anything else on the machine
    environment["VERL_FILE_LOGGER_PATH"] = str(attempt / "metrics.jsonl")
    if config.trainer.device == "cpu":
        environment["VERL_PLATFORM"] = "cpu"
    if "wandb" in config.trainer.logger:
        environment.update(wandb_environment(run, config))
    os.environ.update(environment)
    agent = config.actor_rollout_ref.rollout.agent
    with open_dict(config):
        if agent.get("agent_loop_config_path"):  # workers of a standing cluster have another working directory
            agent.agent_loop_config_path = str(ROOT / agent.agent_loop_config_path)
        config.harness.run_dir = str(run.path)
        config.harness.attempt_dir = str(attempt)
        config.trainer.default_local_dir = str(run.checkpoints)
        config.trainer.resume_mode = "resume_path" if resume else "disable"
        config.trainer.resume_from_path = str(resume) if resume else None
        init = config.ray_kwargs.ray_init
        if init.get("address") != "local":
            for name in ("num_cpus", "num_gpus", "include_dashboard"):  # a cluster that exists decides these itself
                init.pop(name, None)
        runtime_env = init.runtime_env
        runtime_env.env_vars = {**runtime_env.get("env_vars", {}), **environment}
        os.environ.update({name: str(value) for name, value in runtime_env.env_vars.items()})
    return config


def forwarded(name: str) -> bool:
    """Whether every Ray worker gets this variable of the environment."""
    return name in FORWARDED or (name.startswith(FORWARDED_PREFIXES) and not SECRET.search(name))


def wandb_environment(run: RunDir, config: DictConfig) -> dict[str, str]:
    """W&B's own variables: one W&B run for a run directory, whatever the number of attempts."""
    manifest = run.manifest()
    return {
        "WANDB_MODE": os.environ.get("WANDB_MODE", "offline"),
        "WANDB_DIR": str(run.path),
        "WANDB_RUN_ID": f"{manifest['fingerprint'][:8]}-{manifest['arm_id']}-{manifest['seed']}",
        "WANDB_RESUME": "allow",
        "WANDB_NAME": f"{manifest['arm']} seed={manifest['seed']}",
        "WANDB_RUN_GROUP": manifest["experiment"],
        "WANDB_JOB_TYPE": manifest["algo"],
        "WANDB_TAGS": f"{manifest['arm'].replace(',', ' ')},{manifest['fingerprint']}",
    }


def start_nodes(config: DictConfig) -> Nodes | None:
    """Ray nodes of this run alone, if it wants them; they start while this process imports what its workers will need
    and forks the server that gives them to the workers.

    Without both, verl's own ``ray.init`` starts the one node.
    """
    forks = fork_server.wanted(config)
    if config.ray_kwargs.ray_init.get("address") != "local" or not (forks or config.trainer.nnodes > 1):
        return None
    listening = fork_server.Listening() if forks else None
    nodes = Nodes(config, listening.address if listening else None)
    if listening:
        fork_server.preload()
        if reason := fork_server.objection():
            listening.close()
            print(f"every worker imports its packages by itself: {reason}", flush=True)
        else:
            fork_server.start(listening)
            print("workers are forks of one process that has imported their packages", flush=True)
    return nodes


def train(config: DictConfig, nodes: Nodes | None = None) -> None:
    """verl's ``main_ppo.main`` with our TaskRunner: device, validation, ``run_ppo``."""
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from harness.plugin.trainer import task_runner

    if nodes:
        nodes.use(config)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=task_runner())


def reason(error: BaseException) -> str:
    """The first cause of an error in one line; of Ray's nested errors the one that was raised by somebody's code."""
    while True:
        inner: Any = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"[:LONGEST_REASON]


def _end_with_parent() -> None:
    """Block until the lifeline ends; then end this whole session, this process last."""
    try:
        while os.read(sys.stdin.fileno(), 1):
            pass
    except OSError:
        pass
    end_session(os.getsid(0), spare=os.getpid())
    os._exit(143)


if __name__ == "__main__":
    sys.exit(main())
