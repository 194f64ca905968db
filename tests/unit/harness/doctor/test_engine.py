"""The engine check's words and plans; that it finds wrong engines is in tests/e2e/test_engine_check.py."""

from pathlib import Path
from typing import Any

import pytest

from harness.config import ConfigError, compose, flatten
from harness.config.matching import SEED
from harness.doctor import engine


def flat(*overrides: str) -> dict[str, Any]:
    return flatten(compose(overrides))


def words(*overrides: str, here: int = 8, cpu: bool = False) -> tuple[list[str], list[str]]:
    possible, missing = engine.layouts(flat(*overrides), here, cpu)
    return [one.words for one in possible], missing


def test_the_layouts_are_those_that_the_run_has() -> None:
    assert words("experiment=tiny") == (["1 rank"], [])
    shared = "a response shared by 4 ranks"
    assert words("experiment=text_dense") == (["1 rank", "2 ranks", shared], [])
    assert words("experiment=text_dense", here=2) == (["1 rank", "2 ranks"], [shared])
    assert words("experiment=text_dense", here=8, cpu=True) == (["1 rank", "2 ranks"], [shared])
    assert words("experiment=text_dense_1gpu") == (["1 rank"], [])
    megatron = [f"{key}=2" for key in engine.MEGATRON]
    assert words("experiment=text_moe") == (["1 rank", "2 ranks", *megatron], [])


def test_a_layout_changes_only_how_the_work_is_shared() -> None:
    """Loss, strategy and arithmetic are the run's; what is set is named in ``SET``."""
    from omegaconf import OmegaConf

    config = compose(["experiment=text_dense", "algo=luspo"])
    part = engine.checked_config(config, engine.Layout("2 ranks", 2), Path("/tmp"), cpu=False)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    before = flatten(OmegaConf.create(plain["actor_rollout_ref"]))
    changed = {key for key, value in flatten(part).items() if before.get(key, ...) != value}
    seeds = {key.removeprefix("actor_rollout_ref.") for key in SEED}
    assert changed <= {*engine.SET, "actor.optim.optimizer", "model.path", *seeds}


def measured(weights: tuple[float, ...], hand: tuple[float, ...], error: float) -> dict[str, Any]:
    case = {"words": "packed by tokens", "weights": list(weights), "by_hand": list(hand), "error": error}
    return {"device": "the CPU", "missing": [], "layouts": {"2 ranks": [case]}}


RIGHT = (0.75, 3.0, 1.25, 2.0)  # LUSPO's: |y| over four responses


@pytest.mark.parametrize(
    ("weights", "error", "level"),
    [
        (RIGHT, 1e-6, "ok"),
        (tuple(2 * weight for weight in RIGHT), 1.0, "failure"),  # twice the gradient, the same proportions
        ((0.25, 0.25, 0.25, 0.25), 0.8, "failure"),  # GSPO's weights
        (RIGHT, 0.5, "failure"),  # right lengths along a wrong direction
    ],
)
def test_a_wrong_gradient_is_a_failure(weights: tuple[float, ...], error: float, level: str) -> None:
    (finding,) = engine.findings(flat("experiment=tiny", "algo=luspo"), measured(weights, RIGHT, error))
    assert finding.level == level
    assert "2 ranks, packed by tokens: a response of 12 tokens weighs" in finding.found
    if level == "failure":
        assert f"{sum(weights) / sum(RIGHT):.3g} times as large as it should be" in finding.found


def test_the_weights_that_a_loss_means_do_not_come_from_the_installed_loss() -> None:
    """An installed LUSPO without its factor |y| agrees with itself on every engine, and is found all the same."""
    equal = (0.25, 0.25, 0.25, 0.25)
    (finding,) = engine.findings(flat("experiment=tiny", "algo=luspo"), measured(equal, equal, 1e-6))
    assert finding.level == "failure"
    assert "weighs 1.00 times one of 3, luspo means 4.00" in finding.found


def test_rounding_of_bf16_is_allowed_in_bf16_alone() -> None:
    noisy = measured(RIGHT, RIGHT, 0.02)
    assert [one.level for one in engine.findings(flat("experiment=text_dense", "algo=luspo"), noisy)] == ["ok"]
    assert [one.level for one in engine.findings(flat("experiment=tiny", "algo=luspo"), noisy)] == ["failure"]


def test_what_cannot_be_measured_here_is_said() -> None:
    some = {**measured(RIGHT, RIGHT, 1e-6), "missing": ["a response shared by 4 ranks"]}
    *_, last = engine.findings(flat("experiment=tiny", "algo=luspo"), some)
    assert (last.level, last.found) == ("warning", "not measured on the CPU: a response shared by 4 ranks")


def test_a_rank_that_fails_is_told_in_its_own_words() -> None:
    said = (
        "[rank0]: Traceback (most recent call last):\n[rank0]: ValueError: heads do not divide\n"
        "E1130 torch/distributed/elastic api.py:984] failed (exitcode: 1)\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: harness.plugin.engine_rank FAILED\n"
    )
    assert engine._last_error(said) == "ValueError: heads do not divide"


class TestBeforeARun:
    """On a machine with GPUs, whose answer is given here; the measurement itself is real in the end-to-end tests."""

    @pytest.fixture(autouse=True)
    def gpus(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
        monkeypatch.setenv("HARNESS_ASSETS", str(tmp_path))
        self.asked = 0

    def answer(self, monkeypatch: pytest.MonkeyPatch, error: float, fails: str = "") -> None:
        def measure(_: Any) -> dict[str, Any]:
            self.asked += 1
            if fails:
                raise ConfigError(fails)
            return measured(RIGHT, RIGHT, error)

        monkeypatch.setattr(engine, "measure", measure)

    def test_it_is_measured_once_for_each_engine_and_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer(monkeypatch, error=1e-6)
        for seed in (1, 2):
            assert engine.before_run(compose(["experiment=tiny", "algo=luspo", f"seed={seed}"])) == []
        assert self.asked == 1
        engine.before_run(compose(["experiment=tiny", "algo=luspo", "actor_rollout_ref.model.use_remove_padding=true"]))
        assert self.asked == 2

    def test_a_wrong_engine_does_not_start_a_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer(monkeypatch, error=0.5)
        with pytest.raises(ConfigError, match=r"off by 0\.5 of its length.*harness\.engine_check=false"):
            engine.before_run(compose(["experiment=tiny", "algo=luspo"]))

    def test_an_engine_that_fails_is_measured_again_next_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer(monkeypatch, 0, fails="the engine on 1 rank fails: RuntimeError: out of memory")
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"out of memory; remedy: mend that, or harness\.engine_check=false"):
                engine.before_run(compose(["experiment=tiny", "algo=luspo"]))
        assert self.asked == 2

    def test_switched_off_or_of_an_unknown_family_nothing_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer(monkeypatch, error=0.5)
        assert engine.before_run(compose(["experiment=tiny", "harness.engine_check=false"])) == []
        (said,) = engine.before_run(compose(["experiment=tiny", "actor_rollout_ref.model.path=some/other"]))
        assert said.startswith("engine: not checked: ")
        assert self.asked == 0
