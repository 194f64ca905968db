"""Which reader a path is for: by what is there, never by a guess about its content."""

from pathlib import Path

from analysis.runs.load import AnalysisError
from analysis.runs.sources.json_files import state_files, trainer_state, verl_file
from analysis.runs.sources.source import Source, one_of
from analysis.runs.sources.tables import table
from analysis.runs.sources.tensorboard import event_files, tensorboard_run
from analysis.runs.sources.trackio import MAGIC, trackio_run
from analysis.runs.sources.wandb_file import ADDRESS, IDENT, offline_run, online_run

KNOWN = (
    "verl's .jsonl, TRL's output folder or trainer_state.json, W&B's offline-run folder or .wandb or "
    "wandb:ENTITY/PROJECT/RUN, TensorBoard's event files, Trackio's .db, .csv, .tsv or .parquet"
)


def source_of(given: str, run_name: str | None = None) -> Source:
    """The records at a path or address. run_name: the one that is meant, where they hold several.

    Raises ``AnalysisError`` where there is nothing that is known, or not only one run.
    """
    if given.startswith(ADDRESS):
        return online_run(given)
    path = Path(given)
    if path.is_dir():
        return _in_folder(path, run_name)
    if not path.is_file():
        raise AnalysisError(f"{path}: no such file or folder; it may be {KNOWN}")
    with path.open("rb") as stream:
        begins = stream.read(len(MAGIC))
    if begins == MAGIC:
        return trackio_run(path, run_name)
    if begins[: len(IDENT)] == IDENT or path.suffix == ".wandb":
        return offline_run(path)
    if ".tfevents." in path.name:
        return tensorboard_run(path)
    if not begins:
        raise AnalysisError(f"{path}: the file is empty")
    if path.suffix == ".jsonl":
        return verl_file(path)
    if path.suffix == ".json":
        return trainer_state(path)
    if path.suffix == ".parquet" or path.name.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz", ".txt")):
        return table(path, run_name)
    raise AnalysisError(f"{path}: not known; it may be {KNOWN}")


def _in_folder(folder: Path, run_name: str | None) -> Source:
    if state_files(folder):
        return trainer_state(folder)
    if files := sorted(folder.glob("run-*.wandb")) or sorted(folder.glob("*run-*/run-*.wandb")):
        name = one_of([file.parent.name for file in files], run_name, str(folder)) if len(files) > 1 else ""
        return offline_run(next(file for file in files if not name or file.parent.name == name))
    if event_files(folder):
        return tensorboard_run(folder, run_name)
    raise AnalysisError(f"{folder}: nothing that is known in it; it may be {KNOWN}")
