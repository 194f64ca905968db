"""Every configuration of the tree composes, means what the design says, and is accepted by verl itself."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.config import ConfigError, digest, flatten
from harness.tasks.registry import asset_builders, build_assets

ROOT = Path(__file__).resolve().parents[4]
CONF = ROOT / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
ALGOS, EXPERIMENTS = (sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("algo", "experiment"))
ACTOR = "actor_rollout_ref.actor"
Flat = Callable[..., dict[str, Any]]

# The design's table, written down again.
OWN = {
    "grpo": ("vanilla", "seq-mean-token-mean", 0.2, 0.28),
    "grpo_sum": ("vanilla", "seq-mean-token-sum", 0.2, 0.28),
    "gspo": ("gspo", "seq-mean-token-mean", 3e-4, 4e-4),
    "luspo": ("luspo", "seq-mean-token-sum", 2e-3, 2.5e-3),
    "luspo_norm": ("luspo", "seq-mean-token-sum-norm", 2e-3, 2.5e-3),
}
TINY = (3e-3, 4e-3)  # the experiment's own range for sequence-level losses
SEQUENCE_LEVEL = {"gspo", "luspo", "luspo_norm"}


def expected_range(algo: str, clip: str) -> tuple[float, float]:
    own, sequence = OWN[algo][2:], algo in SEQUENCE_LEVEL
    if clip == "symmetric":
        middle = sum(TINY if sequence else own) / 2
        return middle, middle
    return {
        "own": own,
        "luspo": (2e-3, 2.5e-3) if sequence else own,
        "shared": TINY,
        "preset": TINY if sequence else own,
    }[clip]


@pytest.mark.parametrize("clip", ["own", "luspo", "shared", "preset", "symmetric"])
@pytest.mark.parametrize("algo", OWN)
def test_loss_and_clip_range_are_those_of_the_design(flat: Flat, algo: str, clip: str) -> None:
    config = flat("experiment=tiny", f"algo={algo}", f"clip={clip}")
    loss_mode, aggregation, *_ = OWN[algo]
    assert (config[f"{ACTOR}.policy_loss.loss_mode"], config[f"{ACTOR}.loss_agg_mode"]) == (loss_mode, aggregation)
    low, high = expected_range(algo, clip)
    assert config[f"{ACTOR}.clip_ratio_low"] == pytest.approx(low)
    assert config[f"{ACTOR}.clip_ratio_high"] == pytest.approx(high)


@pytest.mark.parametrize("algo", ALGOS)
def test_dual_clip_is_beyond_the_largest_ratio(flat: Flat, algo: str) -> None:
    """verl clamps a token's log-ratio at 20."""
    assert flat(f"algo={algo}")[f"{ACTOR}.clip_ratio_c"] > math.exp(20)


def test_only_known_algorithms_are_in_the_table() -> None:
    assert set(OWN) <= set(ALGOS)


def overrides_of(group: str, option: str) -> tuple[str, ...]:
    """Hydra wants ``+`` for a group that the defaults list does not have."""
    entries = OmegaConf.load(CONF / "train.yaml").defaults
    defaults = {name for entry in entries if not isinstance(entry, str) for name in entry}
    return (f"{'' if group in defaults else '+'}{group}={option}", *COMPLETED.get(option, COMPLETED.get(group, ())))


