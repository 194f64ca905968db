"""The cache: a second load reads no file of a run, and no change of one goes unseen."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from fake_runs import write_attempt, write_run, write_sequences

import analysis.runs.cache
import analysis.runs.frames
from analysis.runs.load import AnalysisError, Runs, load_runs
from harness.rundir import RunDir

ROOT = Path(__file__).parents[4]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps files of any age."""
    monkeypatch.setenv("ANALYSIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(analysis.runs.cache, "SETTLED_SECONDS", -1e6)
    return tmp_path / "cache"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """One run of two attempts with metrics, a warning and sequences."""
    run = write_run(tmp_path / "runs", seconds=60.0)
    first = write_attempt(run, {1: {"response_length": 10.0}, 2: {"response_length": 20.0}}, tail='{"step": 3, "da')
    write_sequences(first, 1, tokens=[10, 11], note=["a", "b"])
    second = write_attempt(run, {2: {"response_length": 21.0, "text": "x"}, 3: {"response_length": None}})
    write_sequences(second, 2, tokens=[20, 21], note=["c", "d"])
    return run


def load(run: RunDir) -> Runs:
    return load_runs(run.path.parents[1])


def lengths(run: RunDir) -> list[float]:
    return load(run).metrics["response_length"].dropna().tolist()


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file of the run was read")

    monkeypatch.setattr(analysis.runs.frames, "merge_metrics", refuse)
    monkeypatch.setattr(analysis.runs.frames, "_read_parquet", refuse)


def test_the_second_load_reads_no_file_and_gives_the_same(
    folder: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = load_runs(run.path, cache=False)
    assert not folder.exists()
    first = load(run)
    tokens = first.sequences(["note", "tokens"])
    forbid_reading(monkeypatch)
    second = load(run)
    for runs in (first, second):
        pd.testing.assert_frame_equal(runs.metrics, without.metrics)
        pd.testing.assert_frame_equal(runs.runs.drop(columns="path"), without.runs.drop(columns="path"))
    assert len(second.runs["warnings"].item()) == 2
    pd.testing.assert_frame_equal(second.sequences(["note", "tokens"]), tokens)
    assert second.select(seed=0).sequences()["note"].tolist() == list("abcd")
    with pytest.raises(AnalysisError, match=r"1\.parquet: has no column colour"):
        second.sequences(["colour"])


def test_nothing_is_written_into_the_run(folder: Path, run: RunDir) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    load(run).sequences()
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert len(list(folder.iterdir())) == 2


def test_a_file_that_grows_is_read_again(folder: Path, run: RunDir) -> None:
    assert lengths(run) == [10.0, 21.0]
    with (run.attempts()[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "data": {"response_length": 40.0}}\n')
    assert lengths(run) == [10.0, 21.0, 40.0]


def test_a_change_of_the_same_size_is_seen_even_with_the_old_time_of_modification(folder: Path, run: RunDir) -> None:
    assert lengths(run) == [10.0, 21.0]
    file = run.attempts()[1] / "metrics.jsonl"
    old = file.stat()
    time.sleep(0.02)  # beyond the file system's clock tick, which SETTLED_SECONDS is for
    file.write_text(file.read_text().replace("21.0", "22.0"))
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert lengths(run) == [10.0, 22.0]


def test_attempts_that_come_and_go(folder: Path, run: RunDir) -> None:
    assert lengths(run) == [10.0, 21.0]
    assert load(run).sequences()["tokens"].tolist() == [10, 11, 20, 21]
    third = write_attempt(run, {2: {"response_length": 25.0}})
    write_sequences(third, 2, tokens=[25], note=["e"])
    assert lengths(run) == [10.0, 25.0]
    assert load(run).sequences()["tokens"].tolist() == [10, 11, 25]
    (third / "metrics.jsonl").unlink()
    (third / "sequences" / "2.parquet").unlink()
    assert lengths(run) == [10.0, 21.0]
    assert load(run).sequences()["tokens"].tolist() == [10, 11, 20, 21]


def test_manifest_and_status_are_always_read(folder: Path, run: RunDir) -> None:
    assert load(run).runs["state"].item() == "done"
    run.write_status("failed", error="out of memory")
    run.write_manifest({**run.manifest(), "arm": "luspo"})
    runs = load(run)
    assert runs.runs[["state", "error", "arm"]].iloc[0].to_list() == ["failed", "out of memory", "luspo"]
    assert set(runs.metrics["arm"]) == set(runs.sequences()["arm"]) == {"luspo"}


@pytest.mark.parametrize("where", ["start", "middle", "end", "all", "other"])
def test_a_damaged_cache_is_made_again(folder: Path, run: RunDir, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load(run).sequences()
    for file in folder.iterdir():
        content = bytearray(file.read_bytes())
        if where == "other":  # a Parquet file, but none of ours
            pd.DataFrame({"values": [1.0]}).to_parquet(file)
            continue
        damage = {"start": slice(0, 8), "middle": slice(4, 40), "end": slice(-8, None), "all": slice(None)}[where]
        content[damage] = bytes(len(content[damage])) if where != "all" else b""
        file.write_bytes(content)
    runs = load(run)
    assert runs.metrics["response_length"].dropna().tolist() == [10.0, 21.0]
    assert runs.sequences()["tokens"].tolist() == [10, 11, 20, 21]
    forbid_reading(monkeypatch)
    assert load(run).sequences()["tokens"].tolist() == [10, 11, 20, 21]


def test_a_file_that_changed_a_moment_ago_is_not_kept(
    folder: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis.runs.cache, "SETTLED_SECONDS", 60.0)
    load(run).sequences()
    assert not list(folder.iterdir())
    monkeypatch.setattr(analysis.runs.cache, "SETTLED_SECONDS", 0.02)
    time.sleep(0.05)
    load(run).sequences()
    assert len(list(folder.iterdir())) == 2


def test_without_a_folder_that_can_be_written_there_is_no_cache(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(analysis.runs.cache, "SETTLED_SECONDS", -1e6)
    for given in ("", str(tmp_path / "file"), str(tmp_path / "file" / "below"), "/proc/self/none"):
        monkeypatch.setenv("ANALYSIS_CACHE", given)
        runs = load(run)
        assert runs.cache is None
        assert runs.sequences()["tokens"].tolist() == [10, 11, 20, 21]


def test_a_folder_that_becomes_read_only_or_goes_away(
    folder: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = load(run)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(analysis.runs.cache.tempfile, "mkstemp", refuse)  # root may write into any folder
        assert runs.sequences()["tokens"].tolist() == [10, 11, 20, 21]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert runs.sequences()["tokens"].tolist() == [10, 11, 20, 21]


def test_the_default_is_below_results_and_only_where_there_are_results(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANALYSIS_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert load(run).cache is None
    (tmp_path / "results").mkdir()
    assert load(run).cache == tmp_path / "results" / ".cache"


def test_one_run_named_in_two_ways(folder: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings name the run as it was given, cached or not."""
    monkeypatch.chdir(run.path.parents[1])
    for given in (str(run.path), "gspo/seed=0", str(run.path), "gspo/seed=0"):
        assert all(warning.startswith(f"{given}") for warning in load_runs(given).runs["warnings"].item())


PROCESS = """
import json, sys
import analysis.runs.cache
analysis.runs.cache.SETTLED_SECONDS = -1e6
from analysis.runs.load import load_runs
for _ in range(10):
    runs = load_runs(sys.argv[1])
    tokens = runs.sequences()["tokens"].tolist()
    for file in runs.cache.glob("*.parquet"):
        file.unlink(missing_ok=True)
print(json.dumps([tokens, runs.metrics["response_length"].dropna().tolist()]))
"""


def test_two_processes_at_once(folder: Path, run: RunDir) -> None:
    """Both write, read and delete the same files all the time; neither sees half a file or an error."""
    command = [sys.executable, "-c", PROCESS, str(run.path)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(said) == [[10, 11, 20, 21], [10.0, 21.0]]
    assert not [file for file in folder.iterdir() if file.suffix != ".parquet"]  # no drafts are left
