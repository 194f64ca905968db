"""An arm is one loss: runs that say otherwise are refused by name."""

from pathlib import Path

import pytest
from fake_runs import write_run

from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.matched import require_matched

METRICS = {"response_length": [1.0, 2.0]}
CLIP = "actor_rollout_ref.actor.clip_ratio_low"


def test_runs_of_one_arm_with_another_treatment_are_refused(tmp_path: Path) -> None:
    for seed, low in enumerate((0.003, 0.003, 0.2)):
        write_run(tmp_path, METRICS, seed=seed, manifest={"treatment": {CLIP: low}})
    require_matched(load_runs([tmp_path / "fake/gspo/seed=0", tmp_path / "fake/gspo/seed=1"]))
    expected = r"fake/gspo/seed=0 and fake/gspo/seed=2 are called one arm, gspo, and differ in the treatment: .*low \(0"
    with pytest.raises(AnalysisError, match=expected):
        require_matched(load_runs(tmp_path))


@pytest.mark.parametrize("word", ["algo=[dr_grpo,grpo]", "+clip=[own,shared]", "policy=[tiny,smollm2]"])
def test_a_run_of_several_files_under_one_name_is_refused(tmp_path: Path, word: str) -> None:
    write_run(tmp_path, METRICS, manifest={"overrides": ["seed=0", word]})
    with pytest.raises(AnalysisError, match=r"fake/gspo/seed=0 was started with .*several files merged under one name"):
        require_matched(load_runs(tmp_path))
    write_run(tmp_path / "other", METRICS, manifest={"overrides": ["seed=0", "data.note=[a,b]", "algo=gspo"]})
    require_matched(load_runs(tmp_path / "other"))
