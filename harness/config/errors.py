"""A mistake of the user's, and the one way in which every command says it."""

import difflib
from collections.abc import Iterable

from rich.console import Console


class ConfigError(Exception):
    """Something the user can mend; the message is one line: what is wrong, where, what would be right."""


def say_error(error: object) -> None:
    """One line ``error: ...`` on standard error, as it stands: brackets in it are no markup."""
    Console(stderr=True).print(
        f"error: {one_line(error)}", style="red", markup=False, highlight=False, emoji=False, soft_wrap=True
    )


def say_warning(text: object) -> None:
    """One line ``warning: ...`` on standard error."""
    Console(stderr=True).print(
        f"warning: {one_line(text)}", style="yellow", markup=False, highlight=False, emoji=False, soft_wrap=True
    )


def one_line(text: object) -> str:
    """The text with every run of white space as one space."""
    return " ".join(str(text).split())


def did_you_mean(given: str, there: Iterable[str]) -> str:
    """`` (did you mean X?)`` with the most similar of ``there``, or nothing. A key is known by its end alone, too."""
    names = list(there)
    ends = [name for name in names if given and name.endswith(f".{given}")]
    found = ends[:2] or difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return f" (did you mean {' or '.join(found)}?)" if found else ""
