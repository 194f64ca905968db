"""Other shapes of a run: ranks, nodes, dynamic batches, padding, W&B, the stock agent loop, and what goes wrong."""

import json

import numpy as np
import pandas as pd
import pytest
from commands import run_module
from e2e.launching import learnt, ordered, rows, run_dir, train

from harness.rundir import find_runs

SHORT = ("seed=50", "trainer.total_training_steps=2", "trainer.val_before_train=false", "trainer.test_freq=-1")
SAME = ["prompt_id", "sample", "tokens", "response_hash", "reward"]


@pytest.fixture(scope="module")
def two_cells(tmp_path_factory):
    """A run on one rank, beside one that cannot start: (folder of both, what the command printed)."""
    root = tmp_path_factory.mktemp("one")
    done = train(root, "algo=grpo_sum", *SHORT, "actor_rollout_ref.model.path=asset:tiny/model,/no/such/model",
                 multirun=True, ok=False)  # fmt: skip
    return root, done.stdout


@pytest.fixture(scope="module")
def one_rank(two_cells):
    return run_dir(two_cells[0], "grpo_sum", 50)


def assert_same_responses(a, b):
    pd.testing.assert_frame_equal(ordered(rows(a, 1))[SAME], ordered(rows(b, 1))[SAME], check_exact=True)
    assert a.manifest()["step1_responses"] == b.manifest()["step1_responses"]


@pytest.mark.parametrize("ranks", ["trainer.n_gpus_per_node=2", "trainer.nnodes=2"])
def test_two_ranks_on_one_node_or_two(one_rank, tmp_path, ranks):
    """Step-1 responses are the one-rank run's; the rows of both ranks come home with the right updates."""
    train(tmp_path, "algo=luspo_norm", *SHORT, ranks)
    (run,) = find_runs(tmp_path)
    assert_same_responses(one_rank, run)
    for step in (1, 2):
        frame, metrics = rows(run, step), run.metrics()[0][step]
        assert frame.groupby("update").size().to_dict() == {1: 32, 2: 32, 3: 32, 4: 32}
        assert not frame.duplicated(["prompt_id", "sample"]).any()
        assert (frame.loc[frame["update"] == 1, "log_ratio"].abs() < 1e-5).all()
        # verl's figure averages over micro-batches: one a rank and update, ranks one after the other.
        halves = np.arange(len(frame)) // 16
        share = frame.groupby(halves)[["clipped", "tokens"]].sum()
        assert (share["clipped"] / share["tokens"]).mean() == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)


