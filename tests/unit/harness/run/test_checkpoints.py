"""Checkpoints of torch's own making, damaged in every way: which are whole, where a run goes on, what is kept."""

import contextlib
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_runs import write_attempt

from harness.run.checkpoints import (
    COMPLETE,
    LEAST_FREE,
    MARGIN,
    NoRoomError,
    checkpoints,
    complete,
    drop_checkpoints,
    ensure_room,
    intact,
    passed_over,
    resume_point,
)
from harness.rundir import RunDir

PARTS = ("actor/model_world_size_2_rank_0.pt", "actor/model_world_size_2_rank_1.pt", "actor/optim.pt", "data.pt")


def save(run: RunDir, step: int, mark: bool = True) -> Path:
    """A checkpoint of the kind that verl writes: shards, the data's state, and a file that is not torch's."""
    folder = run.checkpoints / f"global_step_{step}"
    for number, name in enumerate(PARTS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"w": torch.arange(200) + number, "step": step}, folder / name)
    (folder / "actor" / "config.json").write_text("{}")
    if mark:
        complete(folder)
    return folder


def record(run: RunDir, steps: Iterable[int]) -> None:
    write_attempt(run, {step: {"response_length": 10.0} for step in steps})


def flip(file: Path, at: float = 0.5) -> None:
    """One bit, at a share of the file's length."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 1
    file.write_bytes(content)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_a_whole_checkpoint_is_whole_and_says_what_it_has(run: RunDir) -> None:
    folder = save(run, 2)
    assert intact(folder)
    assert intact(folder, content=True)
    assert set(json.loads((folder / COMPLETE).read_text())) == {*PARTS, "actor/config.json"}
    complete(folder)  # again: the mark does not list itself
    assert intact(folder, content=True)


def test_without_its_mark_it_is_not(run: RunDir) -> None:
    folder = save(run, 2, mark=False)
    assert not intact(folder)
    for content in ("", "{", "[]", "{}", "null", '{"data.pt": "large"}'):
        (folder / COMPLETE).write_text(content)
        assert not intact(folder)


@pytest.mark.parametrize("name", [*PARTS, "actor/config.json"])
def test_a_missing_or_truncated_or_grown_file(run: RunDir, name: str) -> None:
    file = save(run, 2) / name
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1], b"", content + b"x"):
        file.write_bytes(damaged)
        assert not intact(run.checkpoints / "global_step_2")
    file.unlink()
    assert not intact(run.checkpoints / "global_step_2")


@pytest.mark.parametrize("name", PARTS)
def test_a_flipped_byte_in_the_middle_of_a_tensor(run: RunDir, name: str) -> None:
    folder = save(run, 2)
    flip(folder / name)
    assert torch.load(folder / name)  # torch itself reads over it
    assert intact(folder)  # sizes are as they were
    assert not intact(folder, content=True)


def entries(file: Path) -> set[int]:
    """Positions of a zip archive's content, headers apart (PKWARE's APPNOTE.TXT, 4.3.7)."""
    content, found = file.read_bytes(), set()
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name, extra = struct.unpack_from("<HH", content, entry.header_offset + 26)
            start = entry.header_offset + 30 + name + extra
            found |= set(range(start, start + entry.compress_size))
    return found


def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    """Every byte of a small file, one at a time: in what was saved each is found; in the archive's headers, what passes
    is loaded as it was saved, or refused by torch, and never as something else."""
    rng, file = random.Random(0), tmp_path / "data.pt"
    saved = {"w": torch.arange(8)}
    torch.save(saved, file)
    complete(tmp_path)
    whole, saved_bytes = file.read_bytes(), entries(file)
    assert len(saved_bytes) > 8 * 8
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        if intact(tmp_path, content=True):
            assert at not in saved_bytes
            with contextlib.suppress(RuntimeError, ValueError):
                assert torch.equal(torch.load(file)["w"], saved["w"]), at


def test_a_run_goes_on_from_the_newest(run: RunDir) -> None:
    record(run, range(1, 7))
    assert resume_point(run) == (0, None)
    folders = {step: save(run, step) for step in (2, 4, 6)}
    assert resume_point(run) == (6, folders[6])
    assert passed_over(run, 6) == []


def test_numbers_are_numbers_and_other_folders_are_none(run: RunDir) -> None:
    record(run, range(1, 11))
    folders = [save(run, step) for step in (10, 9)]
    (run.checkpoints / "global_step_x").mkdir()
    (run.checkpoints / "latest_checkpointed_iteration.txt").write_text("10")
    assert checkpoints(run) == [(9, folders[1]), (10, folders[0])]
    assert resume_point(run)[0] == 10


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "unmarked", "empty"])
def test_a_broken_newest_one_gives_way_to_the_older(run: RunDir, damage: str) -> None:
    record(run, range(1, 7))
    older, newest = save(run, 4), save(run, 6)
    file = newest / PARTS[1]
    {
        "flipped": lambda: flip(file),
        "truncated": lambda: file.write_bytes(file.read_bytes()[:-10]),
        "missing": file.unlink,
        "unmarked": (newest / COMPLETE).unlink,
        "empty": lambda: (shutil.rmtree(newest), newest.mkdir()),
    }[damage]()
    assert resume_point(run) == (4, older)
    assert passed_over(run, 4) == ["global_step_6"]
    shutil.rmtree(older)
    assert resume_point(run) == (0, None)


def test_a_checkpoint_without_a_record_is_passed_over(run: RunDir) -> None:
    """A kill between a checkpoint and its metrics; and a hole in the record, after which nothing counts."""
    record(run, [1, 2, 3])
    folders = {step: save(run, step) for step in (2, 4)}
    assert resume_point(run) == (2, folders[2])
    record(run, [3, 4])
    assert resume_point(run) == (4, folders[4])
    record(run, [6, 7, 8])
    save(run, 8)
    assert resume_point(run) == (4, folders[4])
    assert passed_over(run, 4) == ["global_step_8"]


def test_a_step_that_was_only_validated_is_no_record(run: RunDir) -> None:
    write_attempt(run, {1: {"response_length": 10.0}, 2: {"val_response_length": 10.0}})
    save(run, 2)
    assert resume_point(run) == (0, None)


def kept(run: RunDir) -> list[int]:
    return [step for step, _ in checkpoints(run)]


@pytest.mark.parametrize(("keep", "left"), [(2, [6, 8]), (3, [4, 6, 8]), (9, [2, 4, 6, 8]), (None, [2, 4, 6, 8])])
def test_the_latest_are_kept(run: RunDir, keep: int | None, left: list[int]) -> None:
    for step in (2, 4, 6, 8):
        save(run, step)
    drop_checkpoints(run, 8, keep)
    assert kept(run) == left
    drop_checkpoints(run, 8, keep)  # whoever asks, and however often: nothing is remembered
    assert kept(run) == left


def test_what_a_resume_passed_over_goes_and_broken_ones_do_not_count(run: RunDir) -> None:
    for step in (2, 4, 6, 8, 10):
        save(run, step)
    (run.checkpoints / "global_step_6" / "data.pt").unlink()
    drop_checkpoints(run, 8, keep=2)
    assert kept(run) == [4, 8]
    drop_checkpoints(run, 0, keep=2)
    assert kept(run) == []


def free(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1e15, used=0, free=amount))


def test_room_for_one_as_large_as_the_last(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, more in ((2, 3_000_000), (4, 1_000_000)):
        last = save(run, step)
        (last / "more.bin").write_bytes(b"0" * more)
        complete(last)
    size = sum(file.stat().st_size for file in last.rglob("*") if file.is_file() and file.name != COMPLETE)
    free(monkeypatch, MARGIN * size + LEAST_FREE)
    ensure_room(run, expected=1e12)  # the last one says better what the next one takes
    free(monkeypatch, MARGIN * size + LEAST_FREE - 1)
    with pytest.raises(NoRoomError, match=r"no room for a checkpoint: 0\.051\d* GB") as caught:
        ensure_room(run)
    assert str(run.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    (last / "data.pt").unlink()  # no longer whole: the one before it is the measure
    with pytest.raises(NoRoomError, match=r"0\.053\d* GB needed"):
        ensure_room(run)


def test_room_for_the_first_one_as_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path / "not" / "there" / "yet")
    free(monkeypatch, 100e9)
    ensure_room(run, expected=90e9)
    with pytest.raises(NoRoomError, match="105 GB needed, 100 GB free"):
        ensure_room(run, expected=100e9)
    free(monkeypatch, LEAST_FREE - 1)
    with pytest.raises(NoRoomError):
        ensure_room(run)
