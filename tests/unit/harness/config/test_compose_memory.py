"""What a process composes again comes from files that it has read before; it must be what Hydra says of the whole."""

import shutil
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.config import ConfigError, compose, flatten
from harness.paths import CONF

memory = sys.modules["harness.config.compose"]  # the package's ``compose`` is the function
LR = "actor_rollout_ref.actor.optim.lr"


def answer(words: list[str]) -> str:
    """The tree with its order and interpolations, or the refusal."""
    try:
        return OmegaConf.to_yaml(compose(words))
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize(
    "words",
    [
        ["seed=3"],
        ["algo=gspo", f"{LR}=1e-4", "experiment=text_moe", "seed=3"],
        ["algo=gspo", "algo=luspo", "seed=2"],
        ["+data.note=[1,2]", "++data.note=3", "~data.return_raw_chat"],
        ["data.seed=4", "seed=1", "data.seed=${seed}"],
        ["data={seed: 3}", "data.seed=4"],
        ["data.seed=4", "data={seed: 3}"],
        ["model_engine=megatron", "seed=1"],
        ["+mine=1", "+mine_too.a=2"],
        ["hydra.launcher.n_jobs=2", "seed=1"],
        ["+data.seed=3"],
        ["~data.no_such"],
        ["actor.optim.lr=1"],
        ["experiment=tyni", "seed=1"],
        ["data.seed=${no_such}"],
        [f"{LR}=fast"],
    ],
    ids=" ".join,
)
def test_it_is_hydras_composition_of_the_whole(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = answer(words), answer(words)
    monkeypatch.setattr(memory, "_from_memory", lambda words: None)
    assert first == again == answer(words)


def test_values_alone_need_no_file_to_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compose(["algo=gspo"])
    monkeypatch.setattr(memory.hydra, "compose", None)
    assert flatten(compose(["algo=gspo", "seed=7", f"{LR}=2e-5"]))["data.seed"] == 7


def test_what_is_done_to_a_configuration_is_done_to_that_one_alone() -> None:
    one = compose(["algo=gspo"])
    one.data.seed = 99
    assert flatten(compose(["algo=gspo"]))["data.seed"] == 0


def test_a_file_that_is_edited_meanwhile_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    monkeypatch.setattr(memory, "CONF", conf)
    words = ["algo=gspo", "seed=5"]
    assert flatten(compose(words))["harness.published_clip.low"] == 3e-4
    file = conf / "algo" / "gspo.yaml"
    file.write_text(file.read_text().replace("low: 3.0e-4", "low: 3.5e-4").replace("low: 3e-4", "low: 3.5e-4"))
    assert flatten(compose(words))["harness.published_clip.low"] == 3.5e-4


def test_a_file_that_is_no_yaml_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    file = conf / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\ndefaults: [tiny, _self_]\nharness:\n  experiment: mine\n  experiment: mine\n")
    monkeypatch.setattr(memory, "CONF", conf)
    with pytest.raises(ConfigError, match=f"no YAML: .*{file}.*line 4.*duplicate key experiment") as caught:
        memory._composed(["experiment=mine"])
    assert "\n" not in str(caught.value)
