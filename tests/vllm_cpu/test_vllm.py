"""The path that GPUs take, on this machine's CPU: verl's own vLLM server, stock agent loop, reward workers, FSDP.

Runs in the environment that ``make test-vllm`` makes (.venv-vllm); in another one everything here is skipped.
"""

import os
import signal
import subprocess
import time
from importlib import metadata
from pathlib import Path

import pandas as pd
import psutil
import pytest
from e2e.launching import ordered, rows, start, train

from harness.rundir import RunDir, find_runs


def _vllm() -> str:
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return ""


pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not _vllm(), reason="needs vLLM: make test-vllm"),
    pytest.mark.timeout(1800),
]
STEPS = ("trainer.total_training_steps=2", "trainer.val_before_train=false", "trainer.test_freq=-1")
VLLM = ("experiment=tiny_vllm", "seed=70", *STEPS)
# The same model and task with the rollout that all other tests use.
TRANSFORMERS = ("experiment=tiny_vllm", "cluster=cpu", "seed=70", *STEPS)
GREEDY = "actor_rollout_ref.rollout.top_k=1"
SAMPLED = ["prompt_id", "sample", "tokens", "response_hash", "reward", "truncated"]


def only(root: Path) -> RunDir:
    (run,) = find_runs(root)
    return run


def test_greedy_responses_are_those_of_the_transformers_rollout(tmp_path: Path) -> None:
    """One prompt in, one response out, whatever engine: the most likely token of the same weights."""
    train(tmp_path / "vllm", "algo=luspo", *VLLM, GREEDY)
    train(tmp_path / "transformers", "algo=luspo", *TRANSFORMERS, GREEDY)
    ours, theirs = (ordered(rows(only(tmp_path / name), 1))[SAMPLED] for name in ("transformers", "vllm"))
    pd.testing.assert_frame_equal(theirs, ours)


def test_two_ranks_with_dynamic_batches_validation_and_the_same_first_responses(tmp_path: Path) -> None:
    """What a GPU preset switches on; one rank and two, and two losses, begin alike."""
    dynamic = ("actor_rollout_ref.actor.use_dynamic_bsz=true",
               "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=512")  # fmt: skip
    train(tmp_path / "one", "algo=luspo", *VLLM)
    train(tmp_path / "two", "algo=gspo", *VLLM, *dynamic, "trainer.n_gpus_per_node=2", "trainer.test_freq=2",
          "actor_rollout_ref.rollout.val_kwargs.n=2")  # fmt: skip
    one, two = only(tmp_path / "one"), only(tmp_path / "two")
    assert one.manifest()["step1_responses"] == two.manifest()["step1_responses"]
    metrics = two.metrics()[0][2]
    assert metrics["rollout_logprob_diff"] < 1e-5  # fp32: the weights in vLLM are the trainer's after an update too
    assert metrics["val_accuracy"] >= 0
    frame = rows(two, 2)
    assert frame.groupby("update").size().to_dict() == {1: 32, 2: 32, 3: 32, 4: 32}


def engine_of(process: subprocess.Popen[str]) -> psutil.Process | None:
    """vLLM's engine process in the session of a run."""
    for one in psutil.process_iter(["name", "cmdline"]):
        try:
            same = os.getsid(one.pid) in {os.getsid(child.pid) for child in psutil.Process(process.pid).children(True)}
            if same and "EngineCore" in " ".join([one.info["name"] or "", *(one.info["cmdline"] or [])]):
                return one
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return None


def test_a_killed_engine_ends_the_attempt_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = ("algo=luspo", *VLLM, "trainer.total_training_steps=3", "trainer.save_freq=1")
    process = start(tmp_path, *words)
    deadline, engine = time.time() + 900, None
    while time.time() < deadline and process.poll() is None:
        runs = find_runs(tmp_path)
        if runs and runs[0].last_step() >= 1 and (engine := engine_of(process)):
            break
        time.sleep(1)
    assert engine, "no engine was seen while the run trained"
    engine.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=900)
    run = only(tmp_path)
    assert process.returncode != 0, output
    assert run.status()["cause"] in ("lost", "timeout"), run.status()
    train(tmp_path, *words)
    assert only(tmp_path).status()["state"] == "done"
    assert only(tmp_path).status()["attempt"] == 2


def test_an_error_in_a_weight_sync_ends_the_attempt_with_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``harness.plugin.vllm_cpu`` vLLM cannot take new weights here, and verl's sender waits all the same."""
    monkeypatch.setenv("VLLM_PLUGINS", "none")
    output, _ = (process := start(tmp_path, "algo=luspo", *VLLM)).communicate(timeout=900)
    status = only(tmp_path).status()
    assert process.returncode != 0, output
    assert (status["state"], status["cause"], status["last_step"]) == ("failed", "lost", 0), status
    assert "rollout engine broke down" in status["error"]
    assert "Error" in status["error"], status


@pytest.mark.parametrize("preset", ["text_dense", "text_dense_1gpu"])
def test_a_gpu_presets_own_switches_run(tmp_path: Path, preset: str) -> None:
    """bf16 autocast, dynamic batches, checkpointing, chunked entropy, top_p, reward parts: the tiny model and task, and
    the CPU in place of the GPU."""
    cpu = (
        "policy=tiny_vllm", "task=tiny", "trainer.device=cpu", "trainer.nnodes=1", "trainer.n_gpus_per_node=1",
        "harness.memory_gb=8", "reward.reward_kwargs.overlong.buffer=10",
        "harness.sequence_parallel_size=1", "data.train_batch_size=8", "data.max_prompt_length=16",
        "data.max_response_length=70", "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.rollout.n=4", "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        "actor_rollout_ref.model.use_remove_padding=false", "actor_rollout_ref.rollout.enforce_eager=true",
        "+actor_rollout_ref.rollout.enable_sleep_mode=false", "actor_rollout_ref.rollout.free_cache_engine=false",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1", "actor_rollout_ref.rollout.val_kwargs.n=1",
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.1",
        "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=64",
        "+ray_kwargs.ray_init.runtime_env.env_vars.VLLM_CPU_KVCACHE_SPACE='1'",
        "+ray_kwargs.ray_init.runtime_env.env_vars.VLLM_CPU_OMP_THREADS_BIND=nobind",
        "+ray_kwargs.ray_init.num_gpus=1", "+ray_kwargs.ray_init.num_cpus=16",
    )  # fmt: skip
    train(tmp_path, f"experiment={preset}", "algo=gspo", "seed=70", *STEPS, *cpu)
    run = only(tmp_path)
    assert run.status()["state"] == "done"
    assert run.metrics()[0][1]["onpolicy_log_ratio_rms"] < 0.02  # bf16's rounding, and no more
    assert len(rows(run, 2)) == 8 * 4
