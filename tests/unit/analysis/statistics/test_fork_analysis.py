"""Forks as the analysis sees them: one trained step between two validations."""

from pathlib import Path

import pytest
from fake_runs import write_attempt, write_run
from scipy import stats

from analysis import load_runs
from analysis.paper.claims import FORKS, paper_claims
from analysis.report.numbers import build_report
from analysis.runs.load import AnalysisError
from analysis.statistics.fork import fork_effects, fork_frame, is_fork
from analysis.statistics.matched import require_matched

CHANGES = {"gspo": (0.4, 0.1, 0.3), "luspo": (0.9, 1.1, 1.3)}


def write_forks(root: Path) -> None:
    for arm, changes in CHANGES.items():
        for seed, change in enumerate(changes):
            run = write_run(root, experiment="tiny_fork", arm=arm, seed=seed, planned=21)
            rows = {
                20: {"val_response_length": 30.0 + seed},
                21: {"response_length": 31.0, "val_response_length": 30.0 + seed + change},
            }
            write_attempt(run, rows)


def test_changes_and_their_intervals(tmp_path: Path) -> None:
    write_forks(tmp_path)
    runs = load_runs(tmp_path)
    assert is_fork(runs)
    frame = fork_frame(runs).set_index(["arm", "seed"])
    assert frame.loc[("luspo", 1), ["step", "before", "after"]].tolist() == pytest.approx([21, 31.0, 32.1])
    effects = fork_effects(fork_frame(runs), FORKS).set_index("arm")
    for arm, changes in CHANGES.items():
        low, high = stats.t.interval(0.95, 2, sum(changes) / 3, stats.sem(changes))
        assert effects.loc[arm, ["estimate", "low", "high"]].tolist() == pytest.approx([sum(changes) / 3, low, high])
    differences = [a - b for a, b in zip(CHANGES["luspo"], CHANGES["gspo"], strict=True)]
    assert effects.loc["luspo - gspo", ["low", "high"]].tolist() == pytest.approx(
        stats.t.interval(0.95, 2, sum(differences) / 3, stats.sem(differences))
    )
    content = build_report(runs, paper_claims())["experiments"]["tiny_fork"]
    assert [row["arm"] for row in content["fork"]] == [*CHANGES, "luspo - gspo"]


def test_a_run_of_many_steps_is_no_fork(tmp_path: Path) -> None:
    write_forks(tmp_path)
    write_run(
        tmp_path, {"response_length": [1.0, 2.0], "val_response_length": [1.0, 2.0]}, experiment="tiny_fork", arm="grpo"
    )
    runs = load_runs(tmp_path)
    assert not is_fork(runs)
    with pytest.raises(AnalysisError, match="tiny_fork/grpo/seed=0 is no fork"):
        fork_frame(runs)


def test_forks_of_several_parents_are_matched_within_a_seed_only(tmp_path: Path) -> None:
    metrics = {"response_length": [1.0]}
    for seed in range(2):
        for arm in CHANGES:
            write_run(tmp_path, metrics, arm=arm, seed=seed, controlled={"hash.fork": f"parent {seed}", "data.n": 1})
    require_matched(load_runs(tmp_path))
    write_run(tmp_path, metrics, arm="grpo", seed=1, controlled={"hash.fork": "parent 0", "data.n": 1})
    with pytest.raises(AnalysisError, match=r"hash\.fork"):
        require_matched(load_runs(tmp_path))
