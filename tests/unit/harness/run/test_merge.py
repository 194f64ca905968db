"""A finished run's responses as one file: the same rows before and after, and nothing lost wherever it is stopped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from fake_runs import write_attempt, write_run, write_sequences

from analysis.runs.load import load_runs
from harness.run.merge import main, merge
from harness.rundir import RunDir, RunDirError


def trained(root: Path, steps: Sequence[int] = (1, 2, 3), **how: Any) -> RunDir:
    """A run of one attempt with two responses a step, of step * 10 and step * 10 + 1 tokens."""
    run = write_run(root, {"response_length": [9.0] * max(steps)}, **how)
    write_steps(run, steps)
    return run


def write_steps(run: RunDir, steps: Sequence[int], plus: int = 0) -> None:
    for step in steps:
        tokens = [step * 10 + plus, step * 10 + plus + 1]
        write_sequences(run.attempts()[-1], step, tokens=tokens, kept_ratio=[0.5, 1.0])


def tokens(run: RunDir) -> list[int]:
    return load_runs(run.path).sequences(["step", "tokens"])["tokens"].tolist()


def small(run: RunDir) -> list[str]:
    return sorted(file.name for file in run.path.glob("attempts/*/sequences/*"))


def test_the_rows_stay_and_the_small_files_go(tmp_path: Path) -> None:
    run = trained(tmp_path, (1, 2, 10))
    before = load_runs(tmp_path).sequences()
    assert merge(run) == 3
    pd.testing.assert_frame_equal(load_runs(tmp_path).sequences(), before)
    assert tokens(run) == [10, 11, 20, 21, 100, 101]
    assert not list(run.path.glob("attempts/*/sequences"))
    assert [file.path for file in run.response_files()] == [run.merged]
    assert merge(run) == 0
    assert tokens(run) == [10, 11, 20, 21, 100, 101]


def test_a_step_is_a_row_group_under_todays_names(tmp_path: Path) -> None:
    run = trained(tmp_path)
    merge(run)
    with pq.ParquetFile(run.merged) as file:
        assert [file.read_row_group(at)["step"].to_pylist() for at in range(3)] == [[1, 1], [2, 2], [3, 3]]
        assert file.schema_arrow.names == ["step", "tokens", "effective_ratio"]


def test_steps_that_led_nowhere_are_left_out(tmp_path: Path) -> None:
    run = trained(tmp_path)
    write_attempt(run, {2: {"response_length": 9.0}})
    write_steps(run, (2,), plus=5)  # the later attempt went back to step 2
    assert tokens(run) == [10, 11, 25, 26]
    assert merge(run) == 2
    assert tokens(run) == [10, 11, 25, 26]
    assert small(run) == []


def test_a_column_that_one_step_lacks_is_missing_there_alone(tmp_path: Path) -> None:
    run = trained(tmp_path, (1,))
    write_sequences(run.attempts()[-1], 2, tokens=[7], reward_style=[0.25])
    merge(run)
    frame = pd.read_parquet(run.merged)
    assert frame["reward_style"].isna().tolist() == [True, True, False]
    assert frame["tokens"].tolist() == [10, 11, 7]


@pytest.mark.parametrize(("steps", "expected"), [((4,), [10, 20, 30, 45]), ((2, 3), [10, 25, 35])])
def test_a_run_that_goes_on_after_it_was_merged(tmp_path: Path, steps: Sequence[int], expected: list[int]) -> None:
    run = trained(tmp_path)
    merge(run)
    write_attempt(run, {step: {"response_length": 9.0} for step in steps})
    write_steps(run, steps, plus=5)
    assert tokens(run)[::2] == expected
    assert merge(run)
    assert tokens(run)[::2] == expected
    assert small(run) == []


def test_killed_before_the_small_files_were_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(run)
    assert run.merged.exists()
    assert len(small(run)) == 3
    assert tokens(run) == [10, 11, 20, 21, 30, 31]  # each row once
    assert merge(run) == 3
    assert tokens(run) == [10, 11, 20, 21, 30, 31]


def test_a_torn_file_is_named_and_nothing_removed(tmp_path: Path) -> None:
    run = trained(tmp_path)
    torn = run.attempts()[-1] / "sequences" / "2.parquet"
    torn.write_bytes(torn.read_bytes()[:50])
    with pytest.raises(RunDirError, match="one file a step") as error:
        merge(run)
    assert "\n" not in str(error.value)
    assert small(run) == ["1.parquet", "2.parquet", "3.parquet"]
    assert [file.name for file in run.path.glob("*.parquet*")] == []


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(RunDirError, match="No space left"):
        merge(run)
    assert tokens(run) == [10, 11, 20, 21, 30, 31]
    assert [file.name for file in run.path.glob(".sequences*")] == []


def test_the_command_merges_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, failed = trained(tmp_path), trained(tmp_path, seed=1, state="failed")
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{done.path}: 3 files are one now" in out
    assert f"{failed.path}: failed, left as it is" in out
    assert done.merged.exists()
    assert not failed.merged.exists()
    assert main(["--help"]) == 0
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
