"""Inside a Ray job: ``harness.train`` on the cluster that runs the job, and on no other.

``ray.init("auto")`` joins whichever cluster was started last on the machine, and the ``RAY_ADDRESS`` that Ray gives a
job is found in the same way. The raylet that the job descends from is never somebody else's.
"""

import os
import sys

import psutil

ADDRESS = "ray_kwargs.ray_init.address"
FLAG = "--gcs-address="


def own_cluster() -> str:
    """``host:port`` of the cluster whose raylet started this process; raises ``RuntimeError`` where none did."""
    for process in psutil.Process().parents():
        if process.name() == "raylet":
            return next(word.removeprefix(FLAG) for word in process.cmdline() if word.startswith(FLAG))
    raise RuntimeError("no raylet above this process: it is not a Ray job")


if __name__ == "__main__":
    try:
        address = own_cluster()
    except RuntimeError as refused:
        sys.exit(f"error: {refused}")  # a line that the scheduler takes for a refusal, not for a lost start
    os.execv(sys.executable, [sys.executable, "-m", "harness.train", *sys.argv[1:], f"{ADDRESS}={address}"])
