"""Named sweeps: which runs a file means, those that come with the project, and what is said about a wrong one."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config import ConfigError, matching
from harness.estimate import cost
from harness.estimate.architecture import shape_of
from harness.paths import ROOT
from sweeps import definition, trials
from sweeps.definition import load, names
from sweeps.trials import Trial, trial_of, trials_of

PAPER = [name for name in names() if name.startswith("paper_")]


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., str]:
    """``written(grid=..., ...)``: the path of a sweep's file with this content."""

    def write(**content: Any) -> str:
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(file)

    return write


@pytest.fixture(autouse=True)
def _composed_once(composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "compose", lambda overrides: composed(*overrides))


def jobs(name: str) -> list[str]:
    return [" ".join(overrides) for _, overrides in load(name).jobs()]


def test_a_grid_is_every_combination(written: Callable[..., str]) -> None:
    assert jobs(written(grid={"algo": ["gspo", "luspo"], "seed": [0, 1, 2]})) == [
        "algo=gspo seed=0", "algo=gspo seed=1", "algo=gspo seed=2",
        "algo=luspo seed=0", "algo=luspo seed=1", "algo=luspo seed=2",
    ]  # fmt: skip


def test_exclusions_leave_out_what_they_match_in_all_their_keys(written: Callable[..., str]) -> None:
    grid = {"algo": ["grpo", "gspo"], "clip": ["own", "luspo"], "seed": [0, 1]}
    exclude = [{"algo": "grpo", "clip": "own"}, {"algo": "gspo", "seed": 1}]
    assert jobs(written(grid=grid, exclude=exclude)) == [
        "algo=grpo clip=luspo seed=0", "algo=grpo clip=luspo seed=1",
        "algo=gspo clip=own seed=0", "algo=gspo clip=luspo seed=0",
    ]  # fmt: skip


def test_values_are_written_in_hydras_grammar(written: Callable[..., str]) -> None:
    """As Hydra reads them again, they are what the file says."""
    fixed = {
        "trainer.val_before_train": False, "trainer.max_actor_ckpt_to_keep": None,
        "actor_rollout_ref.actor.optim.lr": 1e-6, "trainer.total_training_steps": 7,
        "harness.watch.stop_on": ["nan", "short"],
    }  # fmt: skip
    ((_, overrides),) = load(written(grid={"algo": ["gspo"]}, set=fixed)).jobs()
    config = trials.compose(overrides)
    for key, value in fixed.items():
        found = config
        for part in key.split("."):
            found = found[part]
        assert found == value, key


def test_priorities_add_up(written: Callable[..., str]) -> None:
    grid = {"algo": ["gspo", "luspo"], "seed": [0, 1]}
    rules = [{"when": {"algo": "luspo"}, "add": 2}, {"when": {"seed": 0}, "add": 0.5}]
    found = load(written(grid=grid, priority=rules)).trials()
    assert [trial.priority for trial in found] == [0.5, 0.0, 2.5, 2.0]


def test_defaults_and_what_is_told(written: Callable[..., str]) -> None:
    sweep = load(written(grid={"seed": [0]}))
    assert (sweep.name, sweep.about, sweep.retries, sweep.backoff_seconds) == ("mine", "", 3, 30.0)
    sweep = load(written(grid={"seed": [0]}, about="one line", retries=0, backoff_seconds=2.5))
    assert (sweep.about, sweep.retries, sweep.backoff_seconds) == ("one line", 0, 2.5)


def test_a_trial_is_the_run_that_training_would_do(written: Callable[..., str], flat: Any) -> None:
    """Path, steps and needs by the modules that training itself uses, for each trial by itself."""
    steps = "trainer.total_training_steps=20"
    for trial in load(written(grid={"algo": ["gspo"], "clip": ["own"], "seed": [0, 3]})).trials([steps]):
        assert trial.overrides[-1] == steps
        mine = flat(*trial.overrides)
        assert trial.path == matching.run_path(mine, list(trial.overrides))
        assert trial.path.parent.name == matching.arm_name(mine, list(trial.overrides)) == "gspo,clip=own"
        assert (trial.planned, trial.nodes, trial.gpus, trial.hours) == (20, 1, 0, None)
        assert trial.minutes == pytest.approx((32 + 20 * 16 * 8 * 0.012) / 60)
        one = cost.training(mine, shape_of(mine)).checkpoint
        assert trial.disk == mine["trainer.max_actor_ckpt_to_keep"] * one
        assert trial == trial_of(trial.overrides)  # each by itself is what all are together
    assert trial.name == "tiny/gspo,clip=own/seed=3"


