"""One controller a sweep: a lock file on a file system that machines share, kept by a heartbeat.

File locks of the kernel cannot be relied on over networks, so the lock is a file that can be created only once
(``os.link`` is atomic on NFS too) and that a holder loses when its heartbeat stops.

Why no library: of two processes that find the same holder dead, ``flufl.lock`` lets the slower one remove the lock that
the faster one has just taken. Here only one of them may replace the holder; see ``Lock._take``.
"""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from harness.run.process import living
from harness.rundir import HEARTBEAT_SECONDS, STALE_SECONDS


class HeldError(Exception):
    """Another controller holds the lock; the message says who and where."""


class Lock:
    """Context manager of the lock ``file``; raises ``HeldError`` on entering while another holder lives."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time, beat: float = HEARTBEAT_SECONDS):
        self.file, self.clock, self.beat = file, clock, beat
        self.token = uuid.uuid4().hex
        self.over = threading.Event()

    def __enter__(self) -> "Lock":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._take(self.file)
        self.thread = threading.Thread(target=self._keep, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.thread.join()
        if (read(self.file) or {}).get("token") == self.token:
            self.file.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether the lock is still ours: another may have taken over from a controller that slept too long."""
        return (read(self.file) or {}).get("token") == self.token

    def _content(self) -> str:
        now = {"token": self.token, "pid": os.getpid(), "created": psutil.Process().create_time()}
        return json.dumps({**now, "host": os.uname().nodename, "heartbeat": self.clock()})

    def _draft(self) -> Path:
        draft = self.file.with_name(f".{self.file.name}.{self.token}")
        draft.write_text(self._content())
        return draft

    def _take(self, file: Path) -> None:
        """Create ``file`` with our name in it, or replace a dead holder's; raises ``HeldError`` if the holder lives.

        Of all processes that find the holder dead only one may replace it: the one that holds the takeover file, which
        is a lock of this same kind and named after the dead holder.
        """
        while not self._create(file):
            holder = read(file)
            if holder is None:
                continue  # released just now
            if alive(holder, self.clock()):
                raise HeldError(
                    f"{self.file}: held by process {holder['pid']} on {holder['host']}, heard of "
                    f"{self.clock() - holder['heartbeat']:.0f} s ago; stop it there, or wait until its heartbeat has "
                    f"been silent for {STALE_SECONDS} s"
                )
            takeover = self.file.with_name(f".{self.file.name}.after.{holder.get('token')}")
            self._take(takeover)
            try:
                if read(file) == holder:
                    self._draft().replace(file)
                    return
            finally:
                takeover.unlink()

    def _create(self, file: Path) -> bool:
        draft = self._draft()
        try:
            os.link(draft, file)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _keep(self) -> None:
        while not self.over.wait(self.beat):
            with contextlib.suppress(OSError):  # a full disk must not end the controller
                if self.held():
                    self._draft().replace(self.file)


def read(file: Path) -> dict[str, Any] | None:
    """Who holds the lock: None if nobody does, empty if that cannot be read."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}


def alive(holder: dict[str, Any], now: float) -> bool:
    """By process on its own host, elsewhere by heartbeat."""
    if holder.get("host") == os.uname().nodename:
        return living(holder["pid"], holder["created"]) is not None
    return now - holder.get("heartbeat", 0.0) < STALE_SECONDS
