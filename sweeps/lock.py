"""One controller a sweep: a lock file on a file system that machines share, kept by a heartbeat.

File locks of the kernel say little over networks, so the lock is a file that can be created only once (``os.link`` is
atomic on NFS too) and that a dead holder's silence releases.
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

from harness.rundir import HEARTBEAT_SECONDS, STALE_SECONDS


class HeldError(Exception):
    """Another controller holds the lock; the message says who and where."""


class Lock:
    """Context manager; raises ``HeldError`` on entering if the lock's holder lives."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time, beat: float = HEARTBEAT_SECONDS):
        self.file, self.clock, self.beat = file, clock, beat
        self.token = uuid.uuid4().hex
        self.over = threading.Event()

    def __enter__(self) -> "Lock":
        self.file.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            holder = read(self.file)
            if holder and alive(holder, self.clock()):
                raise HeldError(
                    f"{self.file}: held by process {holder['pid']} on {holder['host']}, heard of "
                    f"{self.clock() - holder['heartbeat']:.0f} s ago; stop it there, or wait until it is silent for "
                    f"{STALE_SECONDS} s"
                )
            self._remove(holder)
        self.thread = threading.Thread(target=self._keep, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.thread.join()
        if (read(self.file) or {}).get("token") == self.token:
            self.file.unlink(missing_ok=True)

    def held(self) -> bool:
        """Whether the lock is still ours: a controller that slept too long may have lost it to another."""
        return (read(self.file) or {}).get("token") == self.token

    def _content(self) -> str:
        now = {"token": self.token, "pid": os.getpid(), "created": psutil.Process().create_time()}
        return json.dumps({**now, "host": os.uname().nodename, "heartbeat": self.clock()})

    def _draft(self) -> Path:
        draft = self.file.with_name(f".{self.file.name}.{self.token}")
        draft.write_text(self._content())
        return draft

    def _create(self) -> bool:
        draft = self._draft()
        try:
            os.link(draft, self.file)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _remove(self, seen: dict[str, Any] | None) -> None:
        """Take away a dead holder's lock, and no other: between reading and renaming somebody may have taken it."""
        aside = self.file.with_name(f".{self.file.name}.dead.{self.token}")
        with contextlib.suppress(FileNotFoundError):
            self.file.rename(aside)
            if (read(aside) or {}).get("token") != (seen or {}).get("token"):
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self.file)
            aside.unlink(missing_ok=True)

    def _keep(self) -> None:
        while not self.over.wait(self.beat):
            with contextlib.suppress(OSError):  # a full disk must not end the controller
                if self.held():
                    self._draft().replace(self.file)


def read(file: Path) -> dict[str, Any] | None:
    """Who holds the lock, or None if nobody does (or nobody can be read)."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def alive(holder: dict[str, Any], now: float) -> bool:
    """By process on its own host (pids recur, start times do not), elsewhere by heartbeat."""
    if holder["host"] == os.uname().nodename:
        try:
            return abs(psutil.Process(holder["pid"]).create_time() - holder["created"]) < 1
        except psutil.NoSuchProcess:
            return False
    return now - holder["heartbeat"] < STALE_SECONDS