def test_nodes_and_gpus_of_a_trial() -> None:
    trial = trial_of(["experiment=text_dense", "trainer.nnodes=4", "trainer.n_gpus_per_node=8"])
    assert (trial.nodes, trial.gpus) == (4, 32)
    assert trial.hours
    half = trial_of(["experiment=text_dense", "trainer.nnodes=4", "trainer.n_gpus_per_node=8",
                    f"trainer.total_training_steps={trial.planned // 2}"])  # fmt: skip
    assert half.hours == pytest.approx(trial.hours * (trial.planned // 2) / trial.planned)


def test_overrides_that_mean_one_run_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"are the same run, .*tiny/gspo/seed=1"):
        trials_of([["algo=gspo", "seed=1"], ["seed=1", "algo=gspo"]])
    with pytest.raises(ConfigError, match="are the same run"):  # seed of the command line for all
        load("factorial").trials(["seed=5"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["algo=gpso"], "gpso"),
        (["no.such.key=1"], "no.such.key"),
        (["algo=gspo", "seed=x"], "seed must be a whole number of at least 0, got 'x'"),
    ],
)
def test_what_does_not_compose_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trials_of([overrides])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


GRID = {"algo": ["gspo", "luspo"], "seed": [0, 1]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "grid is missing"),
        ({"grid": {}}, "grid is missing"),
        ({"grid": ["gspo"]}, "grid must be a mapping"),
        ({"grid": {"algo": "gspo"}}, "grid.algo must be a list of values, not 'gspo'"),
        ({"grid": {"algo": []}}, "grid.algo must be a list"),
        ({"grid": GRID, "exclud": []}, "unknown key exclud; there are about, extends, grid"),
        ({"grid": GRID, "set": ["a=1"]}, "set must be a mapping"),
        ({"grid": GRID, "exclude": {"seed": 1}}, "exclude must be a list"),
        ({"grid": GRID, "exclude": ["gspo"]}, "expected a mapping from keys of the grid"),
        ({"grid": GRID, "exclude": [{}]}, "expected a mapping"),
        ({"grid": GRID, "exclude": [{"seed": 2}]}, "seed: 2 is not in the grid, so the rule would never hold"),
        ({"grid": GRID, "exclude": [{"clip": "own"}]}, "clip: own is not in the grid"),
        ({"grid": GRID, "priority": [{"algo": "gspo"}]}, "a priority is {when: {algo: luspo}, add: 1}"),
        ({"grid": GRID, "priority": [{"when": {"algo": "grpo"}, "add": 1}]}, "algo: grpo is not in the grid"),
        ({"grid": GRID, "priority": [{"when": {"algo": "gspo"}, "add": "high"}]}, "a priority is"),
        ({"grid": GRID, "retries": "many"}, "retries must be a number"),
        ({"grid": GRID, "retries": True}, "retries must be a number"),
        ({"grid": GRID, "retries": -1}, "retries must be 0 or more, not -1"),
        ({"grid": GRID, "backoff_seconds": None}, "backoff_seconds must be a number"),
        ({"grid": GRID, "backoff_seconds": -5}, "backoff_seconds must be 0 or more, not -5"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(written: Callable[..., str], content: dict[str, Any], said: str) -> None:
    file = written(**content)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert said in str(caught.value)
    assert str(caught.value).startswith(file)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_sweeps(tmp_path: Path, written: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="no sweep nothing; there are decided, factorial, "):
        load("nothing")
    with pytest.raises(ConfigError, match=r"no sweep .*gone.yaml"):
        load(str(tmp_path / "gone.yaml"))
    file = tmp_path / "bad.yaml"
    for content, said in (
        ("grid: [", "not YAML"),
        ("- a\n", "expected the keys about, extends, grid"),
        ("", "expected the keys"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError, match=said) as caught:
            load(str(file))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="sweep mine: every combination is excluded"):
        load(written(grid={"seed": [0]}, exclude=[{"seed": 0}])).trials()


def test_a_sweep_starts_from_another(written: Callable[..., str], tmp_path: Path) -> None:
    """Grid and settings by key, lists and numbers as a whole, and never what the other is about."""
    base = {
        "about": "base", "grid": {"experiment": ["tiny"], "algo": ["gspo", "luspo"], "seed": [0, 1]},
        "set": {"a": 1, "b": 2}, "exclude": [{"algo": "gspo", "seed": 1}], "retries": 7,
        "priority": [{"when": {"algo": "luspo"}, "add": 1}],
    }  # fmt: skip
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    same = load(written(extends="base.yaml"))
    assert (same.name, same.about, same.grid, same.fixed) == ("mine", "", base["grid"], base["set"])
    assert (same.exclude, same.priority, same.retries) == (base["exclude"], base["priority"], 7)
    mine = load(written(extends="base.yaml", about="mine", grid={"seed": [1], "clip": ["own"]}, set={"b": 3, "c": 4},
                        exclude=[{"algo": "luspo"}], retries=0))  # fmt: skip
    assert mine.grid == {"experiment": ["tiny"], "algo": ["gspo", "luspo"], "seed": [1], "clip": ["own"]}
    assert mine.fixed == {"a": 1, "b": 3, "c": 4}
    assert (mine.about, mine.exclude, mine.priority, mine.retries) == ("mine", [{"algo": "luspo"}], base["priority"], 0)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump({"extends": "mine.yaml", "grid": {"algo": ["luspo"]}, "exclude": []}))
    assert jobs(str(again)) == ["experiment=tiny algo=luspo seed=1 clip=own a=1 b=3 c=4"]
    assert jobs(written(extends="factorial", grid={"seed": [9]})) == [
        f"experiment=tiny algo={algo} seed=9" for algo in ("grpo", "grpo_sum", "gspo", "luspo")
    ]


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("nothing", "extends: no sweep nothing; there are decided, factorial, "),
        ("gone.yaml", "extends: no sweep gone.yaml"),
        (3, "extends: no sweep 3"),
        ("mine.yaml", "extends goes in a circle: mine -> mine"),
        ("other.yaml", "extends goes in a circle: mine -> other -> mine"),
        ("wrong.yaml", "wrong.yaml: set must be a mapping"),
    ],
)
def test_a_wrong_base_is_told_in_one_line(
    written: Callable[..., str], tmp_path: Path, extends: str | int, said: str
) -> None:
    (tmp_path / "other.yaml").write_text("extends: mine.yaml\n")
    (tmp_path / "wrong.yaml").write_text("set: [a]\n")
    with pytest.raises(ConfigError) as caught:
        load(written(extends=extends))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_papers_settings_are_parts_of_one_sweep() -> None:
    assert sorted(job for name in PAPER for job in jobs(name)) == sorted(jobs("paper"))


