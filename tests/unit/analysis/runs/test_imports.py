"""Runs from elsewhere: verl's JSONL and W&B, in the units and under the names of our own records."""

import inspect
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from fake_runs import write_run

from analysis.runs.imports import import_verl, join, load_wandb
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.matched import require_matched
from harness.rundir import STANDARD_METRICS, RunDir

REFERENCE = Path(__file__).parents[4] / "results" / "reference" / "tiny" / "gspo" / "seed=20"


def verl_row(step: int, **more: float) -> dict[str, float]:
    """Four responses of 10, 20, 30 and 40 x ``step`` tokens to prompts of 5 tokens, by hand."""
    return {
        "response_length/mean": 25.0 * step,
        "prompt_length/mean": 5.0,
        "perf/total_num_tokens": 100 * step + 20,
        "critic/score/mean": 0.5,
        "actor/grad_norm": 2.0,
        "actor/ppo_kl": 1e-3,
        "actor/entropy": 7.0,
        "actor/pg_clipfrac": 0.25,
        "timing_s/step": 30.0,
        **more,
    }


def write_verl(path: Path, rows: Mapping[int, Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in rows.items()))
    return path


def test_verls_names_become_ours(tmp_path: Path) -> None:
    validation = {"val-core/aime/24/acc/mean@8": 0.2, "val-core/math/acc/mean@4": 0.6, "val-core/math/acc/best@4": 0.9}
    length = {"val-aux/math/response_length/mean@4": 70.0}
    file = write_verl(tmp_path / "a.jsonl", {0: validation, 1: verl_row(1), 2: verl_row(2, **validation, **length)})
    runs = import_verl(file, "gspo", 3)
    row = runs.runs.iloc[0]
    assert row[["run", "experiment", "arm", "algo", "seed"]].to_list() == [
        "imported/gspo/seed=3", "imported", "gspo", "gspo", 3,
    ]  # fmt: skip
    assert row[["state", "last_step", "planned_steps", "fingerprint"]].to_list() == ["done", 2, 2, ""]
    assert math.isnan(row["minutes"])
    metrics = runs.metrics.set_index("step")
    assert set(STANDARD_METRICS) <= set(metrics)
    expected = {
        "response_length": 50.0, "reward": 0.5, "grad_norm": 2.0, "ppo_kl": 1e-3, "step_seconds": 30.0,
        "tokens": 200.0, "cumulative_tokens": 300.0, "val_accuracy": 0.4, "val_response_length": 70.0,
        "actor/pg_clipfrac": 0.25,
    }  # fmt: skip
    assert metrics.loc[2, list(expected)].to_dict() == pytest.approx(expected)
    for name in ("response_length", "tokens", "cumulative_tokens"):
        assert math.isnan(metrics[name].to_list()[0])
    assert metrics.loc[0, "val_accuracy"] == pytest.approx(0.4)


def test_what_means_something_else_is_not_taken_and_said(tmp_path: Path) -> None:
    runs = import_verl(write_verl(tmp_path / "a.jsonl", {1: verl_row(1)}), "gspo", 0)
    for name in ("entropy", "clip_frac_token", "clip_frac_seq", "accuracy"):
        assert runs.metrics[name].isna().all()
    said = " | ".join(runs.runs["warnings"].item())
    for part in ("pg_clipfrac", "actor/entropy", "ppo_kl", "planned steps are unknown, taken as the last one"):
        assert part in said


def test_a_real_file_of_verls_own_metrics_gives_what_the_recorder_wrote(tmp_path: Path) -> None:
    """Ours are taken out of a real file: what is left is what verl alone would have written."""
    rows, _ = RunDir(REFERENCE).metrics()
    own = {step: {key: value for key, value in data.items() if "/" in key} for step, data in rows.items()}
    imported = import_verl(write_verl(tmp_path / "a.jsonl", own), "gspo", 20, "tiny").metrics
    recorded = load_runs(REFERENCE).metrics
    for name in (
        "response_length", "reward", "grad_norm", "step_seconds", "tokens", "cumulative_tokens", "val_accuracy",
        "val_response_length",
    ):  # fmt: skip
        assert recorded[name].notna().any()
        pd.testing.assert_series_equal(imported[name], recorded[name], rtol=1e-6)
    assert imported["ppo_kl"].corr(recorded["ppo_kl"]) > 0.9  # approximate, as its warning says


