"""Why an attempt ended, and whether another one could end better.

Ray and NCCL report the loss of a process in many words; the classes here are what a scheduler can act on.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """retry: whether the same settings may succeed at another time; meaning: for a reader."""

    retry: bool
    meaning: str


CAUSES = {
    "memory": Cause(True, "out of memory, of a GPU or of a machine"),
    "lost": Cause(True, "a process, a node or the connection to it was lost"),
    "timeout": Cause(True, "something took too long, or no step came"),
    "preempted": Cause(True, "asked to stop, and stopped after a checkpoint or at the end of its grace"),
    "checkpoint": Cause(True, "a checkpoint could not be read; the next attempt takes an older one"),
    "disk": Cause(False, "no room on the disk"),
    "settings": Cause(False, "refused before training: the settings cannot work here"),
    "engine": Cause(False, "the engine's log-probabilities cannot be right; see its message"),
    "alert": Cause(False, "ended by an alert of `harness.watch.stop_on`"),
    "interrupted": Cause(False, "stopped by a user"),
    "error": Cause(False, "an exception that would come again"),
}

# Looked for in this order: a full disk makes workers die, a dead node makes calls time out.
PATTERNS = (
    ("alert", r"^alert "),
    ("engine", r"^the engine cannot be right"),
    ("preempted", r"StopRequested"),
    # torch's zip writer says of a full disk only that its position is not where it should be.
    ("disk", r"NoRoom|no space left on device|errno 28|OutOfDiskError|disk quota exceeded|unexpected pos \d+ vs \d+"),
    # Not "OOM killer": Ray names it as a possible cause of the loss of any process.
    ("memory", r"OutOfMemory|out[- ]of[- ]memory|MemoryError|cannot allocate memory|bad_alloc"),
    ("memory", r"oom_kill event|OOMKilled|ObjectStoreFull"),
    ("settings", r"ConfigError|ConfigAttributeError|ConfigKeyError|ConfigCompositionException"),
    (
        "checkpoint",
        r"PytorchStreamReader|invalid magic number|BadZipFile|UnpicklingError|no such file.*global_step_\d+",
    ),
    ("lost", r"rollout engine broke down|Ray did not start"),
    ("timeout", r"no step for|timeout|timed out|watchdog caught collective"),
    ("lost", r"ended by SIG|ended with status|process is gone|RpcError|EngineDead"),  # processes
    ("lost", r"Actor(Died|Unavailable)|Unschedulable|GroupRemoved|RayActor|NodeDied|WorkerCrashed"),
    ("lost", r"Raylet|RaySystem|gcs_server|\bGCS\b"),
    ("lost", r"Object(Lost|FetchTimedOut|ReconstructionFailed)|OwnerDied|ReferenceCounting"),
    ("lost", r"connection (refused|reset|closed|aborted|error)|ConnectionError|broken pipe|ServerDisconnected"),
    ("lost", r"DistBackendError|DistNetworkError|NCCL|gloo"),
)


def classify(error: str | None) -> str:
    """The cause of an attempt's end from its one-line error; ``error`` where nothing better is known."""
    return next((cause for cause, pattern in PATTERNS if re.search(pattern, error or "", re.IGNORECASE)), "error")
