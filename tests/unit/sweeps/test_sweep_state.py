"""What controllers and readers of a named sweep share: its trials, composed once, its launcher, and its few files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from harness import paths
from harness.config import ConfigError
from harness.paths import CONF
from sweeps import definition, trials
from sweeps.control import launcher, launchers
from sweeps.state import SweepState, launcher_settings

GRID = {"algo": ["gspo"], "seed": [0, 1]}


@pytest.fixture(autouse=True)
def counted(composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What has been composed, in order."""
    asked: list[tuple[str, ...]] = []

    def compose(overrides: Any) -> Any:
        asked.append(tuple(overrides))
        return composed(*overrides)

    monkeypatch.setattr(trials, "compose", compose)
    return asked


@pytest.fixture
def name(tmp_path: Path) -> str:
    """A sweep of two runs, in a file of its own."""
    return write(tmp_path, grid=GRID, set={"harness.root": str(tmp_path / "runs")})


def write(folder: Path, **content: Any) -> str:
    (folder / "mine.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / "mine.yaml")


def test_files_are_beside_the_runs(name: str, tmp_path: Path) -> None:
    state = SweepState.of(name, [])
    assert state.folder == tmp_path / "runs" / ".sweeps" / "mine"
    assert (state.lock, state.cancel_request) == (state.folder / "lock", state.folder / "cancel")
    assert [one.path for one in state.trials] == [tmp_path / "runs" / "tiny" / "gspo" / f"seed={n}" for n in (0, 1)]
    assert not (tmp_path / "runs").exists()  # to ask is not to start
    other = SweepState.of(name, [f"harness.root={tmp_path / 'other'}"])
    assert other.folder == tmp_path / "other" / ".sweeps" / "mine"
    assert other.trials[0].path == tmp_path / "other" / "tiny" / "gspo" / "seed=0"


def test_the_usual_place(tmp_path: Path) -> None:
    assert SweepState.of(write(tmp_path, grid=GRID), []).folder == paths.ROOT / "results" / "runs" / ".sweeps" / "mine"


def test_nothing_is_composed_twice(name: str, counted: list[Any]) -> None:
    state = SweepState.of(name, ["trainer.total_training_steps=7"])
    assert len(counted) == 1  # the seeds share it
    state.write()
    again = SweepState.of(name, ["trainer.total_training_steps=7"])
    assert len(counted) == 1
    assert again == state
    assert again.trials[1].planned == 7


def test_what_has_changed_is_composed_again(
    name: str, tmp_path: Path, counted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    SweepState.of(name, []).write()
    assert SweepState.of(name, ["trainer.total_training_steps=7"]).trials[0].planned == 7
    write(tmp_path, grid={**GRID, "seed": [0, 1, 2]}, set={"harness.root": str(tmp_path / "runs")})
    assert len(SweepState.of(name, []).trials) == 3
    SweepState.of(name, []).write()
    before = len(counted)
    SweepState.of(name, [])
    assert len(counted) == before
    monkeypatch.setattr("sweeps.state._sources", lambda: "a newer version")
    SweepState.of(name, [])
    assert len(counted) == before + 1


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_cache_is_no_cache(name: str, counted: list[Any], content: str) -> None:
    state = SweepState.of(name, [])
    state.write()
    (state.folder / "trials.json").write_text(content)
    assert SweepState.of(name, []) == state
    assert SweepState.last(name, []) == state


def test_a_reader_sees_what_the_last_run_was_asked_for(name: str, tmp_path: Path, counted: list[Any]) -> None:
    asked = ["trainer.total_training_steps=7", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    assert SweepState.last(name, []).trials[0].planned == 60  # never run: as it would be
    SweepState.of(name, asked).write()
    before = len(counted)
    found = SweepState.last(name, [])
    assert (found.kind, found.launcher_settings["partition"]) == ("slurm", "gpu")
    assert [one.planned for one in found.trials] == [7, 7]
    assert len(counted) == before
    assert SweepState.last(name, ["trainer.total_training_steps=9"]).trials[0].planned == 9
    assert SweepState.last(name, ["trainer.total_training_steps=9"]).kind == "local"


def test_a_reader_may_say_where_the_results_are(tmp_path: Path) -> None:
    name, root = write(tmp_path, grid=GRID), f"harness.root={tmp_path / 'there'}"
    SweepState.of(name, [root, "trainer.total_training_steps=7"]).write()
    assert SweepState.last(name, [root]).trials[0].planned == 7
    assert SweepState.last(name, [root]).trials[0].path.is_relative_to(tmp_path / "there")


def test_the_launchers_settings_are_not_the_trials(name: str) -> None:
    state = SweepState.of(name, ["hydra.launcher.n_jobs=2", "trainer.save_freq=5"])
    assert state.trials[0].overrides == (
        "algo=gspo",
        "seed=0",
        f"harness.root={state.folder.parents[1]}",
        "trainer.save_freq=5",
    )
    assert (state.kind, state.launcher_settings["n_jobs"]) == ("local", 2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hydra/launcher=joblib", "hydra/launcher=joblib: no such launcher; there are local, ray_jobs, slurm"),
        ("hydra.launcher.njobs=2", "hydra.launcher.njobs: no such setting; local has n_jobs, gpus"),
        ("hydra.launcher.gpus={", "hydra.launcher: while parsing a flow node"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir=x: expected an override key=value"),
        ("gspo", "gspo: expected an override key=value"),
        ("--force", "--force: expected an override"),
        ("algo=gpso", "gpso"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(name: str, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SweepState.of(name, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["local", "slurm", "ray_jobs"])
def test_every_launcher_takes_the_settings_of_its_file(kind: str) -> None:
    found, settings = launcher_settings([f"hydra/launcher={kind}"], 3.0)
    assert found == kind
    file = yaml.safe_load((CONF / "hydra" / "launcher" / f"{kind}.yaml").read_text())
    assert set(settings) == set(file) - {"_target_", "kind"}
    assert launcher(kind, settings).name == kind
    with pytest.raises(ConfigError):
        launcher_settings([f"hydra/launcher={kind}", "hydra.launcher.nosuch=1"], 3.0)


def test_the_launchers_and_their_files_are_the_same() -> None:
    assert set(launchers()) == {file.stem for file in (CONF / "hydra" / "launcher").glob("*.yaml")}
    with pytest.raises(ConfigError, match=r"kind=joblib: no such launcher; there are local, slurm, ray_jobs"):
        launcher("joblib", {})
    with pytest.raises(ConfigError, match=r"hydra/launcher=local: .*nosuch"):
        launcher("local", {"nosuch": 1})


def test_as_many_side_by_side_as_the_largest_run_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 20e9})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert [launcher_settings([], gb)[1]["n_jobs"] for gb in (1.0, 3.4, 15.0, 99.0)] == [16, 5, 1, 1]


def test_lists_and_mappings_of_the_command_line() -> None:
    _, settings = launcher_settings(
        ["hydra/launcher=slurm", "hydra.launcher.extra={constraint: h100}", "hydra.launcher.setup=[module load a]"], 3.0
    )
    assert (settings["extra"], settings["setup"]) == ({"constraint": "h100"}, ["module load a"])
    _, settings = launcher_settings(["hydra/launcher=ray_jobs", "hydra.launcher.clusters=[http://a:1,http://b:2]"], 3.0)
    assert settings["clusters"] == ["http://a:1", "http://b:2"]


def test_a_sweep_of_the_project_is_found_by_name(tmp_path: Path) -> None:
    state = SweepState.of("factorial", [f"harness.root={tmp_path}"])
    assert state.folder == tmp_path / ".sweeps" / "factorial"
    assert state.sweep == definition.load("factorial")
    assert len(state.trials) == 20