def test_dynamic_batches_and_wandb(one_rank, tmp_path):
    """Micro-batches of varying size do not mix up rows; W&B gets the same numbers, offline."""
    train(tmp_path, "algo=grpo_sum", *SHORT, "tracking=wandb", "actor_rollout_ref.actor.use_dynamic_bsz=true",
          "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=256")  # fmt: skip
    (run,) = find_runs(tmp_path)
    assert_same_responses(one_rank, run)
    dynamic, static = ordered(rows(run, 1)), ordered(rows(one_rank, 1))
    assert (dynamic["update"] == static["update"]).all()
    first = dynamic["update"] == 1
    np.testing.assert_allclose(
        dynamic.loc[first, "gradient_weight"], static.loc[first, "gradient_weight"], rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(dynamic["advantage"], static["advantage"], atol=1e-6)

    (offline,) = run.path.glob("wandb/offline-run-*")
    manifest = run.manifest()
    assert offline.name.endswith(f"{manifest['fingerprint'][:8]}-{manifest['arm_id']}-50")
    (file,) = offline.glob("run-*.wandb")
    logged = file.read_bytes()
    for text in ("frac_reward_zero_std", "clip_frac_token", manifest["fingerprint"], manifest["arm"].split(",")[0]):
        assert text.encode() in logged


def test_stock_agent_loop_gives_the_same_responses(one_rank, tmp_path):
    """verl's own agent loop and reward workers, one request a response, in place of our batch manager."""
    train(tmp_path, "algo=grpo_sum", *SHORT, "actor_rollout_ref.rollout.agent.agent_loop_manager_class=null",
          "actor_rollout_ref.rollout.agent.agent_loop_config_path=conf/agent_loop.yaml",
          "actor_rollout_ref.rollout.agent.default_agent_loop=seeded", "reward.num_workers=1")  # fmt: skip
    (run,) = find_runs(tmp_path)
    assert_same_responses(one_rank, run)


def test_workers_that_are_forks_learn_what_plain_ones_learn(one_rank, tmp_path):
    """Bit for bit: with the fork server, which is the default on the CPU, and with a Python for every worker."""
    assert "workers are forks" in "".join(path.read_text() for path in one_rank.path.glob("attempts/*/log.txt"))
    train(tmp_path, "algo=grpo_sum", *SHORT, "harness.fork_server=false")
    (run,) = find_runs(tmp_path)
    assert learnt(run) == learnt(one_rank)
    for step in (1, 2):
        pd.testing.assert_frame_equal(rows(run, step), rows(one_rank, step), check_exact=True)


@pytest.mark.parametrize("experiment", ["mini_dense", "mini_moe"])
def test_other_tasks_train(tmp_path, experiment):
    """Trainer and rollout agree, responses have lengths of their own, and some are right."""
    train(tmp_path, f"experiment={experiment}", "algo=luspo", *SHORT)
    (run,) = find_runs(tmp_path)
    for step in (1, 2):
        frame = rows(run, step)
        assert len(frame) == 128
        assert frame["rollout_logprob_diff"].abs().max() < 1e-3
        assert (frame.loc[frame["update"] == 1, "log_ratio"].abs() < 1e-5).all()
        assert frame["tokens"].nunique() >= 15
        assert 0 < frame["accuracy"].mean() < 1
        assert ("routing_changed" in frame) == (experiment == "mini_moe")
        if experiment == "mini_moe":  # experts change with the weights, and not between rollout and first update
            changed = frame.groupby("update")["routing_changed"].sum()
            assert changed[1] <= 1
            assert changed[4] > 0
            assert (frame["routing_changed"] <= frame["tokens"]).all()
            metrics = run.metrics()[0][step]
            later = frame[frame["update"] > 1]
            share = later["routing_changed"].sum() / later["tokens"].sum()
            assert metrics["routing_changed_frac"] == pytest.approx(share, rel=1e-5)


def test_error_in_the_rollout_is_the_reason_that_the_user_reads(tmp_path):
    done = train(tmp_path, "algo=gspo", *SHORT, "data.max_prompt_length=4", ok=False)
    assert "more than data.max_prompt_length=4" in done.stdout
    (status,) = tmp_path.rglob("status.json")
    assert "more than data.max_prompt_length=4" in json.loads(status.read_text())["error"]
    assert json.loads(status.read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algo=nope"], "algo=nope: no such algo; there are balanced"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=5"], "nearest that do: 4 or 8"),
        (["actor_rollout_ref.actor.grad_clip=0.5"], "optim.clip_grad"),
        (["actor_rollout_ref.model.path=/no/such/model"], "/no/such/model: no such folder"),
        (["data.train_files=/no/such.parquet"], "/no/such.parquet: no such file"),
        (["actor_rollout_ref.actor.no_such_key=1"], "no_such_key"),
    ],
)
def test_mistake_ends_in_a_clear_line_and_leaves_nothing(tmp_path, overrides, said):
    done = run_module("harness.train", f"harness.root={tmp_path / 'runs'}", *overrides)
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


def test_failing_cell_does_not_stop_the_others(two_cells):
    root, said = two_cells
    assert "1 of 2 runs given up" in said
    assert "python -m harness.doctor " in said  # the one command that says why
    (run,) = find_runs(root)
    assert run.manifest()["arm"] == "grpo_sum"  # the default model, though it was named, makes no arm
    assert run.status()["state"] == "done"