# What a file leaves to the experiment that chooses it.
COMPLETED = {
    "reward_components": ("++reward.reward_kwargs.overlong.buffer=16",),
    "dapo_math_17k": ("+reward_components=accuracy",),
    "virl39k": ("+reward_components=accuracy",),
    "virl39k_dapo": ("+reward_components=accuracy",),
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_file_of_the_tree_composes_without_a_missing_value_of_ours(flat: Flat, group: str, option: str) -> None:
    config = flat(*overrides_of(group, option))
    ours = ("harness.", "data.", "trainer.", "actor_rollout_ref.actor.", "actor_rollout_ref.rollout.", "reward.reward_")
    missing = [key for key, value in config.items() if value == "???" and key.startswith(ours)]
    assert [key for key in missing if not key.startswith("reward.reward_model.")] == []
    assert config["harness.experiment"]


@pytest.mark.parametrize(
    "override", [*(f"experiment={name}" for name in EXPERIMENTS), *(f"algo={name}" for name in ALGOS)]
)
@pytest.mark.filterwarnings("ignore:Disabled critic")
def test_verl_accepts_the_configuration_and_builds_its_dataclasses(composed: Callable[..., Any], override: str) -> None:
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config
    from verl.workers.config import ActorConfig, RolloutConfig

    config = composed(override)
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert isinstance(actor, ActorConfig)
    assert isinstance(rollout, RolloutConfig)
    assert actor.policy_loss.loss_mode == config.actor_rollout_ref.actor.policy_loss.loss_mode
    assert not need_critic(config)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_log_probabilities_and_update_use_equal_micro_batches(flat: Flat, experiment: str) -> None:
    config = flat(f"experiment={experiment}")
    update = config[f"{ACTOR}.ppo_micro_batch_size_per_gpu"]
    assert config["actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"] == update
    assert config[f"{ACTOR}.use_dynamic_bsz"] == config["actor_rollout_ref.rollout.log_prob_use_dynamic_bsz"]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_verls_doubtful_defaults_are_set(flat: Flat, experiment: str) -> None:
    config = flat(f"experiment={experiment}")
    assert config[f"{ACTOR}.optim.weight_decay"] is not None
    assert config[f"{ACTOR}.strategy"] != "fsdp"
    assert config["trainer.v1.trainer_mode"] == "sync"
    assert config["actor_rollout_ref.rollout.full_determinism"] is False
    assert config["trainer.max_actor_ckpt_to_keep"] >= 2
    assert config["actor_rollout_ref.rollout.val_kwargs.do_sample"] is True


def test_composing_imports_neither_torch_nor_verl() -> None:
    code = (
        "import sys\n"
        "from harness.config import compose, flatten\n"
        "flatten(compose(['algo=luspo', 'clip=own']))\n"
        "heavy = {'torch', 'verl', 'ray', 'transformers', 'tensordict', 'pandas', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("overrides", [("algo=nope",), ("clip=nope",), ("actor_rollout_ref.actor.nope=1",)])
def test_a_mistyped_name_is_refused_when_composing(composed: Callable[..., Any], overrides: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"nope: no such algo|nope: no such clip|nope=1: no such setting"):
        composed(*overrides)


def test_flatten_keeps_lists_and_empty_mappings_as_values() -> None:
    tree = {"a": {"b": 1, "c": {"d": [1, {"x": 2}]}}, "e": {}, "f": None}
    assert flatten(tree) == {"a.b": 1, "a.c.d": [1, {"x": 2}], "e": {}, "f": None}
    assert flatten(OmegaConf.create({"a": 1, "b": {"c": "${a}"}})) == {"a": 1, "b.c": 1}


def test_digest_depends_on_the_content_and_not_on_its_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, {"a": "1"})}) == 5
    assert len(digest({})) == 16
    assert set(digest({})) <= set("0123456789abcdef")


def test_assets_are_built_by_name_and_seed_and_replaced_by_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def builder(seed: int) -> Path:
        asked.append(seed)
        return tmp_path / f"built-{seed}"

    monkeypatch.setattr("harness.tasks.registry.asset_builders", lambda: {"made": builder})
    config = OmegaConf.create(
        {
            "harness": {"asset_seed": 3},
            "actor_rollout_ref": {"model": {"path": "asset:made"}},
            "data": {"train_files": "asset:made/train.parquet", "val_files": "/given/heldout.parquet"},
        }
    )
    built = build_assets(config)
    assert built.actor_rollout_ref.model.path == str(tmp_path / "built-3")
    assert built.data.train_files == str(tmp_path / "built-3" / "train.parquet")
    assert built.data.val_files == "/given/heldout.parquet"
    assert config.data.train_files == "asset:made/train.parquet", "the given configuration keeps the name"
    assert set(asked) == {3}


def test_an_unknown_asset_is_refused_and_the_known_ones_are_named() -> None:
    config = OmegaConf.create(
        {
            "harness": {"asset_seed": 0},
            "actor_rollout_ref": {"model": {"path": "asset:nope/model"}},
            "data": {"train_files": "a", "val_files": "b"},
        }
    )
    with pytest.raises(ConfigError, match=r"no asset nope; there are .*tiny"):
        build_assets(config)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_asset_that_an_experiment_names_can_be_built(flat: Flat, experiment: str) -> None:
    config = flat(f"experiment={experiment}")
    for key in ("actor_rollout_ref.model.path", "data.train_files", "data.val_files"):
        for value in config[key] if isinstance(config[key], list) else [config[key]]:
            if value.startswith("asset:"):
                name = value.removeprefix("asset:").partition("/")[0]
                assert name in asset_builders()
