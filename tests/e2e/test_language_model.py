"""The real language model, two short steps."""

import pytest
from e2e.launching import rows, train

from harness.rundir import find_runs


@pytest.mark.slow
def test_two_steps_of_a_real_language_model(tmp_path):
    """Rewards above zero, responses that end, trainer and rollout that agree in fp32, packed sequences included."""
    train(tmp_path, "experiment=smollm2", "algo=luspo", "seed=60", "trainer.total_training_steps=2",
          "data.max_response_length=48", "trainer.test_freq=-1", "trainer.save_freq=-1")  # fmt: skip
    (run,) = find_runs(tmp_path)
    for step in (1, 2):
        frame = rows(run, step)
        assert len(frame) == 32
        assert frame["rollout_logprob_diff"].abs().max() < 1e-3
        assert (~frame["truncated"]).sum() > 0
    assert sum(rows(run, step)["reward"].sum() for step in (1, 2)) > 0
