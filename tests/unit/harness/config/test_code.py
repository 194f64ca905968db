"""The source code behind a run: an edit that changes what is learnt changes its hash, and nothing else does."""

import sys
from pathlib import Path

import pytest

from harness.config import ConfigError, code, compose, flatten, matching
from harness.manifest import refuse_other_settings
from harness.rundir import RunDir

GRADER = '''"""A grader."""

from mine.prices import PRICE


def grade(response, ground_truth, finished):
    """Right or wrong, at a price."""
    return {"accuracy": float(response == ground_truth), "price": -PRICE * len(response)}  # a comment
'''


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own package on the path, with a grader that imports from it."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "reward.py").write_text(GRADER)
    (package / "prices.py").write_text("import numpy\n\nPRICE = 0.01\n")
    (package / "other.py").write_text("X = 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return package


def graded(name: str = "mine.reward.grade") -> dict[str, str]:
    flat = flatten(compose(["algo=luspo", "experiment=tiny", f"reward.reward_kwargs.grader={name}"]))
    return code.hashes(code.sources(flat))


def test_what_the_grader_imports_from_its_tree_is_part_of_it(tree: Path) -> None:
    assert set(code.files_of("mine.reward.grade")) == {"mine/reward.py", "mine/prices.py"}
    before = graded()
    (tree / "prices.py").write_text("import numpy\n\nPRICE = 0.1\n")
    after = graded()
    assert {key for key in before if before[key] != after[key]} == {"code.grader"}


def test_comments_docstrings_and_layout_are_no_change(tree: Path) -> None:
    before = graded()
    text = GRADER.replace('"""A grader."""', '"""Another sentence."""').replace("  # a comment", "")
    text = text.replace('    """Right or wrong, at a price."""\n', "")
    (tree / "reward.py").write_text(text.replace("\n\n\n", "\n\n\n\n"))
    (tree / "other.py").write_text("X = 2\n")  # nobody imports it
    assert graded() == before
    (tree / "reward.py").write_text(text.replace("-PRICE", "PRICE"))
    assert graded() != before


def test_relative_imports_and_paths_are_followed(tree: Path) -> None:
    (tree / "reward.py").write_text(GRADER.replace("from mine.prices", "from .prices"))
    assert set(code.files_of("mine.reward.grade")) == {"mine/reward.py", "mine/prices.py"}
    assert set(code.files_of(str(tree / "other.py"))) == {"other.py"}
    assert set(code.files_of("pkg://mine.other")) == {"mine/other.py"}
    assert code.files_of("no.such.module") == {}
    (tree / "other.py").write_text("def broken(:\n")
    with pytest.raises(ConfigError, match=r"other\.py: not readable as Python"):
        code.files_of("mine.other")


def test_an_agent_loops_file_stands_for_its_classes(tree: Path) -> None:
    loops = tree / "loops.yaml"
    loops.write_text("- name: mine\n  _target_: mine.other.Loop\n")
    assert set(code.files_of(str(loops))) == {"loops.yaml", "mine/other.py"}


def test_our_own_runs_know_their_code() -> None:
    for words in (["experiment=tiny"], ["experiment=text_dense"], ["experiment=text_dense_1gpu"]):
        found = code.sources(flatten(compose(["algo=luspo", *words])), "harness.losses.luspo")
        assert {"grader", "reward", "agent_loop", "verl", "loss"} <= set(found)
        assert "harness/losses/luspo.py" in found["loss"]
        # a new loss, or plumbing, must not make every other run another one
        files = {file for of in found.values() for file in of}
        assert not {file for file in files if file.startswith(("harness/run", "harness/doctor", "harness/config"))}
        assert not files & {"harness/losses/registry.py", "harness/losses/of_verl.py"}
        assert "verl/trainer/ppo/core_algos.py" in files


def test_the_losss_code_is_treatment_and_the_rest_controlled() -> None:
    flat = flatten(compose(["algo=luspo", "experiment=tiny"]))
    kinds = matching.classify(flat, {"code.loss": "a", "code.grader": "b", "hash.model": "c"})
    assert (kinds.treatment["code.loss"], kinds.controlled["code.grader"]) == ("a", "b")
    assert "code.loss" not in kinds.controlled


def test_a_run_is_not_continued_with_another_grader(tmp_path: Path) -> None:
    then = {"treatment": {}, "controlled": {"code.grader": "1", "x": 1}, "code": {"grader": {"mine/a.py": "1"}}}
    run = RunDir(tmp_path / "run")
    run.write_manifest({**then, "loss": {}})
    now = {**then, "controlled": {"code.grader": "2", "x": 1}, "code": {"grader": {"mine/a.py": "2"}}}
    with pytest.raises(ConfigError, match=r"code\.grader \(mine/a\.py changed\): 1 there, 2 now"):
        refuse_other_settings(run, now)
    run.write_manifest({"treatment": {}, "controlled": {"x": 1}, "loss": {}})  # from before it was recorded
    assert refuse_other_settings(run, now)["controlled"] == {"x": 1}
