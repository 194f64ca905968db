"""Losses are described once: what the description says is what checks, probe, recorder and old manifests agree on."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_files import write_data, write_model

import harness.losses
from harness.config import ConfigError
from harness.doctor.rules import check
from harness.losses.registry import importance_sampling_level, own_losses, register_losses, spec_of
from harness.losses.spec import LossSpec
from harness.paths import CONF, ROOT
from harness.rundir.known_losses import AGGREGATION, LOSSES, MODE, loss_of

ALGOS = sorted(file.stem for file in (CONF / "algo").glob("*.yaml"))
ACTOR = "actor_rollout_ref.actor"
# A loss whose responses count by their length squared, in a file of its own.
MINE = """
from harness.losses.spec import LossSpec

def mine(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode="x", config=None, rollout_is_weights=None):
    length = response_mask.sum(-1, keepdim=True)
    return -((log_prob - old_log_prob).exp() * advantages * response_mask * length).sum(), {}

SPEC = LossSpec("squared", length_exponent=POWER, aggregations=("seq-mean-token-sum",), function=mine)
"""


@pytest.fixture
def squared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Put the loss into the package, with the power of |y| that it says it has."""
    from verl.trainer.ppo import core_algos

    def install(power: int) -> None:
        (tmp_path / "squared.py").write_text(MINE.replace("POWER", str(power)))
        monkeypatch.setattr(harness.losses, "__path__", [*harness.losses.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, "harness.losses.squared", raising=False)
        monkeypatch.setattr(core_algos, "POLICY_LOSS_REGISTRY", dict(core_algos.POLICY_LOSS_REGISTRY))
        register_losses()

    yield install  # type: ignore[misc]
    sys.modules.pop("harness.losses.squared", None)


def test_a_new_loss_is_one_module_and_everything_knows_it(
    squared: Callable[[int], None],
    actor: Callable[..., Any],
    flat: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    from harness.plugin import probe

    squared(2)
    assert spec_of("squared").length_exponent == 2
    config = actor("algo=grpo_sum", f"{ACTOR}.policy_loss.loss_mode=squared")
    probe.check(config)
    short, long = probe.gradient_weights(config)
    assert long / short == pytest.approx((probe.LENGTHS[1] / probe.LENGTHS[0]) ** 2)
    files = {
        "actor_rollout_ref.model.path": write_model(tmp_path / "model"),
        "data.train_files": write_data(tmp_path / "train.parquet", list(range(32))),
        "data.val_files": write_data(tmp_path / "heldout.parquet", list(range(100, 104))),
    }
    check({**flat("algo=grpo_sum"), **files, f"{ACTOR}.policy_loss.loss_mode": "squared"})
    with pytest.raises(
        ConfigError, match=r"squared with .*=seq-mean-token-mean is another loss, .*; set it to seq-mean-token-sum"
    ):
        check({**flat("algo=grpo"), **files, f"{ACTOR}.policy_loss.loss_mode": "squared"})


def test_a_description_that_is_not_true_is_found_out(squared: Callable[[int], None], actor: Callable[..., Any]) -> None:
    from harness.plugin import probe

    squared(1)
    with pytest.raises(probe.ProbeError, match=r"gives a response of 12 tokens 16 times .*; squared means 4 times"):
        probe.check(actor("algo=grpo_sum", f"{ACTOR}.policy_loss.loss_mode=squared"))


@pytest.mark.parametrize("algo", ALGOS)
def test_every_loss_is_described(algo: str, flat: Callable[..., dict[str, Any]]) -> None:
    config = flat(f"algo={algo}")
    mode = config[MODE]
    assert mode in {spec.name for spec in own_losses()} or spec_of(mode) != LossSpec(mode)
    assert config["harness.importance_sampling_level"] == importance_sampling_level(mode)


@pytest.mark.parametrize("algo", ALGOS)
def test_the_frozen_table_for_old_manifests_says_the_same(algo: str, flat: Callable[..., dict[str, Any]]) -> None:
    config = flat(f"algo={algo}")
    mode, aggregation = config[MODE], config[AGGREGATION]
    old = loss_of({"treatment": {MODE: mode, AGGREGATION: aggregation}})
    assert old == (spec_of(mode).described(aggregation) if mode in LOSSES else {})


def test_a_loss_that_is_only_a_name_is_taken_for_a_token_level_one() -> None:
    assert spec_of("clip_cov") == LossSpec("clip_cov", level="token", clips=True)
    assert importance_sampling_level("clip_cov") == "token"


def test_descriptions_need_neither_torch_nor_verl() -> None:
    code = "import sys; from harness.losses.registry import spec_of; spec_of('fspo'); "
    code += "print({'torch', 'verl'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
