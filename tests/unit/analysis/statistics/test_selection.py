"""One odd run beside finished ones is named and left out; it never ends the report, and never vanishes silently."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fake_runs import training_like, write_run

from analysis.__main__ import main
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.selection import Choice, choose
from harness.rundir import RunDir

LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode"
RATE = "actor_rollout_ref.actor.optim.lr"
SETTINGS = {"data.train_batch_size": 16, RATE: 1e-5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three matched arms of two seeds over ten steps."""
    for arm in ("grpo", "gspo", "luspo"):
        for seed in (0, 1):
            said = {"treatment": {LOSS: arm}, "step1_responses": f"of {seed}"}
            write_run(tmp_path / "runs", training_like(10, seed), experiment="mine", arm=arm, seed=seed,
                      controlled=SETTINGS, manifest=said)  # fmt: skip
    return tmp_path / "runs"


def smoke(folder: Path) -> str:
    write_run(folder, training_like(2, 7), experiment="mine", arm="luspo", seed=7, controlled=SETTINGS)
    return "planned for 2 steps, the others for 10"


def failed(folder: Path) -> str:
    write_run(folder, training_like(3, 7), experiment="mine", arm="luspo", seed=7, state="failed", planned=10,
              controlled={**SETTINGS, "data.train_batch_size": 8}, error="RuntimeError: x")  # fmt: skip
    return "data.train_batch_size"


def other_rate(folder: Path) -> str:
    write_run(folder, training_like(10, 0), experiment="mine", arm="luspo,lr=0.0001", algo="luspo",
              controlled={**SETTINGS, RATE: 1e-4})  # fmt: skip
    return f"{RATE} (1e-05 | 0.0001)"


def torn_status(folder: Path) -> str:
    run = write_run(folder, training_like(10, 7), experiment="mine", arm="luspo", seed=7, controlled=SETTINGS)
    (run.path / "status.json").write_text('{"state": "do')
    return "status.json"


def not_a_manifest(folder: Path) -> str:
    run = write_run(folder, training_like(10, 7), experiment="mine", arm="luspo", seed=7, controlled=SETTINGS)
    manifest = json.loads((run.path / "manifest.json").read_text())
    del manifest["fingerprint"]
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    return "fingerprint"


def changed(run: RunDir, **fields: Any) -> None:
    """Change the manifest as a user's editor would."""
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, **fields}))


def tampered_rate(folder: Path) -> str:
    run = write_run(folder, training_like(10, 7), experiment="mine", arm="luspo", seed=7, controlled=SETTINGS)
    changed(run, controlled={**SETTINGS, RATE: 1e-4})
    return "is not that of its controlled keys"


def another_treatment(folder: Path) -> str:
    write_run(folder, training_like(10, 7), experiment="mine", arm="luspo", seed=7, controlled=SETTINGS,
              manifest={"treatment": {LOSS: "vanilla"}})  # fmt: skip
    return f"{LOSS} (luspo | vanilla)"


def merged(folder: Path) -> str:
    write_run(folder, training_like(10, 7), experiment="mine", arm="luspo", seed=7, controlled=SETTINGS,
              manifest={"treatment": {LOSS: "luspo"}, "overrides": ["algo=[gspo,luspo]"]})  # fmt: skip
    return "several files merged under one name"


def copied(folder: Path) -> str:
    """A byte copy with another seed in its name and manifest."""
    shutil.copytree(folder / "mine" / "luspo" / "seed=1", folder / "mine" / "luspo" / "seed=7")
    changed(RunDir(folder / "mine" / "luspo" / "seed=7"), seed=7)
    return "so it is a copy"


def same_loss(folder: Path) -> str:
    write_run(folder, training_like(10, 7), experiment="mine", arm="luspo_new", seed=7, controlled=SETTINGS,
              manifest={"treatment": {LOSS: "luspo"}})  # fmt: skip
    return "those of the arm luspo, so it is the same loss"


@pytest.mark.parametrize(
    "odd",
    [
        smoke,
        failed,
        other_rate,
        torn_status,
        not_a_manifest,
        tampered_rate,
        another_treatment,
        merged,
        copied,
        same_loss,
    ],
)
def test_one_odd_run_is_named_and_the_report_is_of_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str], odd
) -> None:
    reason = odd(folder)
    assert main([str(folder), "--out", str(folder.parent / "report")]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("left out: ")]
    assert "luspo" in line
    assert reason in line
    report = json.loads((folder.parent / "report" / "report.json").read_text())
    assert len(report["runs"]) == 6
    assert [arm["n"] for arm in report["experiments"]["mine"]["arms"]] == [2, 2, 2]
    assert report["experiments"]["mine"]["comparability"]["matched"]
    assert len(report["left_out"]) == 1
    assert reason.split("'")[0] in " ".join(report["left_out"].values())
    page = (folder.parent / "report" / "index.html").read_text()
    assert "Left out of everything below" in page


def test_nothing_is_left_out_of_matched_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--out", str(folder.parent / "report")]) == 0
    assert "left out" not in capsys.readouterr().out
    assert "Left out" not in (folder.parent / "report" / "index.html").read_text()


def test_a_key_declared_to_vary_keeps_the_runs_together(folder: Path) -> None:
    other_rate(folder)
    runs = load_runs(folder)
    assert len(choose(runs).runs) == 6
    both = choose(runs, Choice(varies=[RATE]))
    assert (len(both.runs), both.left_out) == (7, {})


def test_runs_are_chosen_and_excluded_by_name_arm_and_seed(folder: Path) -> None:
    runs = load_runs(folder)
    assert set(choose(runs, Choice(only=["luspo", "gspo"])).runs["arm"]) == {"luspo", "gspo"}
    assert set(choose(runs, Choice(exclude=["seed=1"])).runs["seed"]) == {0}
    found = choose(runs, Choice(only=["mine/g*"], exclude=["mine/gspo/seed=0"]))
    assert sorted(found.runs["run"]) == ["mine/grpo/seed=0", "mine/grpo/seed=1", "mine/gspo/seed=1"]
    assert found.left_out == {
        "mine/gspo/seed=0": "excluded",
        "mine/luspo/seed=0": "not asked for",
        "mine/luspo/seed=1": "not asked for",
    }
    with pytest.raises(AnalysisError, match="no run is called 'lupso'; there are mine/grpo/seed=0"):
        choose(runs, Choice(only=["lupso"]))
    with pytest.raises(AnalysisError, match="no run is left"):
        choose(runs, Choice(exclude=["mine"]))


def test_only_broken_runs_end_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn_status(folder)
    for arm in ("grpo", "gspo"):
        shutil.rmtree(folder / "mine" / arm)
    for seed in (0, 1):
        shutil.rmtree(folder / "mine" / "luspo" / f"seed={seed}")
    assert main([str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_groups_that_vary_as_declared_must_agree_with_each_other_too(folder: Path) -> None:
    """Two groups, each like the main one but for the rate: one of them also has another grader's code."""
    for arm, rate, code in (("slow", 1e-6, "a"), ("fast", 1e-4, "b")):
        settings = {**SETTINGS, RATE: rate, "code.grader": code}
        write_run(folder, training_like(10, 0), experiment="mine", arm=arm, controlled=settings)
    chosen = choose(load_runs(folder), Choice(varies=[RATE]))
    assert len(set(chosen.runs["arm"]) & {"slow", "fast"}) == 1
    (reason,) = chosen.left_out.values()
    assert "code.grader (a | b)" in reason or "code.grader (b | a)" in reason
