"""The hashes of a finished run's files, so that a later change is seen: ``files.json``, written when the run is done.

Checkpoints, evaluations and logs are not in it: they may be deleted, added to or compressed.
"""

from harness.rundir.files import content_hash, read_json, write_json
from harness.rundir.run import RunDir

SEAL = "files.json"
SEALED = (
    "config.yaml",
    "manifest.json",
    "status.json",
    "sequences.parquet",
    "attempts/*/metrics.jsonl",
    "attempts/*/outcome.json",
    "attempts/*/sequences/*.parquet",
    "attempts/*/texts.jsonl",
)


def seal(run: RunDir) -> None:
    """Write the hash of each record of a finished run."""
    write_json(run.path / SEAL, {"files": _hashes(run)})


def unseal(run: RunDir) -> None:
    """Forget the hashes, because the run goes on."""
    (run.path / SEAL).unlink(missing_ok=True)


def changed_files(run: RunDir) -> dict[str, str] | None:
    """file -> changed, missing or added, of the records that are not as the run left them; None without ``files.json``.

    Raises ``RunDirError`` for a torn ``files.json`` and OSError for a file that cannot be read.
    """
    if not (run.path / SEAL).exists():
        return None
    then, now = read_json(run.path / SEAL).get("files", {}), _hashes(run)
    found = {file: "changed" if file in now else "missing" for file in then if now.get(file) != then[file]}
    return found | {file: "added" for file in now if file not in then}


def _hashes(run: RunDir) -> dict[str, str]:
    files = sorted(file for pattern in SEALED for file in run.path.glob(pattern))
    return {file.relative_to(run.path).as_posix(): content_hash(file) for file in files}
