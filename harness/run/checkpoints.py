"""A run's checkpoints: which are whole, from which one to continue, which to keep, and whether another one fits.

verl remembers what to delete in memory only, writes its files one after the other, and says nowhere that it has
finished. Here a checkpoint is whole once ``complete.json`` lists its files, and it stays whole as long as they match.
"""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from harness.rundir import RunDir, is_trained, write_json

COMPLETE = "complete.json"
MARGIN = 1.05  # room asked for, over the last checkpoint's size
LEAST_FREE = 50e6  # bytes that must stay free for metrics and rows


class NoRoomError(OSError):
    """The disk is too full for another checkpoint; the message says how much is needed and where."""


def checkpoints(run: RunDir) -> list[tuple[int, Path]]:
    """Step and folder of each of the run's checkpoints, whole or not, oldest first."""
    found = ((folder.name.removeprefix("global_step_"), folder) for folder in run.checkpoints.glob("global_step_*"))
    return sorted((int(number), folder) for number, folder in found if number.isdigit())


def complete(checkpoint: Path) -> None:
    """Mark a checkpoint whose files have all been written."""
    files = {str(file.relative_to(checkpoint)): file.stat().st_size for file in _files(checkpoint)}
    write_json(checkpoint / COMPLETE, files)


def condemn(checkpoint: Path) -> None:
    """Never continue from this checkpoint again: its files seem whole, and yet could not be read."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)


def intact(checkpoint: Path, content: bool = False) -> bool:
    """Whether all files are there with their size; with ``content`` also whether torch's files have their checksums.

    torch's files are zip archives, which carry a CRC-32 of every tensor; reading them takes about a second a gigabyte.
    """
    try:
        files = json.loads((checkpoint / COMPLETE).read_text())
        if any((checkpoint / name).stat().st_size != size for name, size in files.items()):
            return False
    except (OSError, ValueError, AttributeError):
        return False
    return bool(files) and not (content and any(_corrupt(checkpoint / name) for name in files if name.endswith(".pt")))


def resume_point(run: RunDir) -> tuple[int, Path | None]:
    """The last step from which the record continues without a hole, and its checkpoint; (0, None) to start afresh.

    verl writes the checkpoint of step N before N's metrics, so a kill in between leaves a checkpoint without its row:
    that one is passed over. So is one that is not whole.
    """
    recorded = {step for step, data in run.metrics()[0].items() if is_trained(data)}
    whole = 0
    while whole + 1 in recorded:
        whole += 1
    for step, folder in reversed(checkpoints(run)):
        if step <= whole and intact(folder, content=True):
            return step, folder
    return 0, None


def passed_over(run: RunDir, resume: int) -> list[str]:
    """Names of the checkpoints after ``resume``, from which the run does not continue."""
    return [folder.name for step, folder in checkpoints(run) if step > resume]


def drop_checkpoints(run: RunDir, resume: int, keep: int | None) -> None:
    """Delete checkpoints that are of no more use: after ``resume``, or older than the ``keep`` latest whole ones.

    ``None`` keeps all that are whole.
    """
    usable = [step for step, folder in checkpoints(run) if step <= resume and intact(folder)]
    kept = usable[-keep:] if keep else usable
    for step, folder in checkpoints(run):
        if step not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def ensure_room(run: RunDir, expected: float = 0.0) -> None:
    """Raise ``NoRoomError`` unless a checkpoint as large as the last one (or ``expected`` bytes) fits the disk."""
    sizes = [sum(file.stat().st_size for file in _files(folder)) for _, folder in checkpoints(run) if intact(folder)]
    needed = MARGIN * (sizes[-1] if sizes else expected) + LEAST_FREE
    run.path.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(run.path).free
    if free < needed:
        there = f"{needed / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free at {run.path}"
        raise NoRoomError(f"no room for a checkpoint: {there}")


def _files(checkpoint: Path) -> Iterator[Path]:
    return (file for file in sorted(checkpoint.rglob("*")) if file.is_file() and file.name != COMPLETE)


def _corrupt(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is not None
    except Exception:  # noqa: BLE001  (there is hardly an error that a damaged archive cannot make the reader raise)
        return True
