"""Ask a run to stop after a checkpoint, from any machine that sees its directory, and wait until it has.

    python -m sweeps.stop results/runs/tiny/gspo/seed=0

What a Kubernetes pod does before it goes: a signal would reach its own processes only, and Ray's die of it at once.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.rundir import STOP_FILE, RunDir, RunDirError

POLL_SECONDS = 1.0


def stop(run: RunDir) -> None:
    """Returns when the attempt that trains now has ended, or at once if none does; a later attempt is not touched."""
    attempt = None
    with contextlib.suppress(RunDirError):  # nothing there yet
        while (status := run.status())["state"] == "running" and attempt in (None, status["attempt"]):
            if attempt is None:
                attempt = status["attempt"]
                (run.attempts()[-1] / STOP_FILE).touch()
            time.sleep(POLL_SECONDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    stop(RunDir(Path(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
