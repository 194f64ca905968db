"""A key that is called execution changes nothing that is learnt: each is changed alone, in a real run."""

import pytest
from e2e.launching import assert_same_record, reference, run_dir, train

from harness.config.matching import EXECUTION, is_execution
from harness.rundir import RunDir

pytestmark = pytest.mark.faults  # ten runs
BASE = (
    "algo=luspo",
    "seed=51",
    "trainer.total_training_steps=2",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
)
CHANGED = (
    "trainer.test_freq=1",
    "trainer.save_freq=1",
    "trainer.val_before_train=true",
    "trainer.total_training_steps=3",  # with a constant learning rate
    "actor_rollout_ref.rollout.agent.num_workers=2",
    "reward.num_workers=2",
    "harness.text_prompts=0",
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return reference(tmp_path_factory, *BASE)


@pytest.mark.parametrize("word", CHANGED)
def test_an_execution_key_changed_alone_changes_nothing_that_is_learnt(base, tmp_path, word):
    key, _, value = word.partition("=")
    train(tmp_path, *(given for given in BASE if not given.startswith(f"{key}=")), f"{key}={value}")
    run = run_dir(tmp_path, "luspo", 51)  # the same arm
    assert run.manifest()["fingerprint"] == base.manifest()["fingerprint"]
    assert_same_record(base, run, range(1, 3), ignore=("val", "testing", "val-"))


def test_the_keys_that_are_changed_are_execution_keys():
    flat = {"actor_rollout_ref.actor.optim.lr_scheduler_type": "constant"}
    assert all(is_execution(word.partition("=")[0], flat) for word in CHANGED)
    assert len(EXECUTION) > len(CHANGED)  # the others name, log, trace or need a GPU
