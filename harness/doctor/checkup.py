"""Would a run start here? Every check that can be made without training, one line each, with its remedy.

    python -m harness.doctor
    python -m harness.doctor experiment=text_dense algo=luspo
    make doctor EXPERIMENT=text_dense ARGS="trainer.nnodes=2"
    python -m harness.doctor --engine experiment=text_dense    # the training engine itself, measured in 2 minutes

Takes the overrides of ``harness.train``. Data and models that are built here are built. Exit status 1 if anything
would keep the run from starting or from its end.
"""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.doctor.finding import Check, Finding, Flat, failure, findings, reason
from harness.doctor.software import SETUP, engines, versions
from harness.paths import python

WIDTH = 100
COLUMNS = (7, 12)  # level and name
CHECKED_BEFORE = ("settings", "data")  # by every run itself
ENGINE = "--engine"
OF_RUN = ("The run would start here", "The run would not start here")
OF_ENGINE = ("The engine weights responses as the loss says", "This is not the loss that the configuration names")
STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def checks() -> dict[str, Check]:
    """The table of checks, in the order in which they are made. Raises ImportError where packages are missing."""
    from harness.doctor.cluster import cluster
    from harness.doctor.machine import disk, gpus, host
    from harness.doctor.model import architecture, tokenizer, weights
    from harness.doctor.run import data, grader, lengths, settings, tracking

    return {
        "versions": versions,
        "settings": settings,
        "lengths": lengths,
        "gpus": gpus,
        "engines": engines,
        "machine": host,
        "disk": disk,
        "cluster": cluster,
        "weights": weights,
        "architecture": architecture,
        "tokenizer": tokenizer,
        "data": data,
        "grader": grader,
        "tracking": tracking,
    }


def composed(overrides: Sequence[str]) -> Flat:
    """The flat configuration; raises ``ConfigError``, and ImportError where packages are missing."""
    from harness.config import compose, flatten

    return flatten(compose(overrides))


def diagnose(overrides: Sequence[str]) -> Iterator[tuple[str, Finding]]:
    """Name and finding of every check, as they are made; without packages or configuration only what needs neither."""
    table: dict[str, Check] = {"versions": versions}
    flat: Flat = {}
    try:
        every = checks()
        flat = composed(overrides)
        table = every
    except ImportError as error:
        yield "packages", failure(f"{error}", SETUP)
    except Exception as error:  # noqa: BLE001  (its reason is a line like the others)
        yield "settings", failure(reason(error))
    for name, check in table.items():
        yield from ((name, finding) for finding in findings(check, flat))


def engine(overrides: Sequence[str]) -> Iterator[tuple[str, Finding]]:
    """The findings of ``harness.doctor.engine``, which starts processes of its own and so is asked for by name."""
    try:
        from harness.config import compose
        from harness.doctor.engine import check
        from harness.doctor.rules import settings

        config = compose(overrides)
        settings(composed(overrides))
        yield from (("engine", finding) for finding in check(config))
    except Exception as error:  # noqa: BLE001  (its reason is a line like the others)
        yield "engine", failure(reason(error))


def before_run(flat: Flat) -> list[str]:
    """What the checks warn of, for a run that is about to start on GPUs, where a fault is found after minutes and
    dearly. Raises ``ConfigError`` with the first failure. flat: with assets built and settings checked."""
    from harness.config import ConfigError

    made = {name: findings(check, flat) for name, check in checks().items() if name not in CHECKED_BEFORE}
    said = [(name, finding) for name, found in made.items() for finding in found]
    failures = [f"{name}: {f.found}; remedy: {f.remedy}" for name, f in said if f.level == "failure"]
    if failures:
        more = f" ({len(failures) - 1} more: `{python()} -m harness.doctor`)" if failures[1:] else ""
        raise ConfigError(f"{failures[0]}{more}")
    return [f"{name}: {f.found}" for name, f in said if f.level == "warning"]


def line(name: str, finding: Finding) -> Table:
    """One finding, its level in words, wrapped beside the name of its check."""
    row = Table.grid(padding=(0, 1, 0, 0))
    for width in (*COLUMNS, WIDTH - sum(COLUMNS) - len(COLUMNS)):
        row.add_column(width=width, overflow="fold")
    said = Text(finding.found)
    if finding.remedy:
        said.append(f"; remedy: {finding.remedy}")
    row.add_row(Text(finding.level, style=STYLES[finding.level]), name, said)
    return row


def main(overrides: Sequence[str]) -> int:
    """Print the findings as they come; 1 if one of them is a failure."""
    if {"-h", "--help"} & set(overrides):
        print(__doc__)
        return 0
    words = [word for word in overrides if word != ENGINE]
    if wrong := [word for word in words if word.startswith("-")]:
        print(f"error: {wrong[0]}: no option of the doctor; it has {ENGINE} and --help", file=sys.stderr)
        return 2
    made, right, false = (engine(words), *OF_ENGINE) if ENGINE in overrides else (diagnose(words), *OF_RUN)
    console = Console(width=WIDTH, highlight=False)
    counts = dict.fromkeys(STYLES, 0)
    for name, finding in made:
        counts[finding.level] += 1
        console.print(line(name, finding))
    verdict = false if counts["failure"] else right
    console.print(f"\n{verdict}; failures: {counts['failure']}, warnings: {counts['warning']}.", style="bold")
    return int(counts["failure"] > 0)
