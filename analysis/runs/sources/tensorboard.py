"""TensorBoard: the scalars of event files, read with the package ``tensorboard``, which is no dependency of ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.runs.load import AnalysisError
from analysis.runs.sources.source import Row, Source, listed

EVENTS = "events.out.tfevents*"
INSTALL = "pip install tensorboard"
HEADER, CHECKSUM = 12, 4  # bytes around a record


def event_files(path: Path) -> list[Path]:
    """The event files at or below a path, oldest first: their names have the time at which they were begun."""
    return [path] if path.is_file() else sorted(file for file in path.rglob(EVENTS) if file.is_file())


def tensorboard_run(path: Path, run_name: str | None = None) -> Source:
    """All event files of one folder, those of a resumed run too.

    run_name: the folder below ``path`` that is meant, where several have event files. Raises ``AnalysisError``: several
    and none is named, or without the package.
    """
    files = event_files(path)
    folders = {str(file.parent.relative_to(path)) if path.is_dir() else "": None for file in files}
    if run_name is not None and path.is_dir():
        files = [file for file in files if str(file.parent.relative_to(path)) == run_name]
        if not files:
            raise AnalysisError(f"{path}: no event files in {run_name}; there are some in {listed(list(folders))}")
    elif len(folders) > 1:
        raise AnalysisError(f"{path}: event files in {listed(list(folders))}; choose one folder with --run-name")
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader  # pyright: ignore
        from tensorboard.util.tensor_util import make_ndarray  # pyright: ignore
    except ImportError:
        raise AnalysisError(f"{path}: event files need the package tensorboard to be read: {INSTALL}") from None

    def rows() -> Iterator[Row]:
        for file in files:
            for event in EventFileLoader(str(file)).Load():
                found: dict[str, Any] = {}
                for value in event.summary.value:
                    if value.HasField("tensor") and not value.tensor.tensor_shape.dim:
                        number = make_ndarray(value.tensor)
                        if number.dtype.kind in "fiu":
                            found[value.tag] = float(number)
                if found:
                    yield {**found, "step": event.step}

    notes = [f"{file}: its end is torn, and what is torn is left out" for file in files if _torn(file)]
    return Source("TensorBoard", tuple(files), rows, notes=notes)


def _torn(file: Path) -> bool:
    """Whether the last record is not whole, which the package passes over in silence: each is a length of 8 bytes, its
    checksum of 4, as many bytes, and their checksum."""
    at, size = 0, file.stat().st_size
    with file.open("rb") as stream:
        while at + HEADER <= size:
            stream.seek(at)
            at += HEADER + int.from_bytes(stream.read(8), "little") + CHECKSUM
    return at != size
