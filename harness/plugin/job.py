"""The training process of one run: verl's ``run_ppo`` on the run directory's configuration, and nothing beside it.

Started by ``harness.run.process`` in a session of its own. Standard input is a lifeline: when it ends, the process that
watches over this run is gone, and everything of this session ends with it.
"""

import argparse
import atexit
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.paths import LONGEST_RAY_FOLDER, ROOT
from harness.run import fork_server, ray_worker
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
SHARED, LEAST_SHARED = "/dev/shm", 1e9  # bytes
ON_DISK = 2e9  # bytes of an object store that is not in shared memory; Ray refuses larger ones, on macOS from here on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("attempt_dir", type=Path)
    parser.add_argument("--resume", type=Path, help="checkpoint folder global_step_<n> to continue from")
    args = parser.parse_args()
    try:
        (args.attempt_dir / STAGE_FILE).write_text("importing verl and starting Ray")
        config = configure(RunDir(args.run_dir), args.attempt_dir, args.resume)
        forks = shares_imports(config) and share_imports()  # so before there is any thread
        threading.Thread(target=_end_with_parent, daemon=True).start()
        train(config, forks)
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
    if shares_imports(loaded):
        fork_server.preload()
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


def shares_imports(config: DictConfig) -> bool:
    """Whether Ray's workers are to be forks of a process that has imported their packages: on this machine's CPU.

    Not where workers are on other nodes or on GPUs: CUDA survives no fork, and a standing cluster has its own Python.
    Nor with vLLM, which starts processes in a way of its own.
    """
    local = config.ray_kwargs.ray_init.get("address") == "local" and config.trainer.device == "cpu"
    own_rollout = config.actor_rollout_ref.rollout.name == "transformers"
    return local and own_rollout and config.harness.get("fork_server", False)


def share_imports() -> bool:
    """Start the fork server, or say why not. Ray's nodes and their workers find its address in their environment."""
    if reason := fork_server.objection():
        print(f"every worker imports its packages by itself: {reason}", flush=True)
        return False
    os.environ[ray_worker.SERVER] = fork_server.start()
    print("workers are forks of one process that has imported their packages", flush=True)
    return True


def train(config: DictConfig, forks: bool = False) -> None:
    """verl's ``main_ppo.main`` with our TaskRunner: device, validation, ``run_ppo``."""
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from harness.plugin.trainer import task_runner

    if config.ray_kwargs.ray_init.get("address") == "local" and (forks or config.trainer.nnodes > 1):
        start_local_nodes(config, forks)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    run_ppo(config, task_runner_class=task_runner())


def start_local_nodes(config: DictConfig, forks: bool) -> None:
    """``trainer.nnodes`` Ray nodes on this machine (Ray's own ``Cluster``), each with ``n_gpus_per_node`` logical GPUs.

    ``forks``: their workers come from the fork server, which only a ``Cluster`` can be told: ``ray.init`` does not ask
    which script starts a worker. The nodes end with this process's session. ``ray_init.address`` becomes theirs.
    """
    from ray.cluster_utils import Cluster

    # Ray notes the newest cluster in its folder, where other programs' `ray.init` looks: not in theirs.
    folder = tempfile.mkdtemp(prefix="r", dir=os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["RAY_TMPDIR"] = folder
    init = config.ray_kwargs.ray_init
    node: dict[str, Any] = {
        "num_cpus": init.num_cpus,
        "num_gpus": config.trainer.n_gpus_per_node,
        "include_dashboard": False,
        "no_monitor": True,  # nothing here scales
        "object_store_memory": init.get("object_store_memory") or object_store_bytes(config.trainer.nnodes),
    }
    if forks:
        node["worker_path"] = node["setup_worker_path"] = ray_worker.__file__
    cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(config.trainer.nnodes - 1):
        cluster.add_node(**node)
    cluster.wait_for_nodes()
    with open_dict(config):
        init.address = cluster.address
        # A cluster that exists decides these itself.
        for name in ("num_cpus", "num_gpus", "include_dashboard", "object_store_memory"):
            init.pop(name, None)


def object_store_bytes(nodes: int) -> int:
    """Of each node's object store: 30 % of this machine's memory, as Ray itself takes, and no more than shared memory
    has room for. Where that is tiny, as in a container, Ray puts the store on disk, with a warning."""
    wanted = 0.3 * psutil.virtual_memory().total
    room = 0.9 * psutil.disk_usage(SHARED).free if os.path.isdir(SHARED) else 0.0
    return int(min(wanted, ON_DISK if room < LEAST_SHARED else room) / nodes)


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