def test_our_own_columns_in_an_imported_file_stay(tmp_path: Path) -> None:
    rows = {1: verl_row(1, response_length=24.0, entropy=0.5, ppo_kl=0.0)}
    runs = import_verl(write_verl(tmp_path / "a.jsonl", rows), "gspo", 0)
    assert runs.metrics[["response_length", "entropy", "ppo_kl"]].iloc[0].to_list() == [24.0, 0.5, 0.0]


def test_several_files_are_attempts(tmp_path: Path) -> None:
    first = write_verl(tmp_path / "a.jsonl", {1: verl_row(1), 2: verl_row(2), 3: verl_row(3)})
    second = write_verl(tmp_path / "b.jsonl", {3: verl_row(4)})
    with second.open("a") as file:
        file.write('{"step": 4')
    runs = import_verl([first, second], "gspo", 0, arm="gspo,clip=own", planned_steps=10)
    assert runs.metrics["response_length"].to_list() == [25.0, 50.0, 100.0]
    assert runs.metrics["cumulative_tokens"].to_list() == pytest.approx([100.0, 300.0, 700.0])
    assert runs.runs[["arm", "state", "planned_steps"]].iloc[0].to_list() == ["gspo,clip=own", "incomplete", 10]
    warnings = runs.runs["warnings"].item()
    assert "torn" in warnings[0]
    assert not any("planned" in warning for warning in warnings)
    assert runs.sequences(["tokens"]).empty
    assert runs.evals().empty


def append_verl(path: Path, rows: Mapping[int, Mapping[str, Any]]) -> None:
    before = path.read_text()
    path.write_text(before + write_verl(path, rows).read_text())


def test_a_resume_that_was_appended_is_a_later_attempt(tmp_path: Path) -> None:
    """As two files are: the validation before the resumed steps stays, what was trained from there on is replaced."""
    first = {step: verl_row(step, once=1.0) for step in (1, 2, 3, 4)}
    resumed = {2: {"val-core/a/acc/mean@1": 0.5}, 3: verl_row(9)}
    file = write_verl(tmp_path / "a.jsonl", first)
    append_verl(file, resumed)
    runs = import_verl(file, "gspo", 0)
    apart = [write_verl(tmp_path / f"{name}.jsonl", rows) for name, rows in (("b", first), ("c", resumed))]
    pd.testing.assert_frame_equal(runs.metrics, import_verl(apart, "gspo", 0).metrics)
    metrics = runs.metrics.set_index("step")
    assert metrics["response_length"].to_dict() == {1: 25.0, 2: 50.0, 3: 225.0}
    assert metrics["once"].notna().to_dict() == {1: True, 2: True, 3: False}
    assert metrics["val_accuracy"][2] == 0.5
    warning = runs.runs["warnings"].item()[0]
    assert warning == f"{file}: steps go back from 4 to 2, taken as a resumed run: 3 to 4 of before are dropped"


def test_a_file_with_several_resumes_names_each(tmp_path: Path) -> None:
    file = write_verl(tmp_path / "a.jsonl", {step: verl_row(step) for step in (1, 2, 3)})
    append_verl(file, {3: verl_row(3), 4: verl_row(4)})  # stopped after a step that no checkpoint had
    append_verl(file, {2: verl_row(7)})
    runs = import_verl(file, "gspo", 0)
    assert runs.metrics["step"].to_list() == [1, 2]
    said = [warning for warning in runs.runs["warnings"].item() if "go back" in warning]
    assert [warning.split("steps ")[1].split(",")[0] for warning in said] == [
        "go back from 3 to 3",
        "go back from 4 to 2",
    ]
    assert said[1].endswith("2 to 4 of before are dropped")


def test_a_resume_that_loses_nothing_is_none(tmp_path: Path) -> None:
    file = write_verl(tmp_path / "a.jsonl", {1: verl_row(1), 2: verl_row(2)})
    append_verl(file, {2: {"val-core/a/acc/mean@1": 0.5}, 3: verl_row(3)})
    runs = import_verl(file, "gspo", 0)
    assert runs.metrics["step"].to_list() == [1, 2, 3]
    assert not [warning for warning in runs.runs["warnings"].item() if "go back" in warning]


