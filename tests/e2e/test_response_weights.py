"""Losses that weigh a response by the others: one real step of each, with every group split over two micro-batches."""

import numpy as np
import pytest
from e2e.launching import rows, train

from harness.rundir import find_runs

ALGOS = ("balanced", "vl_norm")
SEED = 33
RESPONSES = 32  # of an update: 4 prompts, 8 each


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("weighted")
    quiet = ("trainer.test_freq=-1", "trainer.val_before_train=false", "trainer.total_training_steps=1")
    split = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4"
    train(path, f"algo={','.join(ALGOS)}", f"seed={SEED}", split, *quiet, multirun=True)
    return path


@pytest.mark.parametrize("algo", ALGOS)
def test_a_responses_pull_has_the_weight_that_its_group_and_step_give(root, algo):
    """dL/dlogp, read off the loss in the worker, against the formula over the whole step's rows."""
    (run,) = (run for run in find_runs(root) if run.manifest()["algo"] == algo)
    step = rows(run, 1)
    if algo == "vl_norm":
        power = step["tokens"] ** -0.75
        weight = power / power.mean() / 70
    else:
        side = step.assign(sign=np.sign(step["advantage"])).groupby(["prompt_id", "sign"])["tokens"]
        weight = 1 / side.transform("mean")
    expected = weight * step["advantage"].abs() * step["effective_ratio"] * step["tokens"] / RESPONSES
    assert len(step) == 128
    assert step["update"].nunique() == 4
    assert (step["advantage"] != 0).any()
    np.testing.assert_allclose(step["gradient_weight"], expected, rtol=1e-5, atol=1e-12)
