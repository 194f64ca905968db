"""``python -m harness.doctor --engine`` on verl's own engine, and on engines made wrong on purpose."""

import os
import subprocess
import sys
from pathlib import Path

from harness.doctor import engine
from harness.paths import ROOT
from harness.plugin import engine_rank

# verl's worker imports the module external_lib before it builds an engine: where a fault can be planted.
LOCAL_MEAN = """
import harness.plugin.external
from verl.trainer.ppo import core_algos

def local_mean(old_log_prob, log_prob, advantages, response_mask, **_):
    "GSPO's weights, but a mean over the responses of the micro-batch in place of those of the whole batch."
    ratio = (log_prob - old_log_prob).exp()
    per_response = (ratio * advantages * response_mask).sum(-1) / response_mask.sum(-1)
    return -per_response.mean(), {}

core_algos.POLICY_LOSS_REGISTRY["gspo"] = local_mean
"""
TWICE_DIVIDED = """
import harness.plugin.external
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

forward = FSDPEngineWithLMHead.forward_step

def forward_step(self, *args, **kwargs):
    "The loss divided once more by the number of ranks."
    loss, output = forward(self, *args, **kwargs)
    return loss / self.get_data_parallel_size(), output

FSDPEngineWithLMHead.forward_step = forward_step
"""


def doctor(*overrides: str, path: Path | None = None) -> tuple[int, str]:
    env = {**os.environ, "PYTHONPATH": str(path or "")}
    command = [sys.executable, "-m", "harness.doctor", "--engine", *overrides]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_tokens_that_are_told_are_those_that_were_measured() -> None:
    assert engine_rank.LENGTHS[:2] == (engine.SHORT, engine.LONG)


def test_verls_engine_weights_responses_as_luspo_says_on_one_rank_and_two() -> None:
    status, said = doctor("experiment=tiny", "algo=luspo", "trainer.n_gpus_per_node=2")
    assert status == 0, said
    for ranks in ("1 rank", "2 ranks"):
        assert f"{ranks}, micro-batches of one response or micro-batches of two or packed by tokens: a response" in said
    assert said.count("weighs 4.00 times one of 3, luspo means 4.00") == 2
    assert "The engine weights responses as the loss says; failures: 0" in said


def test_a_loss_that_depends_on_the_micro_batches_is_found(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(LOCAL_MEAN)
    status, said = doctor("experiment=tiny", "algo=gspo", "actor_rollout_ref.model.external_lib=planted", path=tmp_path)
    assert status == 1, said
    assert "1 rank, micro-batches of one response: a response of 12 tokens weighs 1.00 times one of 3" in said
    assert "is 4 times as large as it should be" in said
    assert "is 2 times as large as it should be" in said


def test_an_engine_that_divides_twice_by_its_ranks_is_found(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(TWICE_DIVIDED)
    status, said = doctor(
        "experiment=tiny", "algo=luspo", "trainer.n_gpus_per_node=2",
        "actor_rollout_ref.model.external_lib=planted", path=tmp_path,
    )  # fmt: skip
    assert status == 1, said
    assert "ok engine 1 rank, micro-batches of one" in said
    assert "2 ranks, packed by tokens" in said
    assert said.count("is 0.5 times as large as it should be") == 3


def test_a_slip_is_one_line() -> None:
    assert doctor("--engin") == (2, "error: --engin: no option of the doctor; it has --engine and --help")
    status, said = doctor("algo=gsop")
    assert status == 1
    assert "did you mean gspo?" in said
