"""What a check of ``harness.doctor`` says: how bad it is, what was found, and what to do about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Flat = dict[str, Any]
Level = Literal["ok", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. level: failure means that the run would not start, or not come to its end."""

    level: Level
    found: str
    remedy: str = ""


Check = Callable[[Flat], Iterable[Finding]]


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, remedy: str = "") -> Finding:
    return Finding("warning", found, remedy)


def failure(found: str, remedy: str = "") -> Finding:
    return Finding("failure", found, remedy)


def findings(check: Check, flat: Flat) -> list[Finding]:
    """What a check finds. It never raises: a ``ConfigError``, whose line has its remedy, is a failure, and so is
    whatever else goes wrong, with its type and its first line."""
    try:
        return list(check(flat))
    except Exception as error:  # noqa: BLE001  (whatever it is, the other checks have something to say too)
        return [failure(reason(error))]


def reason(error: Exception) -> str:
    """A ``ConfigError`` in its own words; of anything else type and first line."""
    try:
        from harness.config import ConfigError  # here: it needs packages that the doctor may find missing
    except ImportError:
        return describe(error)
    return str(error) if isinstance(error, ConfigError) else f"cannot be checked: {describe(error)}"


def describe(error: BaseException) -> str:
    """Type and first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def local(flat: Flat) -> bool:
    """Whether the run starts a Ray of its own on this machine."""
    return flat.get("ray_kwargs.ray_init.address") == "local"


def amount(number: float) -> str:
    """Bytes for people, in powers of 1000 as ``harness.memory_gb`` is."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"
