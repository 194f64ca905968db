"""Causes of real messages: some are raised here, the others are as torch, Ray 2.60, NCCL, Slurm and Linux say them."""

import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.exceptions
import torch
from omegaconf import OmegaConf

from harness.config import ConfigError
from harness.plugin.job import reason
from harness.plugin.nodes import Nodes
from harness.run.checkpoints import NoRoomError
from harness.run.failures import CAUSES, classify
from harness.rundir import MACHINE_CAUSES

# From a worker that was ended by SIGKILL: Ray names the OOM killer among what it might have been.
RAY_KILLED = (
    "ActorDiedError: The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) "
    "the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the "
    "worker crashed unexpectedly due to SIGSEGV or another unexpected error. If the process was killed by the kernel "
    "OOM killer (verifiable by checking for OOM in dmesg of the OOMing node), consider enabling resource isolation via "
    "--enable-resource-isolation to prevent node deaths by resource contention and significant loss of progress by "
    "uninformed kernel OOM killing."
)
# The last lines, or the heads of them, of what was said, by cause.
SAID = {
    "memory": (
        "OutOfMemoryError: Refer to the documentation on how to address the out of memory issue: https://docs.ray.io",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch. Some of the step tasks have been OOM Killed.",
        "RuntimeError: std::bad_alloc",
    ),
    "lost": (
        RAY_KILLED,
        "ActorDiedError: The actor is dead because it was killed by `ray.kill`.",
        "ActorDiedError: The actor died because its node has died. Node Id: 4fa0",
        "WorkerCrashedError: The worker died unexpectedly while executing this task. Check python-core-worker-*.log",
        "LocalRayletDiedError: The task's local raylet died. Check raylet.out for more information.",
        "NodeDiedError: Task failed due to the node (where this task was running) was dead or unavailable.",
        "RpcError: failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:6379: Connection refused",
        "DistBackendError: [4] is setting up NCCL communicator and retrieving ncclUniqueId from [0] via c10d key-value "
        "store by key '0', but store->get('0') got error: Connection reset by peer",
        "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network",
        "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:50577: Connection "
        "reset by peer. This is typically caused by a remote worker hanging or bugs in the application.",
        "aiohttp.client_exceptions.ServerDisconnectedError: Server disconnected",
        "EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.",
        "the training process was ended by SIGKILL",
        "the training process was ended by SIGSEGV",
    ),
    "timeout": (
        "GetTimeoutError: Get timed out: some object(s) not ready.",
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE, "
        "Timeout(ms)=600000) ran for 600021 milliseconds before timing out.",
        "RuntimeError: [third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for recv "
        "operation to complete",
        "DistNetworkError: The client socket has timed out after 2000ms while trying to connect to (10.0.0.1, 28777).",
        "no step for 901 s, where one takes 30 s (harness.watch.stall_factor)",
    ),
    "disk": (
        "OutOfDiskError: Local disk is full",
        "OSError: [Errno 122] Disk quota exceeded: '/scratch/x/data.pt'",
    ),
    "checkpoint": ("RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory",),
    "preempted": ("StopRequestedError: after step 4 and its checkpoint",),
    "alert": (
        "alert short: mean length 3.0 in the last 5 steps, 40.0 in the first",
        "alert nan: grad_norm is not a number",
    ),
    "error": (
        "KeyError: 'ground_truth'",
        "AssertionError: only 3 of 16 prompts",
        "RuntimeError: CUDA error: device-side assert triggered",
        "training ended at step 3 of 6 without an error",
    ),
}


@pytest.mark.parametrize(("message", "cause"), [(one, cause) for cause, said in SAID.items() for one in said])
def test_messages_as_they_are_said(message: str, cause: str) -> None:
    assert classify(message) == cause


def full(folder: Path) -> str:
    """A file on a full disk; a link, for a library that deletes what it could not write."""
    (folder / "full").symlink_to("/dev/full")
    return str(folder / "full")


def in_checkpoint(folder: Path) -> Path:
    (folder / "global_step_4" / "actor").mkdir(parents=True, exist_ok=True)
    return folder / "global_step_4" / "actor" / "model.pt"


