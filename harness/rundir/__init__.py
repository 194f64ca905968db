"""The run directory: the only interface between training and analysis. Standard library only.

::

    results/runs/<experiment>/<arm>/seed=<n>/
        config.yaml                            the resolved configuration
        manifest.json                          what was run: arm, seed, fingerprint, hashes, versions, hardware
        status.json                            how far it came: state, last step, attempt, heartbeat, error, cause
        events.jsonl                           what happened to it: attempts, alerts, checkpoints passed over
        attempts/NN/metrics.jsonl              verl's file logger: {"step": n, "data": {...}} a line
        attempts/NN/sequences/<step>.parquet   one row per response (columns: ``SEQUENCE_COLUMNS``)
        sequences.parquet                      these files as one, a row group a step, once the run is done
        attempts/NN/texts.jsonl                some responses as text, one a line (``TEXT_COLUMNS``)
        attempts/NN/log.txt                    all output of the training process
        attempts/NN/outcome.json               how the attempt ended; missing if its watcher was lost
        files.json                             the hash of each of these files, once the run is done
        checkpoints/                           verl's checkpoints
        eval/<benchmark>.parquet               one row per (question, sample) (columns: ``EVAL_COLUMNS``)
"""

from harness.rundir.files import (
    RunDirError,
    content_hash,
    flattened,
    read_json,
    responses_hash,
    settings_hash,
    write_json,
)
from harness.rundir.metrics import Parse, is_trained, merge_attempts, merge_metrics, read_metrics
from harness.rundir.run import ResponseFile, RunDir, find_runs
from harness.rundir.schema import (
    BEFORE_A_RUN,
    BEING_TRAINED,
    CODE,
    ERROR_FILE,
    EVAL_COLUMNS,
    HEARTBEAT_SECONDS,
    LAUNCH_LOG,
    LAUNCHER_FOLDER,
    MACHINE_CAUSES,
    RENAMED,
    ROUTING_COLUMNS,
    ROUTING_METRICS,
    SCHEMA_VERSION,
    SEQUENCE_COLUMNS,
    STAGE_FILE,
    STALE_SECONDS,
    STANDARD_METRICS,
    STATES,
    STOP_FILE,
    SUBMISSION,
    TEXT_COLUMNS,
    renamed,
)
from harness.rundir.seal import changed_files, seal, unseal
from harness.rundir.texts import append_texts, read_texts

__all__ = [
    "BEFORE_A_RUN",
    "BEING_TRAINED",
    "CODE",
    "ERROR_FILE",
    "EVAL_COLUMNS",
    "HEARTBEAT_SECONDS",
    "LAUNCHER_FOLDER",
    "LAUNCH_LOG",
    "MACHINE_CAUSES",
    "RENAMED",
    "ROUTING_COLUMNS",
    "ROUTING_METRICS",
    "SCHEMA_VERSION",
    "SEQUENCE_COLUMNS",
    "STAGE_FILE",
    "STALE_SECONDS",
    "STANDARD_METRICS",
    "STATES",
    "STOP_FILE",
    "SUBMISSION",
    "TEXT_COLUMNS",
    "Parse",
    "ResponseFile",
    "RunDir",
    "RunDirError",
    "append_texts",
    "changed_files",
    "content_hash",
    "find_runs",
    "flattened",
    "is_trained",
    "merge_attempts",
    "merge_metrics",
    "read_json",
    "read_metrics",
    "read_texts",
    "renamed",
    "responses_hash",
    "seal",
    "settings_hash",
    "unseal",
    "write_json",
]
