"""Pictures through verl's multimodal path on the CPU: two steps on prompts in pictures and prompts in words."""

import numpy as np
from e2e.launching import rows, train

from harness.rundir import find_runs
from harness.tasks.mini.images import IN_WORDS


def test_two_steps_on_pictures_and_words(tmp_path):
    train(tmp_path, "experiment=mini_images_text", "algo=luspo", "trainer.total_training_steps=2",
          "trainer.test_freq=2")  # fmt: skip
    (run,) = find_runs(tmp_path)
    metrics, _ = run.metrics()
    for source in ("mini_images", "mini_dense"):
        assert f"val-core/{source}/acc/mean@1" in metrics[2]
    for step in (1, 2):
        frame = rows(run, step)
        assert frame.groupby("update").size().to_dict() == {1: 32, 2: 32, 3: 32, 4: 32}
        assert frame["accuracy"].between(0, 1).all()
        # At the first update the policy is the rollout's: the trainer's forward with pixels and M-RoPE agrees with it,
        # but for what the rollout takes from tokens that stand for pixels, 1e-5 of the probability.
        first = frame[frame["update"] == 1]
        assert (first["log_ratio"].abs() < 1e-4).all()
        assert (frame.loc[frame["update"] > 1, "log_ratio"].abs() > 1e-3).any()
        # A picture of n items takes n tokens, a blank one 4, with two around it and "=" behind.
        in_words = frame["prompt_id"] >= IN_WORDS
        assert in_words.any()
        assert (~in_words).any()
        items = [sum(digit != "0" for digit in np.base_repr(number % IN_WORDS, 8)) for number in frame["prompt_id"]]
        assert (frame["prompt_tokens"] == np.where(in_words, 4, 0) + np.array(items) + 3).all()