def load_truncated(folder: Path) -> None:
    torch.save({"w": torch.arange(1000)}, in_checkpoint(folder))
    os.truncate(in_checkpoint(folder), 1000)
    torch.load(in_checkpoint(folder))


def load_code(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
            return os.getcwd, ()

    torch.save(Evil(), in_checkpoint(folder))
    torch.load(in_checkpoint(folder), weights_only=True)


def connect_to_nobody(folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    socket.create_connection(("127.0.0.1", free))


def write_to_the_dead(folder: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    process.wait()
    assert process.stdin
    try:
        process.stdin.write(b"x" * 1_000_000)
    finally:
        process.stdin.detach().close()  # type: ignore[union-attr]


def raise_no_room(folder: Path) -> None:
    raise NoRoomError("no room for a checkpoint: 2 GB needed, 1 GB free at /results")


def raise_refusal(folder: Path) -> None:
    raise ConfigError("data.train_files: no such file")


def raise_nested(folder: Path) -> None:
    """As Ray wraps what a worker raised."""
    try:
        torch.empty(2**50)
    except RuntimeError as error:
        raise ray.exceptions.RayTaskError("train", "Traceback", error) from error


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (lambda folder: Path(full(folder)).write_text("x" * 100_000), "disk"),
        (lambda folder: torch.save(torch.zeros(1_000_000), full(folder)), "disk"),
        (lambda folder: pq.write_table(pa.table({"a": list(range(100_000))}), full(folder)), "disk"),
        (raise_no_room, "disk"),
        (lambda folder: torch.empty(2**50), "memory"),
        (lambda folder: bytearray(2**50), "memory"),
        (raise_nested, "memory"),
        (lambda folder: torch.load(in_checkpoint(folder).with_name("gone.pt")), "checkpoint"),
        (load_truncated, "checkpoint"),
        (load_code, "checkpoint"),
        (connect_to_nobody, "lost"),
        (write_to_the_dead, "lost"),
        (lambda folder: torch.ones(2) @ torch.ones(3), "error"),
        (raise_refusal, "settings"),
    ],
)
def test_errors_that_are_raised_here(tmp_path: Path, act: Callable[[Path], object], cause: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (whatever the libraries raise)
        act(tmp_path)
    assert classify(reason(caught.value)) == cause


def test_a_ray_that_did_not_start_is_tried_again(tmp_path: Path) -> None:
    """As on a machine with too much other work: it says nothing of the loss. The error is the nodes' own."""
    nodes = Nodes.__new__(Nodes)
    nodes.process = subprocess.Popen(["true"], stdout=subprocess.PIPE, text=True)
    with pytest.raises(RuntimeError) as caught:
        nodes.use(OmegaConf.create({}))
    nodes.process.wait()
    assert CAUSES[classify(reason(caught.value))].retry


def test_every_error_of_ray_about_something_lost_is_tried_again() -> None:
    classes = inspect.getmembers(ray.exceptions, inspect.isclass)
    names = [name for name, one in classes if issubclass(one, ray.exceptions.RayError)]
    words = ("Died", "Lost", "Unavailable", "Crashed", "Removed", "Unschedulable", "Timeout", "OutOf", "StoreFull")
    telling = [name for name in names if any(word in name for word in words)]
    assert len(telling) > 10
    wrong = [name for name in telling if not CAUSES[classify(f"{name}: said Ray")].retry]
    assert wrong == ["OutOfDiskError"]  # a full disk does not empty itself


def test_nothing_known_is_an_error_that_would_come_again() -> None:
    assert [classify(said) for said in (None, "", "???")] == ["error"] * 3
    assert not CAUSES["error"].retry


def test_what_is_retried_is_what_the_contract_says() -> None:
    retried = {name for name, cause in CAUSES.items() if cause.retry}
    assert retried >= {"memory", "lost", "timeout", "preempted"}
    assert not retried & {"settings", "disk", "alert", "interrupted", "error"}


def test_every_cause_speaks_of_the_machine_or_of_the_loss() -> None:
    assert set(CAUSES) - MACHINE_CAUSES == {"alert", "error"}
    assert set(CAUSES) > MACHINE_CAUSES
