"""Matched means checked: what an algorithm may change, what the fingerprint holds, and how an arm is called."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config import compose, flatten, matching

CONF = Path(__file__).resolve().parents[4] / "conf"
ALGOS, CLIPS, EXPERIMENTS = (
    sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("algo", "clip", "experiment")
)
DEFAULT = "tiny"
# Every pair for the default experiment; for the others every algorithm and every clip range at least once.
CELLS = [(DEFAULT, algo, clip) for algo in ALGOS for clip in CLIPS] + [
    (experiment, ALGOS[i % len(ALGOS)], CLIPS[i % len(CLIPS)])
    for experiment in EXPERIMENTS
    if experiment != DEFAULT
    for i in range(max(len(ALGOS), len(CLIPS)))
]
# The design's list, written down again: the only keys that conf/algo and conf/clip may set.
ALLOWED = {
    *(f"actor_rollout_ref.actor.{name}" for name in ("loss_agg_mode", "loss_scale_factor", "tau_pos", "tau_neg")),
    *(f"actor_rollout_ref.actor.clip_ratio{name}" for name in ("", "_low", "_high", "_c")),
    "algorithm.adv_estimator",
    "algorithm.norm_adv_by_std_in_grpo",
}
# verl lets the critic's aggregation follow the actor's; no run has a critic.
FOLLOWS = {"critic.loss_agg_mode", "critic.loss_scale_factor"}
HASHES = {name: f"fake-{name}" for name in matching.CONTENT.values()}
LR = "actor_rollout_ref.actor.optim.lr"
SCHEDULER = "actor_rollout_ref.actor.optim.lr_scheduler_type"
Flat = Callable[..., dict[str, Any]]


def fingerprint(flat: dict[str, Any], hashes: dict[str, str] = HASHES) -> str:
    return matching.classify(flat, hashes).fingerprint


def differing(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    missing = object()
    return {key for key in a.keys() | b.keys() if a.get(key, missing) != b.get(key, missing)}


def is_treatment(key: str) -> bool:
    return key in ALLOWED | FOLLOWS or key.startswith(("actor_rollout_ref.actor.policy_loss.", "harness."))


def cell(flat: Flat, experiment: str, algo: str, clip: str) -> dict[str, Any]:
    return flat(f"experiment={experiment}", f"algo={algo}", f"clip={clip}")


@pytest.mark.parametrize(("experiment", "algo", "clip"), CELLS)
def test_algorithm_and_clip_range_change_treatment_keys_only(flat: Flat, experiment: str, algo: str, clip: str) -> None:
    one, other = cell(flat, experiment, algo, clip), cell(flat, experiment, "grpo", "preset")
    assert (one["harness.algo"], one["harness.clip"]) == (algo, clip)
    assert {key for key in differing(one, other) if not is_treatment(key)} == set()
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm_is_an_arm_of_its_own(flat: Flat, algo: str) -> None:
    treatments = {other: matching.classify(flat(f"algo={other}"), HASHES).treatment for other in ALGOS}
    assert [other for other in ALGOS if treatments[other] == treatments[algo]] == [algo]


@pytest.mark.parametrize("seed", [1, 42])
@pytest.mark.parametrize("algo", ["grpo", "luspo"])
def test_fingerprint_is_the_same_for_every_seed(flat: Flat, algo: str, seed: int) -> None:
    assert fingerprint(flat(f"algo={algo}", f"seed={seed}")) == fingerprint(flat(f"algo={algo}"))


@pytest.mark.parametrize("seed", [1, 42])
def test_one_seed_sets_every_seed_that_training_reads(flat: Flat, seed: int) -> None:
    seeds = {
        "data.seed",
        "actor_rollout_ref.rollout.seed",
        "actor_rollout_ref.actor.data_loader_seed",
        "actor_rollout_ref.actor.fsdp_config.seed",
    }
    composed = flat("algo=luspo", f"seed={seed}")
    assert {key: composed[key] for key in seeds} == dict.fromkeys(seeds, seed)


def test_a_seed_that_is_not_the_runs_seed_is_controlled(flat: Flat) -> None:
    plain = flat("algo=luspo")
    assert fingerprint({**plain, "data.seed": 7}) != fingerprint(plain)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (LR, 1e-4),
        ("actor_rollout_ref.actor.optim.clip_grad", 10.0),
        ("actor_rollout_ref.actor.ppo_mini_batch_size", 8),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", 16),
        ("actor_rollout_ref.actor.ppo_epochs", 2),
        ("actor_rollout_ref.actor.entropy_coeff", 0.01),
        ("actor_rollout_ref.rollout.n", 4),
        ("actor_rollout_ref.rollout.temperature", 0.7),
        ("actor_rollout_ref.rollout.top_p", 0.7),
        ("actor_rollout_ref.rollout.dtype", "bfloat16"),
        ("algorithm.use_kl_in_reward", True),
        ("data.train_batch_size", 32),
        ("data.shuffle", False),
        ("data.max_response_length", 64),
        ("reward.reward_kwargs.grader", "another.grader"),
        ("a.key.of.a.newer.verl", 1),
    ],
)
def test_a_changed_controlled_key_changes_the_fingerprint(flat: Flat, key: str, value: Any) -> None:
    plain = flat("algo=luspo")
    assert plain.get(key) != value
    assert fingerprint({**plain, key: value}) != fingerprint(plain)


@pytest.mark.parametrize("name", sorted(HASHES))
def test_changed_data_or_weights_change_the_fingerprint(flat: Flat, name: str) -> None:
    plain = flat("algo=luspo")
    assert fingerprint(plain, {**HASHES, name: "other"}) != fingerprint(plain)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "/elsewhere") for key in matching.CONTENT),
        ("harness.root", "/elsewhere"),
        ("trainer.logger", ["console"]),
        ("trainer.save_freq", 1),
        ("trainer.test_freq", 5),
        ("trainer.default_local_dir", "/elsewhere"),
        ("ray_kwargs.ray_init.num_cpus", 4),
        ("actor_rollout_ref.actor.fsdp_config.param_offload", True),
        ("actor_rollout_ref.rollout.gpu_memory_utilization", 0.1),
    ],
)
def test_where_and_how_a_run_is_executed_is_not_in_the_fingerprint(flat: Flat, key: str, value: Any) -> None:
    plain = flat("algo=luspo")
    assert fingerprint({**plain, key: value}) == fingerprint(plain)


@pytest.mark.parametrize(
    ("schedule", "execution"),
    [
        ({}, True),
        ({SCHEDULER: "cosine"}, False),
        # A constant rate after a warm-up whose length is a share of the planned steps depends on them too.
        ({"actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": 0.1}, False),
        # verl takes the ratio only where no number of steps is given.
        (
            {
                "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": 0.1,
                "actor_rollout_ref.actor.optim.lr_warmup_steps": 5,
            },
            True,
        ),
    ],
    ids=["constant", "cosine", "constant_after_a_share", "constant_after_a_number"],
)
def test_planned_steps_are_execution_only_where_the_schedule_ignores_them(
    flat: Flat, schedule: dict[str, Any], execution: bool
) -> None:
    plain = {**flat("algo=luspo"), **schedule}
    kinds = matching.classify(plain, HASHES)
    assert (matching.STEPS in kinds.execution, matching.STEPS in kinds.controlled) == (execution, not execution)
    assert (fingerprint({**plain, matching.STEPS: 777}) == fingerprint(plain)) == execution


def test_every_key_is_of_exactly_one_kind(flat: Flat) -> None:
    composed = flat("algo=luspo")
    kinds = matching.classify(composed, HASHES)
    parts = [kinds.treatment, kinds.execution, kinds.seed, kinds.controlled]
    assert sum(map(len, parts)) == len(composed) + len(HASHES)
    assert {key: value for part in parts for key, value in part.items()} == {**composed, **HASHES}


def test_differences_name_both_values_and_what_is_missing() -> None:
    assert matching.differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 5, "d": 4}) == {
        "b": (2, 5),
        "c": (3, None),
        "d": (None, 4),
    }


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["algo=luspo"], "luspo"),
        (["algo=gspo", "clip=own"], "gspo,clip=own"),
        (["algo=gspo", "clip=preset"], "gspo"),
        (["algo=luspo", "seed=3", "experiment=tiny", "tracking=wandb"], "luspo"),
        (["algo=luspo", f"{LR}=2e-6"], "luspo,lr=2e-06"),
        (["algo=luspo", f"{LR}=2.0e-06"], "luspo,lr=2e-06"),
        (["algo=luspo", f"{LR}=0.000002"], "luspo,lr=2e-06"),
        (["algo=gspo", f"{LR}=1e-4", "clip=own"], "gspo,clip=own,lr=0.0001"),
        (["algo=luspo", "actor_rollout_ref.actor.ppo_epochs=2"], "luspo,ppo_epochs=2"),
        (["algo=luspo", "data.shuffle=false"], "luspo,data.shuffle=False"),
        (["algo=luspo", "data.shuffle=False"], "luspo,data.shuffle=False"),
        (["algo=luspo", "+data.new_key=7"], "luspo,new_key=7"),
        (["algo=luspo", "++data.new_key=-7"], "luspo,new_key=-7"),
        (["algo=luspo", "trainer.save_freq=1", "trainer.logger=[console]", "harness.root=/tmp/x"], "luspo"),
        (["algo=luspo", "trainer.total_training_steps=7"], "luspo"),
    ],
)
def test_an_arm_is_called_after_whatever_changes_what_is_learnt(flat: Flat, overrides: list[str], name: str) -> None:
    groups = [override for override in overrides if override.startswith(("algo=", "clip="))]
    assert matching.arm_name(flat(*groups), overrides) == name


def test_planned_steps_name_an_arm_where_the_schedule_depends_on_them(flat: Flat) -> None:
    overrides = ["algo=luspo", "trainer.total_training_steps=7", f"{SCHEDULER}=cosine"]
    name = matching.arm_name({**flat("algo=luspo"), SCHEDULER: "cosine"}, overrides)
    assert name == "luspo,lr_scheduler_type=cosine,trainer.total_training_steps=7"


def test_megatrons_schedule_has_another_name(flat: Flat) -> None:
    """Planned steps are execution where the rate is constant, whatever the engine calls its schedule."""
    moe = flatten(compose(["experiment=text_moe", "algo=luspo"]))
    assert matching.is_execution(matching.STEPS, moe)
    assert not matching.is_execution(matching.STEPS, {**moe, "actor_rollout_ref.actor.optim.lr_decay_style": "cosine"})
    assert not matching.is_execution(matching.STEPS, {**flat("algo=luspo"), SCHEDULER: "cosine"})


def test_the_order_of_overrides_does_not_matter(flat: Flat) -> None:
    overrides = ["algo=luspo", f"{LR}=1e-4", "actor_rollout_ref.actor.ppo_epochs=2", "data.shuffle=false"]
    assert matching.arm_name(flat("algo=luspo"), overrides) == matching.arm_name(flat("algo=luspo"), overrides[::-1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"{LR}=1e-4", f"{LR}=1e-5"),
        ("actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.val_kwargs.n=4"),
        ("actor_rollout_ref.rollout.temperature=0.7", "actor_rollout_ref.rollout.val_kwargs.temperature=0.7"),
        ("data.shuffle=false", "actor_rollout_ref.actor.shuffle=false"),
        ("critic.optim.lr=1e-4", f"{LR}=1e-4"),
        ("harness.sequence_clip.low=1e-3", "harness.sequence_clip.low=2e-3"),
        ("harness.sequence_clip={low:1e-3,high:2e-3}", "harness.sequence_clip={low:2e-3,high:2e-3}"),
        ("harness.published_clip={low:1e-3,high:2e-3}", "harness.published_clip={low:2e-3,high:2e-3}"),
        ("harness.clip_range.sequence.low=1e-3", "harness.clip_range.sequence.low=2e-3"),
        ("harness.mean_length=16", "harness.mean_length=32"),
        ("harness.asset_seed=1", "harness.asset_seed=2"),
    ],
)
def test_settings_that_learn_differently_are_different_arms(flat: Flat, one: str, other: str) -> None:
    plain = flat("algo=luspo_norm")
    names = [matching.arm_name(plain, ["algo=luspo_norm", override]) for override in (one, other)]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    "override",
    [
        "data.train_files=/some/where/data.parquet",
        "+data.note='two words; rm -rf *'",
        "+data.note=[1,2,{a: b}]",
        "+data.note=../../x",
        "+data.note=ümlaut",
    ],
)
def test_an_arms_name_is_one_safe_folder(flat: Flat, override: str, tmp_path: Path) -> None:
    name = matching.arm_name(flat("algo=luspo"), ["algo=luspo", override])
    assert not set(name) & set("/\\ ;*'\"[]{}:$?<>|&()\n")
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_names_stay_short_and_distinct(flat: Flat) -> None:
    names = [
        matching.arm_name(flat("algo=luspo"), ["algo=luspo", f"+data.note={'x' * 300}{i}", f"{LR}=1e-4"])
        for i in range(3)
    ]
    assert len(set(names)) == 3
    assert max(map(len, names)) <= 120


def with_paths(flat: dict[str, Any], model: Path, data: Any) -> dict[str, Any]:
    return {**flat, "actor_rollout_ref.model.path": str(model), "data.train_files": data, "data.val_files": data}


def test_content_hashes_follow_the_content_and_not_the_place(flat: Flat, tmp_path: Path) -> None:
    hashes = []
    for name, weights, data in (("a", b"1", b"d"), ("b", b"1", b"d"), ("c", b"2", b"d"), ("e", b"1", b"D")):
        folder = tmp_path / name
        (folder / "model" / "sub").mkdir(parents=True)
        (folder / "model" / "sub" / "weights").write_bytes(weights)
        (folder / "data.parquet").write_bytes(data)
        hashes.append(
            matching.content_hashes(with_paths(flat("algo=luspo"), folder / "model", str(folder / "data.parquet")))
        )
    assert set(hashes[0]) == set(matching.CONTENT.values()) - {"hash.fork"}  # only forks start from a checkpoint
    assert hashes[0] == hashes[1]
    assert {key for key in hashes[0] if hashes[0][key] != hashes[2][key]} == {"hash.model"}
    assert {key for key in hashes[0] if hashes[0][key] != hashes[3][key]} == {"hash.train_data", "hash.heldout_data"}


def test_content_hashes_see_a_renamed_file_and_the_order_of_data_files(flat: Flat, tmp_path: Path) -> None:
    model, files = tmp_path / "model", [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    model.mkdir()
    (model / "weights").write_bytes(b"1")
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]))
    paths = [str(file) for file in files]
    before = matching.content_hashes(with_paths(flat("algo=luspo"), model, paths))
    turned = matching.content_hashes(with_paths(flat("algo=luspo"), model, paths[::-1]))
    (model / "weights").rename(model / "config")
    renamed = matching.content_hashes(with_paths(flat("algo=luspo"), model, paths))
    assert before["hash.train_data"] != turned["hash.train_data"]
    assert before["hash.model"] == turned["hash.model"] != renamed["hash.model"]
    stamps = model / ".cache" / "huggingface" / "download" / "config.json.metadata"  # as `hf download` leaves them
    stamps.parent.mkdir(parents=True)
    stamps.write_text("1795354259.1")
    assert renamed == matching.content_hashes(with_paths(flat("algo=luspo"), model, paths))


def test_forks_from_other_checkpoints_are_not_matched(flat: Flat, tmp_path: Path) -> None:
    hashes = []
    for weights in (b"1", b"1", b"2"):
        folder = tmp_path / str(len(hashes))
        folder.mkdir()
        (folder / "weights.pt").write_bytes(weights)
        forked = with_paths(flat("algo=luspo"), Path("org/model"), "no.parquet") | {"harness.fork_from": str(folder)}
        hashes.append(matching.content_hashes(forked)["hash.fork"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_model_that_is_no_folder_stands_for_itself(flat: Flat) -> None:
    hashes = [
        matching.content_hashes(with_paths(flat("algo=luspo"), Path(name), "no.parquet"))["hash.model"]
        for name in ("org/model-a", "org/model-a", "org/model-b")
    ]
    assert hashes[0] == hashes[1] != hashes[2]
