"""Forks of a real run: one batch for all losses, the parent's own next batch, one update, probes before and after."""

import subprocess
import sys

import pytest
from e2e.launching import ROOT, learnt, ordered, rows, run_dir, train

from analysis import load_runs
from analysis.statistics.fork import fork_frame

pytestmark = pytest.mark.slow  # five runs
SAME = ["prompt_id", "sample", "response_hash", "tokens", "reward", "advantage"]
EXPERIMENT = "tiny_fork_gspo_2"


def fork(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.fork", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """Three steps of GSPO, with the checkpoint of step 2: its third step is what the forks' batch must be."""
    root = tmp_path_factory.mktemp("parent")
    quick = ("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=2")
    train(root, "algo=gspo", "seed=41", "trainer.total_training_steps=3", *quick)
    return root


def test_forks_share_the_batch_and_differ_by_the_loss(parent):
    run = run_dir(parent, "gspo", 41)
    done = fork(str(run.path), "--step", "2", "--algos", "gspo,luspo", "--set", f"harness.root={parent}")
    assert done.returncode == 0, done.stdout + done.stderr
    gspo, luspo = (run_dir(parent, arm, 41, EXPERIMENT) for arm in ("gspo", "luspo"))
    batch = ordered(rows(run, 3))[SAME]
    for forked in (gspo, luspo):
        record = learnt(forked)
        assert sorted(record) == [2, 3]
        assert ordered(rows(forked, 3))[SAME].equals(batch)
        assert set(rows(forked, 3)["update"]) == {1}
    assert learnt(gspo)[2]["val_response_length"] == learnt(luspo)[2]["val_response_length"]
    assert learnt(gspo)[3]["val_response_length"] != learnt(luspo)[3]["val_response_length"]

    runs = load_runs(parent / EXPERIMENT)
    assert runs.runs["fingerprint"].nunique() == 1
    frame = fork_frame(runs).set_index("arm")
    assert frame.loc["luspo", "change"] == pytest.approx(
        learnt(luspo)[3]["val_response_length"] - learnt(luspo)[2]["val_response_length"]
    )


def test_a_run_without_the_checkpoint_is_refused(parent):
    done = fork(str(run_dir(parent, "gspo", 41).path), "--step", "7")
    assert done.returncode == 1
    assert "no whole checkpoint of step 7; it has steps 2" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
