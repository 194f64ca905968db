"""What every launcher offers to the scheduler. A launcher knows nothing of the scheduler that calls it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sweeps.trials import Trial

Submission = Mapping[str, Any]  # what identifies a started trial, JSON values all; ``submission.json`` of its run


class Launcher(Protocol):
    """Where trials run. poll_seconds: between two polls; ends_with_us: whether its runs end with the scheduler."""

    name: str
    poll_seconds: float
    ends_with_us: bool

    def check(self, trials: Sequence[Trial]) -> None:
        """Raise ``ConfigError`` if one of them could never run there."""
        ...

    def place(self, trial: Trial, running: Sequence[Submission]) -> dict[str, Any] | None:
        """Where the trial can start now beside the ``running`` submissions (fields of its submission), or None."""
        ...

    def start(self, trial: Trial, place: dict[str, Any]) -> dict[str, Any]:
        """Start it and return what identifies it, JSON values all. Raises ``LaunchError``."""
        ...

    def alive(self, submission: Submission) -> bool:
        """Whether it is still waiting or running."""
        ...

    def cancel(self, submission: Submission) -> None:
        """Ask it to end; returns at once. One that is gone is no error."""
        ...


class LaunchError(Exception):
    """A launcher could not start a trial; the message is one line."""