def test_the_sweeps_of_the_project() -> None:
    assert {"factorial", "laptop", "onpolicy", "paper_text_dense", "paper_multimodal"} <= set(names())
    assert {file.parent for file in definition.FOLDER.glob("*.yaml")} == {ROOT / "sweeps" / "named"}
    for name in names():
        assert load(name).about
    assert len(jobs("factorial")) == 4 * 5
    assert len(jobs("onpolicy")) == 4 * 5
    assert len(jobs("laptop")) == 2 * 3 * 5
    assert len(jobs("routing_replay")) == 3 * 3


@pytest.mark.parametrize("name", ["factorial", "onpolicy", "laptop"])
def test_small_sweeps_are_runs_that_can_be_compared(name: str) -> None:
    found = load(name).trials()
    assert all(not trial.gpus for trial in found)
    arms = Counter(trial.path.parent for trial in found)
    assert set(arms.values()) == {5}
    assert len({trial.path.parent.parent for trial in found}) == (2 if name == "laptop" else 1)
    if name == "onpolicy":
        assert {trial.path.parent.parent.name for trial in found} == {"tiny_onpolicy"}


def test_the_papers_sweeps_have_each_range_once(flat: Any) -> None:
    """Three algorithms at three ranges, without those that are the same run under two names; alike in all settings."""
    ranges: dict[tuple[Any, ...], set[str]] = {}
    for chosen, overrides in load("paper_text_dense").jobs():
        values = flat(*[one for one in overrides if not one.startswith("seed=")])
        low, high = (values[f"actor_rollout_ref.actor.clip_ratio_{side}"] for side in ("low", "high"))
        ranges.setdefault((chosen["algo"], low, high), set()).add(chosen["clip"])
    assert all(len(clips) == 1 for clips in ranges.values()), ranges
    assert Counter(algo for algo, _, _ in ranges) == {"grpo": 2, "gspo": 2, "luspo": 1}
    for name in PAPER:
        same = [job.split(maxsplit=1)[1] for job in jobs(name)]
        assert same == [job.split(maxsplit=1)[1] for job in jobs("paper_text_dense")]
        assert len(same) == 5 * 3


def test_the_papers_comparison_comes_first() -> None:
    found = load("paper_text_dense").trials()
    first = {trial.overrides[2] for trial in found if trial.priority == max(one.priority for one in found)}
    assert first == {"clip=luspo"}
    assert all(isinstance(trial, Trial) and trial.gpus and trial.hours and trial.disk for trial in found)
