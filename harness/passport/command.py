"""What the command does, apart from its options: measure each loss that was named, and judge an expectation."""

from collections.abc import Sequence
from pathlib import Path

import torch

from harness.config.errors import did_you_mean
from harness.passport import page as pages
from harness.passport.adapters import find
from harness.passport.formulas import FORMULAS
from harness.passport.measure import measure
from harness.passport.naming import judge, nearest
from harness.passport.remote import RemoteLoss
from harness.passport.render import Entry
from harness.passport.update import LossError


def measure_all(
    words: Sequence[str], pythons: dict[str, Path], install: bool, expected: str | None = None
) -> list[Entry]:
    """An entry for each word; one that cannot be measured has its ``error``. With ``expected``, entries are compared
    with that formula and not with the nearest. Raises ValueError for no words and for a formula that is none."""
    if not words:
        raise ValueError("name a loss, as verl:gspo; `python -m harness.passport --help` has examples")
    if expected is not None and expected not in FORMULAS:
        raise ValueError(
            f"--expect {expected}: there is no such formula{did_you_mean(expected, FORMULAS)}; "
            f"there are {', '.join(FORMULAS)}"
        )
    torch.set_num_threads(1)  # the tensors are tiny
    return [_entry(word, pythons, install, expected) for word in words]


def _entry(word: str, pythons: dict[str, Path], install: bool, expected: str | None) -> Entry:
    try:
        loss = find(word, pythons, install)
        try:
            passport = measure(loss)
            return Entry(word, passport, judge(loss, passport, expected) if expected else nearest(loss, passport))
        finally:
            if isinstance(loss, RemoteLoss):
                loss.close()
    except LossError as error:
        text = str(error)
        return Entry(word, error=text if text.startswith(word) else f"{word}: {text}")


def expectation(entry: Entry, expected: str | None) -> str:
    """A sentence that says in what a loss is not the one that was expected; "" if it is."""
    if expected is None or entry.verdict is None or entry.verdict.is_it:
        return ""
    said = "; ".join(difference.sentence for difference in entry.verdict.differences)
    return f"{entry.word} is not {FORMULAS[expected].title}: {said}"


def page(path: Path, pythons: dict[str, Path], install: bool) -> int:
    """Write the page of frameworks by version; returns the exit status."""
    entries = []
    for word in pages.LOSSES:
        entries += measure_all([word], pythons, install)
        if entries[-1].error:
            raise ValueError(f"{entries[-1].error}; the page was left as it is")
        print(f"{len(entries)} of {len(pages.LOSSES)}: {word}", flush=True)
    path.write_text(pages.text(entries))
    print(f"wrote {path}")
    return 0