@pytest.mark.parametrize("steps", [[5, 6], [1, 2, 4]])
def test_cumulative_tokens_need_every_step(tmp_path: Path, steps: list[int]) -> None:
    runs = import_verl(write_verl(tmp_path / "a.jsonl", {step: verl_row(step) for step in steps}), "gspo", 0)
    assert runs.metrics["tokens"].to_list() == pytest.approx([100.0 * step for step in steps])
    assert runs.metrics["cumulative_tokens"].isna().all()
    assert "not every step from 1 is there" in " ".join(runs.runs["warnings"].item())


def test_files_that_are_none_of_verls(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match=r"gone\.jsonl: no such file"):
        import_verl(tmp_path / "gone.jsonl", "gspo", 0)
    file = tmp_path / "a.jsonl"
    for content, said in (
        ("", "no training step"),
        ('{"step": 0, "data": {"val-core/a/acc/mean@1": 1}}\n', "no training step"),
        ('{"loss": 1}\n{"loss": 2}\n', r"a\.jsonl:1: not a metrics line"),
    ):
        file.write_text(content)
        with pytest.raises(AnalysisError, match=said):
            import_verl(file, "gspo", 0)
    with pytest.raises(AnalysisError, match="no training step"):
        import_verl([], "gspo", 0)


def test_imported_runs_join_others_but_are_not_proved_matched(tmp_path: Path) -> None:
    file = write_verl(tmp_path / "a.jsonl", {1: verl_row(1), 2: verl_row(2)})
    one, other = (import_verl(file, algo, 0) for algo in ("gspo", "luspo"))
    require_matched(one)
    write_run(tmp_path, {"response_length": [1.0, 2.0], "own": [5.0, 6.0]}, arm="grpo")
    both = join([one, other, load_runs(tmp_path)])
    assert both.runs["run"].to_list() == ["imported/gspo/seed=0", "imported/luspo/seed=0", "fake/grpo/seed=0"]
    assert both.metrics["response_length"].to_list() == [25.0, 50.0, 25.0, 50.0, 1.0, 2.0]
    assert both.metrics["own"].dropna().to_list() == [5.0, 6.0]
    assert both.select(algo="luspo").metrics["step"].to_list() == [1, 2]
    with pytest.raises(AnalysisError, match="not recorded"):
        require_matched(both)
    require_matched(both, varies=["unknown"])
    with pytest.raises(AnalysisError, match="is there twice"):
        join([one, one])
    with pytest.raises(AnalysisError, match="no runs"):
        join([])


class StandInRun:
    """What ``load_wandb`` uses of ``wandb.apis.public.Run``, under its names (see the test of the real class)."""

    def __init__(self, algo: str, history: list[dict[str, Any]], **changes: Any) -> None:
        harness = {"experiment": "tiny", "arm": f"{algo},clip=own", "algo": algo, "clip": "own"}
        self.name, self.url, self.state = (
            f"{algo},clip=own seed=4",
            f"https://wandb.ai/me/length/runs/{algo}",
            "finished",
        )
        self.group, self.job_type, self.tags = "tiny", algo, [f"{algo} clip=own", "0123456789abcdef"]
        self.config = {"seed": 4, "harness": harness, "trainer": {"total_training_steps": 2}}
        self.history = history
        self.__dict__.update(changes)

    def scan_history(self) -> Iterator[dict[str, Any]]:
        return iter(self.history)


class StandInApi:
    def __init__(self, *runs: StandInRun, error: Exception | None = None) -> None:
        self.found, self.error, self.asked = runs, error, []

    def runs(self, path: str | None = None, filters: dict[str, Any] | None = None) -> Iterable[StandInRun]:
        self.asked.append((path, filters))
        if self.error:
            raise self.error
        return self.found


HISTORY = [
    {"_step": 0, "_runtime": 10.0, "_timestamp": 1.0, "val_accuracy": 0.5},
    {"_step": 1, "_runtime": 60.0, "_timestamp": 2.0, "response_length": 20.0, "grad_norm": "NaN", "clip_tokens": 3},
    {"_step": 1, "_runtime": 61.0, "_timestamp": 3.0, "extra": 1.5},
    {"_step": 2, "_runtime": 120.0, "_timestamp": 4.0, "response_length": 30.0, "grad_norm": "Infinity",
     "val/generations": {"_type": "table-file"}},
]  # fmt: skip


