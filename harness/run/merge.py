"""A finished run's responses as one file, for runs made before this was done.

    python -m harness.run.merge results/runs/tiny/gspo/seed=0
    python -m harness.run.merge results/runs

Training writes one small Parquet file a step, so that a step is never lost. Once a run is done these are thousands of
files that say nothing more than one. Training calls ``merge`` itself when a run is done.

    RUNS    run directories, or folders with any below
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.config import say_error
from harness.rundir import RENAMED, ResponseFile, RunDir, RunDirError, find_runs, seal
from harness.rundir.seal import SEAL

# Numbers that hardly repeat: dictionaries and statistics would be most of the bytes of such small groups.
PLAIN = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "store_schema": False}


def merge(run: RunDir) -> int:
    """Put the responses of all steps into ``sequences.parquet``, a row group a step; returns how many files that were.

    Written beside its place, read back and compared, and renamed; only then are the small files removed. Interrupted at
    any point nothing is lost, and the same call finishes it. Raises ``RunDirError`` where a file cannot be read or the
    disk is full; the small files then stay, and every reader knows them.
    """
    small = list(run.step_files().values())
    if not small:
        return 0
    draft = run.merged.with_name(f".{run.merged.name}.{os.getpid()}")
    try:
        # Once for the schema, once to write: a run's responses need not fit into memory.
        schema = pa.unify_schemas([table.schema for table in _steps(run)], promote_options="permissive")
        with pq.ParquetWriter(draft, schema, **PLAIN) as writer:
            for table in _steps(run):
                writer.write_table(_as(table, schema), row_group_size=max(1, len(table)))
        with pq.ParquetFile(draft) as written:
            for at, table in enumerate(_steps(run)):
                if not written.read_row_group(at).equals(_as(table, schema)):
                    raise RunDirError(f"{draft}: reads back otherwise than it was written; is the disk sound?")
        draft.replace(run.merged)
    except (OSError, pa.ArrowException) as error:
        raise RunDirError(f"{run.path}: its responses stay in one file a step ({error})") from None
    finally:
        draft.unlink(missing_ok=True)
    for attempt in run.attempts():
        for file in (attempt / "sequences").glob("*.parquet"):  # those of dropped steps too
            file.unlink()
        with suppress(OSError):  # not empty: somebody else's file
            (attempt / "sequences").rmdir()
    if (run.path / SEAL).exists():  # the run was done before its responses could be put together
        seal(run)
    return len(small)


def _steps(run: RunDir) -> Iterator[pa.Table]:
    """The responses of each step, with today's names of columns."""
    for file in run.response_files():
        for table in _groups(file):
            named = [RENAMED.get(name, name) for name in table.column_names]
            yield table.rename_columns(named).replace_schema_metadata(None)


def _groups(file: ResponseFile) -> Iterator[pa.Table]:
    with pq.ParquetFile(file.path) as parquet:
        groups = (parquet.read_row_group(at) for at in range(parquet.num_row_groups))
        yield from (table for table in groups if len(table) and table["step"][0].as_py() < file.before)


def _as(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with every column of ``schema``; one that it lacks is null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema).combine_chunks()


def main(argv: Sequence[str] | None = None) -> int:
    """Merge finished runs; returns the exit status, 2 where there is none or one cannot be read."""
    roots = [Path(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    if not roots or any(str(root) in ("-h", "--help") for root in roots):
        print(__doc__)
        return 0 if roots else 2
    try:
        runs = [run for root in roots for run in find_runs(root)]
        if not runs:
            raise RunDirError(f"no runs at or below {', '.join(map(str, roots))}; give run directories or their folder")
        for run in runs:
            if run.status().get("state") != "done":
                print(f"{run.path}: {run.status().get('state')}, left as it is")
            elif files := merge(run):
                print(f"{run.path}: {files} files are one now")
    except RunDirError as error:
        say_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
