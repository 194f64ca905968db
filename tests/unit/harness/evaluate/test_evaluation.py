"""Evaluation without a model: a stand-in answers, everything else is real."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from fake_runs import write_run
from omegaconf import OmegaConf

from harness.config import ConfigError
from harness.evaluate import evaluation
from harness.evaluate.benchmark import BENCHMARKS, load_benchmark
from harness.evaluate.command import main, report_command
from harness.evaluate.evaluation import parts
from harness.paths import ROOT
from harness.rundir import EVAL_COLUMNS, RunDir, settings_hash

QUESTIONS = 5
CONFIG = """
harness: {asset_seed: 0}
actor_rollout_ref: {model: {path: /initial}, rollout: {dtype: float32}, actor: {strategy: fsdp2}}
data: {}
reward: {reward_kwargs: {grader: exact}}
"""


class StandIn:
    """Answers right where question and sample are both even, and at step 0 never; counts what it is asked."""

    asked: list[int]
    stop_after: int
    closed: int

    def __init__(self, policy: Path, benchmark: Any, config: Any, engine: str, seed: int, gpus: int | None):
        if engine not in ("transformers", "vllm"):
            raise ConfigError(f"engine={engine}: there are transformers, vllm")
        self.initial, self.k = str(policy) == "/initial", benchmark.k

    def answers(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if StandIn.stop_after == 0:
            raise KeyboardInterrupt
        StandIn.stop_after -= 1
        indices = [question["extra_info"]["index"] for question in questions]
        StandIn.asked += indices
        return [self._row(index, sample) for index in indices for sample in range(self.k)]

    def close(self) -> None:
        StandIn.closed += 1

    def _row(self, index: int, sample: int) -> dict[str, Any]:
        right = not self.initial and index % 2 == sample % 2 == 0
        said = {"correct": int(right), "outcome": "right" if right else "wrong", "answer": str(int(right))}
        return {"question": index, "sample": sample, "tokens": 10 + sample, "truncated": False, **said}


Run = Callable[..., int]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    StandIn.asked, StandIn.stop_after, StandIn.closed = [], -1, 0
    monkeypatch.setitem(sys.modules, "harness.evaluate.sampler", SimpleNamespace(Sampler=StandIn))
    monkeypatch.setattr(evaluation, "ANSWERS", 4)  # two questions of two answers a part
    return StandIn


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every checkpoint is there."""
    real = evaluation.policy_folder
    monkeypatch.setattr(
        evaluation, "policy_folder", lambda run, config, step: Path("/trained") if step else real(run, config, step)
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    found = write_run(tmp_path / "runs", {"response_length": [1.0, 2.0]})
    found.config.write_text(CONFIG)
    rows = [{"extra_info": {"index": 10 + number}, "prompt": "?"} for number in range(QUESTIONS)]
    pd.DataFrame(rows).to_parquet(tmp_path / "questions.parquet")
    return found


@pytest.fixture
def command(run: RunDir, tmp_path: Path, stand_in: type[StandIn]) -> Run:
    """The command line with further arguments, on the run and the five questions with k=2."""

    def call(*more: str) -> int:
        given = {"run": str(run.path), "benchmark": "tiny_easy", "file": str(tmp_path / "questions.parquet"), "k": "2"}
        given |= {"engine": "transformers", **dict(argument.split("=", 1) for argument in more)}
        return main([f"{key}={value}" for key, value in given.items()])

    return call


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_benchmark_loads_and_given_values_replace_its_own() -> None:
    for file in BENCHMARKS.glob("*.yaml"):
        assert load_benchmark(file.stem).name == file.stem
    given = load_benchmark("aime24", k=4, temperature=0, max_response_length=100)
    own = asdict(load_benchmark("aime24"))
    assert asdict(given) == {**own, "k": 4, "temperature": 0.0, "max_response_length": 100}
    assert repr(given.temperature) == "0.0"  # so that 0 and 0.0 are one setting


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("aime", {}, r"benchmark=aime: no conf/benchmark/aime\.yaml; there are aime24"),
        ("aime24", {"temprature": 1}, "unknown key temprature; there are file, k, temperature"),
        ("aime24", {"name": "x"}, "unknown key name"),
        ("aime24", {"k": 0}, "k=0: must be at least 1"),
        ("aime24", {"k": 2.5}, r"k=2\.5: expected a whole number"),
        ("aime24", {"k": None}, "k=None: expected a whole number"),
        ("aime24", {"top_p": "high"}, "top_p=high: expected a number"),
    ],
)
def test_bad_benchmarks_are_refused(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_benchmark(name, **given)


@pytest.mark.parametrize(("k", "sizes"), [(1, [1024, 276]), (300, [3] * 433 + [1]), (5000, [1] * 1300)])
def test_parts_are_all_questions_in_order(k: int, sizes: list[int]) -> None:
    questions = [{"at": at} for at in range(1300)]
    found = list(parts(questions, k))
    assert [len(part) for part in found] == sizes
    assert [question for part in found for question in part] == questions


def test_a_result_has_a_row_for_each_question_and_sample(command: Run, run: RunDir, trained: None) -> None:
    assert command() == 0
    frame = pd.read_parquet(run.eval / "tiny_easy.parquet")
    assert list(frame.columns) == list(EVAL_COLUMNS)
    assert frame[["question", "sample"]].to_numpy().tolist() == [[10 + q, s] for q in range(5) for s in range(2)]
    assert set(frame["step"]) == {2}
    record = json.loads((run.eval / "tiny_easy.json").read_text())
    assert set(frame["settings"]) == {settings_hash(record["settings"])}
    # Right: sample 0 of questions 10, 12, 14.
    assert record["summary"]["avg@2"] == pytest.approx(100 * 3 / 10)
    assert record["summary"]["pass@2"] == pytest.approx(100 * 3 / 5)
    assert record["summary"]["tokens"] == 10.5
    assert record["summary"]["outcomes"] == {"right": 3, "wrong": 7}
    assert sorted(path.name for path in run.eval.iterdir()) == ["tiny_easy.json", "tiny_easy.parquet"]


def test_the_same_again_changes_nothing_and_asks_nothing(
    command: Run, run: RunDir, stand_in: type[StandIn], trained: None
) -> None:
    assert command() == 0
    before, stand_in.asked = files(run.path), []
    assert command() == 0
    assert command("temperature=1") == 0  # which the benchmark writes as 1.0
    assert files(run.path) == before
    assert stand_in.asked == []


def test_other_settings_are_refused_by_name(
    command: Run, run: RunDir, trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    before = files(run.path)
    for other in ("k=3", "temperature=0.5", "seed=1", "engine=vllm", "step=1"):
        key, value = other.split("=")
        assert command(other) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "tiny_easy.json was made with other settings" in said
        assert f"{key} (" in said
        assert f"there, {value} now)" in said
    assert files(run.path) == before


def test_settings_tell_all_but_the_step(command: Run, run: RunDir, trained: None) -> None:
    hashes = {}
    for more in ("step=1", "step=2", "temperature=0.5", "seed=1", "engine=vllm", "k=1"):
        assert command(more) == 0
        hashes[more] = pd.read_parquet(run.eval / "tiny_easy.parquet")["settings"].iloc[0]
        for file in run.eval.iterdir():
            file.unlink()
    assert hashes.pop("step=1") == hashes["step=2"]
    assert len(set(hashes.values())) == len(hashes)


def test_an_interrupted_evaluation_asks_only_what_is_missing(
    command: Run, run: RunDir, stand_in: type[StandIn], trained: None, tmp_path: Path
) -> None:
    stand_in.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        command()
    assert stand_in.asked == [10, 11]
    assert stand_in.closed == 1
    assert not run.evals()
    assert command("seed=1") == 1  # what is there was sampled otherwise
    stand_in.stop_after = -1
    assert command() == 0
    assert stand_in.asked == [10, 11, 12, 13, 14]
    continued = pd.read_parquet(run.eval / "tiny_easy.parquet")
    for file in run.eval.iterdir():
        file.unlink()
    assert command() == 0
    pd.testing.assert_frame_equal(continued, pd.read_parquet(run.eval / "tiny_easy.parquet"))


def test_parts_without_a_record_are_not_continued(
    command: Run, run: RunDir, stand_in: type[StandIn], trained: None
) -> None:
    stand_in.stop_after = 1
    with pytest.raises(KeyboardInterrupt):
        command()
    (run.eval / "tiny_easy.json").unlink()  # moved away, as a refusal advises
    stand_in.stop_after, stand_in.asked = -1, []
    assert command("temperature=0.5") == 0
    assert stand_in.asked == [10, 11, 12, 13, 14]
    assert pd.read_parquet(run.eval / "tiny_easy.parquet")["settings"].nunique() == 1


def test_killed_before_the_summary_it_is_finished(command: Run, run: RunDir, trained: None) -> None:
    assert command() == 0
    whole = files(run.eval)
    record = run.eval / "tiny_easy.json"
    record.write_text(json.dumps({"settings": json.loads(record.read_text())["settings"]}))
    assert command() == 0
    assert files(run.eval) == whole


def test_a_mistake_that_evaluated_nothing_is_mended_by_the_right_command(
    command: Run, trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("engine=sglang") == 1
    assert "engine=sglang: there are transformers, vllm" in capsys.readouterr().err
    assert command() == 0


def test_a_missing_checkpoint_is_named(command: Run, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    (run.checkpoints / "global_step_1" / "actor").mkdir(parents=True)  # not whole
    assert command("step=7") == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.endswith("checkpoints: no whole checkpoint of step 7; there are none; choose step=")
    assert not run.evals()


def test_step_0_is_the_base_arm(command: Run, run: RunDir, stand_in: type[StandIn]) -> None:
    assert command("step=0") == 0
    base = RunDir(run.path.parents[1] / "base" / "seed=0")
    manifest, own = base.manifest(), run.manifest()
    assert (manifest["arm"], manifest["algo"], manifest["planned_steps"]) == ("base", "base", 0)
    assert all(manifest[key] == own[key] for key in ("experiment", "seed", "fingerprint", "controlled"))
    assert base.status()["state"] == "done"
    assert not run.evals()
    frame = pd.read_parquet(base.evals()["tiny_easy"])
    assert set(frame["step"]) == {0}
    assert frame["correct"].sum() == 0  # the stand-in is always wrong with the configured initial model
    before, stand_in.asked = files(base.path), []
    folder = run.path.parents[1]
    assert command("step=0", f"run={folder}") == 0  # base itself is left out
    assert files(base.path) == before
    assert stand_in.asked == []
    assert sorted(path.name for path in folder.iterdir()) == ["base", "gspo"]


def test_step_0_of_several_experiments_that_start_from_one_model(command: Run, run: RunDir) -> None:
    folder = run.path.parents[2]
    for experiment, seed in (("images", 0), ("images", 1), ("mix", 0)):
        found = write_run(folder, {"response_length": [1.0]}, experiment=experiment, seed=seed,
                          controlled={"hash.model": "one"})  # fmt: skip
        found.config.write_text(CONFIG)
    assert command("step=0", f"run={folder / 'images'},{folder / 'mix'}") == 0
    bases = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("tiny_easy.parquet"))
    assert bases == ["images/base/seed=0/eval", "mix/base/seed=0/eval"]


def test_a_run_without_configuration_does_not_stop_the_others(
    command: Run, run: RunDir, trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = write_run(run.path.parents[2], {"response_length": [1.0]}, arm="elsewhere")
    assert command(f"run={elsewhere.path},{run.path}") == 1
    assert "config.yaml: missing; only runs of" in capsys.readouterr().err
    assert list(run.evals()) == ["tiny_easy"]


def test_without_a_name_the_experiments_own_benchmarks(
    command: Run, run: RunDir, trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = OmegaConf.load(run.config)
    OmegaConf.update(config, "harness.benchmarks", [], force_add=True)
    OmegaConf.save(config, run.config)
    assert command("benchmark=") == 1
    assert f"{run.path}: its experiment names no benchmarks; give some" in capsys.readouterr().err
    assert not run.evals()
    OmegaConf.update(config, "harness.benchmarks", ["tiny_easy"])
    OmegaConf.save(config, run.config)
    assert command("benchmark=") == 0
    assert list(run.evals()) == ["tiny_easy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "x"], "--run: expected key=value"),
        (["benchmark=tiny_easy"], "run= is missing"),
        (["run="], "run= is missing"),
        (["run={run}", "benchmark=none"], "benchmark=none: no conf/benchmark/none.yaml"),
        (["run={run}/nowhere", "benchmark=tiny_easy"], "no run directory there"),
        (["run={run}", "benchmark=tiny_easy", "K=3"], "unknown key K"),
        (["run={run}", "benchmark=tiny_easy", "k=many"], "k=many: expected a whole number"),
        (["run={run}", "benchmark=tiny_easy", "step=last"], "step=last: expected a whole number"),
        (["run={run}", "benchmark=tiny_easy", "seed=0.5"], "seed=0.5: expected a whole number"),
        (["run={run}", "benchmark=tiny_easy", "gpus=0"], "gpus=0: must be at least 1"),
    ],
)
def test_bad_command_lines_are_one_line(
    run: RunDir, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(run.path)
    assert main([argument.format(run=run.path) for argument in arguments]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert message in said
    assert files(run.path) == before


def test_help_lists_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "max_response_length" in capsys.readouterr().out


def test_it_ends_with_all_results_and_the_report_command(
    command: Run, run: RunDir, trained: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    out = capsys.readouterr().out
    # 5 questions; avg@2 is 3 of 10 answers, pass@2 3 of 5 questions, mean length (10 + 11) / 2, nothing cut off
    assert [line.split()[-6:] for line in out.splitlines() if "tiny_easy" in line] == [
        ["tiny_easy", "5", "30.0", "60.0", "10.5", "0.0"]
    ]
    assert out.rstrip().endswith(f"python -m analysis {run.path.parents[1]}")
    assert report_command([RunDir(ROOT / "results" / "runs" / "mine" / "gspo" / "seed1")]) == (
        "make report EXPERIMENT=mine"
    )