def test_runs_on_wandb() -> None:
    api = StandInApi(StandInRun("gspo", HISTORY), StandInRun("luspo", HISTORY[:3], state="crashed"))
    runs = load_wandb("me", "length", {"group": "tiny"}, api=api)
    assert api.asked == [("me/length", {"group": "tiny"})]
    first = runs.runs.iloc[0]
    assert first["run"] == "tiny/gspo,clip=own/seed=4"
    assert first[["algo", "clip", "state", "last_step", "planned_steps", "minutes", "fingerprint"]].to_list() == [
        "gspo", "own", "done", 2, 2, 2.0, "0123456789abcdef",
    ]  # fmt: skip
    assert runs.runs["state"].to_list() == ["done", "incomplete"]
    metrics = runs.select(algo="gspo").metrics
    assert metrics["step"].to_list() == [0, 1, 2]
    assert metrics[["response_length", "extra", "clip_tokens"]].iloc[1].to_list() == [20.0, 1.5, 3.0]
    assert metrics["grad_norm"].to_list() == pytest.approx([math.nan, math.nan, math.inf], nan_ok=True)
    assert not [name for name in metrics if str(name).startswith("_")]
    assert "dropped: val/generations" in first["warnings"][0]
    require_matched(runs)  # equal fingerprints
    assert runs.sequences(["tokens"]).empty


def test_a_finished_run_that_stopped_early_is_incomplete() -> None:
    runs = load_wandb("me", "length", api=StandInApi(StandInRun("gspo", HISTORY[:3])))
    assert runs.runs["state"].item() == "incomplete"


def test_runs_of_other_fingerprints_or_none_are_not_comparable() -> None:
    one = StandInRun("gspo", HISTORY)
    for tags, said in ((["luspo", "f" * 16], "fingerprints of .* differ"), (["luspo"], "not recorded")):
        runs = load_wandb("me", "length", api=StandInApi(one, StandInRun("luspo", HISTORY, tags=tags)))
        with pytest.raises(AnalysisError, match=said):
            require_matched(runs)


def test_what_can_go_wrong_with_wandb_is_one_line() -> None:
    with pytest.raises(AnalysisError, match=r"W&B me/length: no run found with \{'group': 'x'\}"):
        load_wandb("me", "length", {"group": "x"}, api=StandInApi())
    for error in (ValueError("Could not find\nproject length"), OSError("network is unreachable"), RuntimeError()):
        with pytest.raises(AnalysisError, match="W&B me/length: cannot be read") as caught:
            load_wandb("me", "length", api=StandInApi(error=error))
        assert "\n" not in str(caught.value)
    foreign = StandInRun("gspo", HISTORY, config={"lr": 1e-6}, name="a-b-7")
    with pytest.raises(AnalysisError, match=r"a-b-7 is no run of this harness.*'harness'"):
        load_wandb("me", "length", api=StandInApi(foreign))
    with pytest.raises(AnalysisError, match="is there twice"):
        load_wandb("me", "length", api=StandInApi(StandInRun("gspo", HISTORY), StandInRun("gspo", HISTORY)))


def test_no_login_and_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def api() -> None:
        raise RuntimeError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Api=api))
    with pytest.raises(AnalysisError, match="wandb login"):
        load_wandb("me", "length")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AnalysisError, match="cannot be read"):
        load_wandb("me", "length")


def test_the_stand_in_has_the_names_of_the_real_classes() -> None:
    from wandb.apis.public import Api, Run
    from wandb.apis.public.runs import LIGHTWEIGHT_RUN_FRAGMENT, RUN_FRAGMENT

    inspect.signature(Api.runs).bind(None, "me/length", filters={})
    inspect.signature(Run.scan_history).bind(None)
    for name in ("name", "url", "state", "config"):
        assert isinstance(inspect.getattr_static(Run, name), property)
    # The others come from the server's answer, whose fields the class offers in snake case.
    for field in ("group", "jobType", "tags"):
        assert field in LIGHTWEIGHT_RUN_FRAGMENT.split()
        assert field in RUN_FRAGMENT.split()
    run = Run.__new__(Run)
    run._attrs = {"group": "tiny", "jobType": "gspo", "tags": ["a"]}
    assert (run.group, run.job_type, run.tags) == ("tiny", "gspo", ["a"])
