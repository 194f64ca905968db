"""The run directory: atomic files, attempts merged, bad lines reported where they are, states that tell the truth."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_runs import write_attempt, write_run

from harness.rundir import (
    SCHEMA_VERSION,
    STALE_SECONDS,
    STATES,
    RunDir,
    RunDirError,
    changed_files,
    find_runs,
    seal,
    unseal,
    write_json,
)


def length(value: float, **more: Any) -> dict[str, Any]:
    return {"response_length": value, **more}


def test_written_json_is_read_back_and_leaves_no_draft(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"b": 1, "a": [1.5, None, "ü"]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"a": [1.5, None, "ü"], "b": 1}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_content_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"values": [0] * 5000})
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen.append(len(set(json.loads(path.read_text())["values"])))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        write_json(path, {"values": [i] * 5000})
    stop.set()
    reader.join()
    assert seen
    assert set(seen) == {1}


def test_nothing_is_created_by_looking(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.attempts() == []
    assert run.metrics() == ({}, [])
    assert run.step_files() == {}
    assert run.last_step() == 0
    assert not run.path.exists()


def test_manifest_carries_the_schema(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_manifest({"arm": "luspo"})
    assert run.manifest() == {"schema": SCHEMA_VERSION, "arm": "luspo"}


def test_a_newer_schema_is_refused_by_file_and_number(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_manifest({"schema": SCHEMA_VERSION + 1})
    with pytest.raises(RunDirError, match=rf"manifest\.json: schema {SCHEMA_VERSION + 1} is newer .*{SCHEMA_VERSION}"):
        run.manifest()


@pytest.mark.parametrize("read", [RunDir.manifest, RunDir.status], ids=["manifest", "status"])
def test_a_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(RunDirError, match=rf"{read.__name__}\.json: missing"):
        read(RunDir(tmp_path))


@pytest.mark.parametrize("text", ["", '{"schema": 1, ', "no json"])
def test_a_torn_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunDirError, match=r"manifest\.json: not valid JSON"):
        RunDir(tmp_path).manifest()


def test_status_fields_merge_and_the_heartbeat_moves(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_status("planned", attempt=1, planned_steps=60)
    before = run.status()["heartbeat"]
    time.sleep(0.01)
    run.write_status("done", last_step=60)
    status = run.status()
    assert (status["state"], status["attempt"], status["planned_steps"], status["last_step"]) == ("done", 1, 60, 60)
    assert status["heartbeat"] > before


def test_an_unknown_state_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        RunDir(tmp_path).write_status("finished")


@pytest.mark.parametrize("state", sorted(set(STATES) - {"running"}))
def test_other_states_do_not_need_a_living_process(tmp_path: Path, state: str) -> None:
    run = RunDir(tmp_path)
    run.write_status(state, pid=dead_pid(), host=os.uname().nodename)
    assert run.status()["state"] == state


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_running_with_a_living_process_reads_running(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_status("running", pid=os.getpid(), host=os.uname().nodename)
    assert run.status()["state"] == "running"


@pytest.mark.parametrize("pid", [{}, {"pid": None}], ids=["no_pid", "null_pid"])
def test_running_without_a_process_reads_incomplete(tmp_path: Path, pid: dict[str, Any]) -> None:
    run = RunDir(tmp_path)
    run.write_status("running", host=os.uname().nodename, **pid)
    assert run.status()["state"] == "incomplete"


def test_running_with_a_dead_process_reads_incomplete_and_says_why(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_status("running", pid=dead_pid(), host=os.uname().nodename)
    assert run.status()["state"] == "incomplete"
    assert "gone" in run.status()["error"]
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "running", "reading must not write"


@pytest.mark.parametrize(("age", "state"), [(0, "running"), (2 * STALE_SECONDS, "incomplete")])
def test_on_another_host_the_heartbeat_tells(tmp_path: Path, age: float, state: str) -> None:
    write_json(
        tmp_path / "status.json",
        {"state": "running", "host": "another-host", "pid": 1, "heartbeat": time.time() - age},
    )
    assert RunDir(tmp_path).status()["state"] == state


def test_attempts_are_numbered_from_1_and_sorted_as_numbers(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert [run.new_attempt().name for _ in range(3)] == ["01", "02", "03"]
    (tmp_path / "attempts" / "100").mkdir()
    (tmp_path / "attempts" / "notes").mkdir()
    assert [path.name for path in run.attempts()] == ["01", "02", "03", "100"]
    assert run.new_attempt().name == "101"
    assert (tmp_path / "attempts" / "101" / "sequences").is_dir()


def test_attempts_merge_by_step_and_key_and_the_later_one_wins(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_attempt(run, {0: {"val": 0.1}, 1: length(10.0, a=1), 2: length(11.0, a=2, val=0.2), 3: length(12.0, a=3)})
    write_attempt(run, {2: {"val": 0.3}, 3: length(30.0), 4: length(31.0, a=4)})
    merged, warnings = run.metrics()
    assert warnings == []
    assert list(merged) == [0, 1, 2, 3, 4]
    assert merged[2] == length(11.0, a=2, val=0.3), "a resume's validation row leaves the training row in place"
    assert merged[3]["response_length"] == 30.0
    assert merged[4] == length(31.0, a=4)
    assert run.last_step() == 4


def test_steps_that_an_earlier_attempt_trained_after_the_resume_led_nowhere(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_attempt(run, {step: length(float(step)) for step in range(1, 8)})
    write_attempt(run, {3: {"val": 1.0}, 4: length(40.0), 5: length(50.0)})
    merged, _ = run.metrics()
    assert {step: row.get("response_length") for step, row in merged.items()} == {1: 1, 2: 2, 3: 3, 4: 40, 5: 50}
    assert run.last_step() == 5


def test_an_attempt_that_only_validated_takes_nothing_away(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_attempt(run, {step: length(float(step)) for step in (1, 2, 3)})
    write_attempt(run, {2: {"val": 1.0}})
    merged, _ = run.metrics()
    assert [merged[step]["response_length"] for step in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert run.last_step() == 3


@pytest.mark.parametrize("tail", ['{"step": 2, "da', '{"step": 2}', "[1, 2]", "17"])
def test_a_torn_last_line_is_dropped_and_reported_by_file(tmp_path: Path, tail: str) -> None:
    run = write_run(tmp_path)
    folder = write_attempt(run, {1: length(5.0)}, tail=tail)
    merged, warnings = run.metrics()
    assert merged == {1: length(5.0)}
    (warning,) = warnings
    assert str(folder / "metrics.jsonl") in warning
    assert "torn" in warning


def test_a_torn_line_of_one_attempt_does_not_hide_the_next_attempt(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_attempt(run, {1: length(5.0)}, tail='{"step": 2, "da')
    write_attempt(run, {2: length(6.0)})
    merged, warnings = run.metrics()
    assert list(merged) == [1, 2]
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "bad", ['{"step": 2, "da', "no json", '{"data": {}}', '{"step": 2, "data": 5}', '{"step": "x", "data": {}}', "[]"]
)
def test_a_bad_line_elsewhere_is_an_error_with_file_and_line(tmp_path: Path, bad: str) -> None:
    run = write_run(tmp_path)
    folder = write_attempt(run, {1: length(5.0)}, tail=f'{bad}\n{{"step": 3, "data": {{}}}}\n')
    with pytest.raises(RunDirError, match=r"metrics\.jsonl:2: ") as error:
        run.metrics()
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_last_line_that_was_finished_is_no_torn_one(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_attempt(run, {1: length(5.0)}, tail='{"step": 2, "da\n')
    with pytest.raises(RunDirError, match=r"metrics\.jsonl:2: "):
        run.metrics()


def test_blank_lines_and_a_missing_metrics_file_are_no_errors(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    run.new_attempt()
    write_attempt(run, {1: length(5.0)}, tail="\n\n")
    assert run.metrics() == ({1: length(5.0)}, [])


def write_steps(folder: Path, steps: Sequence[int]) -> None:
    for step in steps:
        (folder / "sequences" / f"{step}.parquet").touch()


def test_sequences_files_follow_the_same_rule_and_drafts_are_ignored(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first, second = run.new_attempt(), run.new_attempt()
    write_steps(first, range(1, 13))
    write_steps(second, (3, 4))
    (second / "sequences" / ".5.parquet").touch()
    files = run.step_files()
    assert list(files) == [1, 2, 3, 4]
    assert [files[step].parent.parent for step in files] == [first, first, second, second]


def test_find_runs_follows_links_and_is_not_caught_in_a_circle(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "elsewhere" / "run")
    run.path.mkdir(parents=True)
    (run.path / "manifest.json").write_text("{}")
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "linked").symlink_to(run.path)
    (folder / "circle").symlink_to(folder)
    assert [found.path for found in find_runs(folder)] == [folder / "linked"]
    (folder / "again").symlink_to(run.path)  # one run under two names is one run
    assert len(find_runs(folder)) == 1


def test_find_runs_finds_one_or_all_and_sorts_them(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, arm=arm, seed=seed) for arm in ("gspo", "luspo") for seed in (0, 1)]
    assert find_runs(tmp_path) == runs
    assert find_runs(runs[2].path) == [runs[2]]
    assert find_runs(tmp_path / "nowhere") == []


def test_the_module_needs_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import harness.rundir; "
        "top = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(top - set(sys.stdlib_module_names) - {'harness'}))"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_old_manifest_is_read_under_todays_names(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    actor = "actor_rollout_ref.actor"
    old = {
        "schema": 1,
        "algo": "fspo",
        "fingerprint": "abc",
        "controlled": {"data.train_batch_size": 16},
        "treatment": {
            f"{actor}.policy_loss.loss_mode": "fspo",
            f"{actor}.loss_agg_mode": "seq-mean-token-sum",
            f"{actor}.policy_loss._target_": "harness.plugin.losses.FSPOConfig",
        },
        "execution": {"harness.ratio": "sequence", "harness.own_clip.low": 0.1, "harness.sequence_ranks": 4},
    }
    write_json(tmp_path / "manifest.json", old)
    found = run.manifest()
    assert {key: found[key] for key in ("algo", "fingerprint", "controlled")} == {
        key: old[key] for key in ("algo", "fingerprint", "controlled")
    }
    assert found["schema"] == SCHEMA_VERSION
    assert found["execution"] == {
        "harness.importance_sampling_level": "sequence",
        "harness.published_clip.low": 0.1,
        "harness.sequence_parallel_size": 4,
    }
    assert found["treatment"][f"{actor}.policy_loss._target_"] == "harness.losses.fspo_config.FSPOConfig"
    assert found["loss"]["level"] == "sequence_sum"
    run.write_manifest(found)
    assert run.manifest() == found


def test_old_metrics_are_read_under_todays_names(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    attempt = run.new_attempt()
    (attempt / "metrics.jsonl").write_text('{"step": 1, "data": {"response_length": 9.0, "ratio_noise": 0.5}}\n')
    assert run.metrics()[0] == {1: {"response_length": 9.0, "onpolicy_log_ratio_rms": 0.5}}


def test_a_finished_runs_files_are_sealed(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.write_manifest({"arm": "gspo"})
    run.write_status("done")
    (run.new_attempt() / "metrics.jsonl").write_text("{}\n")
    assert changed_files(run) is None
    seal(run)
    assert changed_files(run) == {}
    (run.attempts()[0] / "log.txt").write_text("logs, evaluations and checkpoints may come and go")
    run.eval.mkdir()
    (run.eval / "a.parquet").write_text("")
    assert changed_files(run) == {}
    run.write_status("failed")
    (run.attempts()[0] / "metrics.jsonl").unlink()
    (run.attempts()[0] / "sequences" / "1.parquet").write_text("")
    assert changed_files(run) == {
        "attempts/01/metrics.jsonl": "missing",
        "status.json": "changed",
        "attempts/01/sequences/1.parquet": "added",
    }
    (run.path / "files.json").write_text("{")
    with pytest.raises(RunDirError, match=r"files\.json: not valid JSON"):
        changed_files(run)
    unseal(run)
    assert changed_files(run) is None


def test_a_step_that_one_attempt_trained_twice_is_a_fault(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    line = '{{"step": {}, "data": {{"response_length": {}}}}}\n'
    first, second = run.new_attempt(), run.new_attempt()
    (first / "metrics.jsonl").write_text(line.format(1, 5) + line.format(2, 6) + line.format(3, 6))
    (second / "metrics.jsonl").write_text(line.format(2, 7))  # of another attempt: it went back
    assert {step: row["response_length"] for step, row in run.metrics()[0].items()} == {1: 5, 2: 7}
    validation = '{"step": 2, "data": {"val_accuracy": 0.5}}\n'
    (second / "metrics.jsonl").write_text(line.format(2, 7) + validation)
    assert run.metrics()[0][2] == {"response_length": 7, "val_accuracy": 0.5}
    (second / "metrics.jsonl").write_text(line.format(2, 7) + line.format(2, 999))
    with pytest.raises(RunDirError, match=r"02/metrics\.jsonl: step 2 is there twice"):
        run.metrics()
