"""One reader a format: W&B, TensorBoard and Trackio as their own writers leave them, and tables with a mapping."""

import gzip
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from importing import imported, only, record_of, write_lines, write_trackio

from analysis.runs.load import AnalysisError
from analysis.runs.sources.settings import stated
from analysis.runs.sources.wandb_file import online_run

LENGTHS = {1: 10.0, 2: 12.5, 3: 11.0}


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ")
    assert "\n" not in said
    return said


def lengths_of(root: Path) -> dict[int, float]:
    return only(root / "cmp").metrics.set_index("step")["response_length"].dropna().to_dict()


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real offline run of wandb, logged as transformers does: W&B's own step is not the trainer's."""
    import wandb

    folder = tmp_path_factory.mktemp("offline")
    config = {"learning_rate": 1e-6, "num_generations": 8, "seed": 4, "max_steps": 3, "nested": {"a": [1, 2]}}
    run = wandb.init(project="p", dir=folder, mode="offline", config=config, settings=wandb.Settings(silent=True))
    for step, length in LENGTHS.items():
        run.log({"train/loss": 0.5, "long": "x" * 40_000})  # longer than a block of the file
        run.log({"train/completions/mean_length": length, "train/grad_norm": math.nan, "train/global_step": step})
    run.finish()
    wandb.teardown()  # its process writes the file's end
    (found,) = (folder / "wandb").glob("offline-run-*")
    return found


@pytest.mark.parametrize("form", ["folder", "above", "file"])
def test_an_offline_run_of_wandb(tmp_path: Path, offline: Path, form: str) -> None:
    (file,) = offline.glob("run-*.wandb")
    before = file.read_bytes()
    given = {"folder": offline, "above": offline.parent, "file": file}[form]
    assert imported(tmp_path, given, "--arm", "a") == 0
    assert lengths_of(tmp_path) == LENGTHS
    runs = only(tmp_path / "cmp")
    assert runs.runs[["seed", "state", "planned_steps"]].iloc[0].to_list() == [4, "done", 3]
    (manifest,) = runs.manifests.values()
    assert manifest["stated"] == {
        "actor_rollout_ref.actor.optim.lr": 1e-6, "actor_rollout_ref.rollout.n": 8, "seed": 4,
    }  # fmt: skip
    assert record_of(runs)["step"] == "train/global_step"
    assert file.read_bytes() == before


def test_half_a_file_of_wandb_is_a_partial_run(
    tmp_path: Path, offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = offline.glob("run-*.wandb")
    half = tmp_path / "half.wandb"
    half.write_bytes(file.read_bytes()[:100_000])  # in the middle of the second long row
    assert imported(tmp_path, half, "--arm", "a") == 0
    assert lengths_of(tmp_path) == {1: LENGTHS[1]}
    said = capsys.readouterr().out
    assert "damaged or torn near byte" in said
    assert "1 training steps of 3" in said
    assert only(tmp_path / "cmp").runs["state"].item() == "incomplete"


def test_a_run_of_wandbs_server() -> None:
    rows = [{"_step": 0, "train/reward": 0.5}]
    run = SimpleNamespace(scan_history=lambda: iter(rows), config={"seed": 3}, url="https://x/y", state="failed")
    asked: list[str] = []
    source = online_run("wandb:e/p/r", SimpleNamespace(run=lambda path: asked.append(path) or run))
    assert asked == ["e/p/r"]
    assert (list(source.rows()), source.settings, source.exit_code) == (rows, {"seed": 3}, 1)

    def refuse(path: str) -> Any:
        raise ValueError(f"Could not find run\n{path}")

    with pytest.raises(AnalysisError, match="wandb:e/p/r: cannot be read \\(Could not find run e/p/r\\)"):
        online_run("wandb:e/p/r", SimpleNamespace(run=refuse))


def test_event_files_of_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for name, steps in (("one", LENGTHS), ("two", {1: 99.0})):
        with SummaryWriter(str(tmp_path / "tb" / name)) as writer:
            for step, length in steps.items():
                writer.add_scalar("response_length/mean", length, step)
                writer.add_scalar("critic/score/mean", 0.25, step)
            writer.add_text("note", "no metric", 1)
            writer.add_histogram("actor/grad_norm", pd.Series([1.0, 2.0]).to_numpy(), 1)
    assert imported(tmp_path, tmp_path / "tb", "--arm", "a") == 2
    assert "event files in one, two; choose one folder with --run-name" in error_of(capsys)
    assert imported(tmp_path, tmp_path / "tb", "--arm", "a", "--run-name", "one") == 0
    assert lengths_of(tmp_path) == LENGTHS
    assert only(tmp_path / "cmp").metrics["grad_norm"].isna().all()
    assert "torn" not in capsys.readouterr().out
    (file,) = (tmp_path / "tb" / "two").iterdir()
    half = tmp_path / "half.tfevents.1"
    half.write_bytes(file.read_bytes()[:-10])
    assert imported(tmp_path, half, "--arm", "b", "--setting", "seed=abc") == 0
    assert f"{half}: its end is torn" in capsys.readouterr().out


def test_event_files_without_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    (tmp_path / "events.out.tfevents.1").write_text("x")
    assert imported(tmp_path, tmp_path / "events.out.tfevents.1", "--arm", "a") == 2
    assert "pip install tensorboard" in error_of(capsys)


@pytest.mark.parametrize("old", [False, True])
def test_a_project_of_trackio(tmp_path: Path, capsys: pytest.CaptureFixture[str], old: bool) -> None:
    rows: list[tuple[str, int, dict[str, Any]]] = [
        (run, step - 1, {"train/completions/mean_length": factor * length, "train/global_step": step})
        for run, factor in (("mine", 1), ("other", 2))
        for step, length in LENGTHS.items()
    ]
    rows.append(("mine", 9, {"train/grad_norm": "NaN", "train/global_step": 3}))
    file = write_trackio(tmp_path / "p.db", rows, old)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert imported(tmp_path / "out", file, "--arm", "a") == 2
    assert "holds 2 runs (mine, other); choose one with --run-name" in error_of(capsys)
    assert imported(tmp_path / "out", file, "--arm", "a", "--run-name", "mine") == 0
    assert lengths_of(tmp_path / "out") == LENGTHS
    assert only(tmp_path / "out").runs[["seed", "planned_steps"]].iloc[0].to_list() == ([0, 3] if old else [4, 3])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_table_with_a_mapping(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("it;who;len;acc;my loss\n1;x;10;25;3\n1;y;99;99;9\n2;x;20;;2\n")
    mapping = tmp_path / "map.yaml"
    mapping.write_text(
        "step: it\nwhere: {who: x}\nsettings: {learning_rate: 1.0e-6}\n"
        "columns: {response_length: len, accuracy: {from: acc, scale: 0.01}, mine/loss: my loss}\n"
    )
    assert imported(tmp_path, table, "--arm", "a", "--map", mapping) == 0
    runs = only(tmp_path / "cmp")
    metrics = runs.metrics.set_index("step")
    assert metrics["response_length"].to_dict() == {1: 10, 2: 20}
    assert metrics["accuracy"][1] == pytest.approx(0.25)
    assert math.isnan(metrics["accuracy"][2])  # an empty cell is not 0
    assert metrics["mine/loss"].to_list() == [3, 2]
    assert next(iter(runs.manifests.values()))["stated"] == {"actor_rollout_ref.actor.optim.lr": 1e-6}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("columns: {lenght: len}", "no metric here is called lenght"),
        ("columns: {reponse_length: len}", "the nearest is response_length"),
        ("columns: {reward: score}", "has no column score"),
        ("columns: {reward: {scale: 2}}", "expected a column, or {from: COLUMN"),
        ("columns: [reward]", "expected step, columns, settings and where"),
        ("colums: {reward: len}", "unknown key colums"),
        ("where: {who: x}", "has no column who"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_bad_mappings(tmp_path: Path, capsys: pytest.CaptureFixture[str], mapping: str, message: str) -> None:
    (tmp_path / "a.csv").write_text("step,len,reward\n1,10,0.5\n")
    (tmp_path / "map.yaml").write_text(mapping)
    assert imported(tmp_path / "out", tmp_path / "a.csv", "--arm", "a", "--map", tmp_path / "map.yaml") == 2
    assert message in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_a_chart_that_wandbs_page_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{run} - train/completions/mean_length{end}" for run in ("a-1", "b-2") for end in ("", "__MIN", "__MAX")]
    frame = pd.DataFrame({"train/global_step": list(LENGTHS), **{name: list(LENGTHS.values()) for name in names}})
    frame[names[3]] += 100
    frame.to_csv(tmp_path / "chart.csv", index=False)
    assert imported(tmp_path, tmp_path / "chart.csv", "--arm", "a") == 2
    assert "holds 2 runs (a-1, b-2)" in error_of(capsys)
    assert imported(tmp_path, tmp_path / "chart.csv", "--arm", "a", "--run-name", "b-2") == 0
    assert lengths_of(tmp_path) == {step: length + 100 for step, length in LENGTHS.items()}


def test_tables_in_other_forms(tmp_path: Path) -> None:
    frame = pd.DataFrame({"step": list(LENGTHS), "response_length": list(LENGTHS.values()), "tags": [[1]] * 3})
    frame.to_parquet(tmp_path / "a.parquet")
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as file:
        frame.to_csv(file, sep="\t", index=False)
    (tmp_path / "flat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    for arm, name in enumerate(("a.parquet", "a.tsv.gz", "flat.jsonl")):
        root = tmp_path / f"out{arm}"
        assert imported(root, tmp_path / name, "--arm", "a") == 0
        assert lengths_of(root) == LENGTHS


def test_a_table_larger_than_what_is_held_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.runs.sources import tables

    monkeypatch.setattr(tables, "CHUNK", 7)
    rows = [(step, step + 0.5) for step in range(1, 31)]
    (tmp_path / "a.csv").write_text("step,response_length\n" + "".join(f"{s},{v}\n" for s, v in rows))
    assert imported(tmp_path, tmp_path / "a.csv", "--arm", "a") == 0
    assert lengths_of(tmp_path) == dict(rows)


def test_columns_of_text_are_no_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("step,response_length,reward\n1,10,good\n2,n/a,0.5\n")
    assert imported(tmp_path, tmp_path / "a.csv", "--arm", "a") == 0
    metrics = only(tmp_path / "cmp").metrics.set_index("step")
    assert metrics["reward"].isna().to_dict() == {1: True, 2: False}
    assert lengths_of(tmp_path) == {1: 10}
    assert "values that are no numbers are left out, of reward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"epsilon": 0.2, "epsilon_high": None}, {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2}),
        ({"epsilon": 0.2, "epsilon_high": 0.28}, {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28}),
        ({"beta": 0.0}, {"use_kl_loss": False}),
        ({"beta": 0.04}, {"use_kl_loss": True}),
        ({"actor_rollout_ref": {"actor": {"clip_ratio_low": 3e-4, "use_kl_loss": False}}},
         {"clip_ratio_low": 3e-4, "use_kl_loss": False}),
        ({"epochs": 3, "learning_rate": None}, {}),
    ],
)  # fmt: skip
def test_settings_under_verls_names(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert stated(config) == {f"actor_rollout_ref.actor.{key}": value for key, value in expected.items()}


def test_no_top_k_is_the_same_in_both() -> None:
    for config in ({"top_k": None}, {"top_k": 0}, {"actor_rollout_ref": {"rollout": {"top_k": -1}}}):
        assert stated(config) == {"actor_rollout_ref.rollout.top_k": -1}


def test_a_configuration_and_single_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "a.jsonl", [(1, {"reward": 1.0})])
    (tmp_path / "config.yaml").write_text(
        "seed: 7\nactor_rollout_ref: {rollout: {n: 4}}\ntrainer: {total_training_steps: 5}"
    )
    words = ("--arm", "a", "--config", tmp_path / "config.yaml", "--setting", "temperature=0.7")
    assert imported(tmp_path, file, *words) == 0
    runs = only(tmp_path / "cmp")
    assert runs.runs[["seed", "planned_steps", "state"]].iloc[0].to_list() == [7, 5, "incomplete"]
    stated_there = next(iter(runs.manifests.values()))["stated"]
    assert stated_there == {"seed": 7, "actor_rollout_ref.rollout.n": 4, "actor_rollout_ref.rollout.temperature": 0.7}
    (tmp_path / "config.yaml").write_text("- a")
    assert imported(tmp_path, file, *words) == 2
    assert "not a configuration" in error_of(capsys)
