"""``python -m analysis conform``: do these runs learn what the recorded ones learnt? (docs/conform.md)"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from analysis.report.write import PLAIN
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.claim_file import three_digits
from analysis.statistics.conform import (
    ALPHA,
    MEASURES,
    NEW_RUNS,
    Compared,
    compare,
    false_alarms,
    first_difference,
    smallest_found,
    steps_beyond,
)
from analysis.statistics.envelopes import ABOUT, MIN_SEEDS, Envelope, joined, of_runs, read, require_comparable, write

ENVELOPES = Path("results/conform")
SHOWN_VERSIONS = ("verl", "torch", "transformers")
MAX_NAMED = 3


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Check, record or calibrate; returns 0, or 1 if a loss learns something else.

    Raises ``AnalysisError`` where nothing can be said, with one line that says why.
    """
    console = console or Console()
    args = _parser().parse_args(argv)
    return {"check": _check, "record": _record, "calibrate": _calibrate}[args.what](args, console)


def _check(args: argparse.Namespace, console: Console) -> int:
    new = of_runs(load_runs(args.runs))
    recorded = read(args.envelope or ENVELOPES / new.about["experiment"])
    require_comparable(recorded, new, args.varies)
    again, others = (
        new.keeping([run for run in new.runs if (run in recorded.runs) is known]) for known in (True, False)
    )
    identical = _said_versions(recorded, new, console)
    failed = False
    for loss, seed in again.runs:
        line = _another(recorded, new, loss, seed)
        same = f"{loss}: seed {seed} is the recorded run, figure by figure, in every step"
        console.print(line or same, style=("red" if identical else "yellow") if line else "green", **PLAIN)
        failed |= bool(line) and identical
    compared = compare(recorded.summaries(), others.summaries())
    for loss in others.losses:
        part = [one for one in compared if one.key[0] == loss]
        departed = [one for one in part if one.departs]
        line = _departed(part, departed, recorded, others) if departed else _kept(part, recorded, others)
        console.print(line, style="red" if departed else "green", **PLAIN)
        failed |= bool(departed)
    return int(failed)


def _record(args: argparse.Namespace, console: Console) -> int:
    envelope = of_runs(load_runs(args.runs))
    folder = args.envelope or ENVELOPES / envelope.about["experiment"]
    if args.add:
        envelope = joined(read(folder), envelope)
    seeds = {tuple(envelope.seeds(loss)) for loss in envelope.losses}
    if len(seeds) > 1 or len(min(seeds, key=len)) < MIN_SEEDS:
        counted = ", ".join(f"{loss} {len(envelope.seeds(loss))}" for loss in envelope.losses)
        raise AnalysisError(
            f"an envelope needs the same seeds of every loss, {MIN_SEEDS} at least, ten are usual; found {counted}"
        )
    for name in MEASURES:
        missing = envelope.steps[name].isna().groupby(envelope.steps["algo"]).agg(["any", "all"])
        for loss in missing.index[missing["any"] & ~missing["all"]]:
            raise AnalysisError(f"{loss}: {name} is missing at some steps, so there is no band; train these runs again")
    write(envelope, folder)
    runs = sum(len(envelope.seeds(loss)) for loss in envelope.losses)
    console.print(f"wrote {folder}: {runs} runs of {', '.join(envelope.losses)}; commit it", **PLAIN)
    return 0


def _calibrate(args: argparse.Namespace, console: Console) -> int:
    recorded = read(args.envelope)
    for loss in recorded.losses:
        _print_rate(recorded.keeping([run for run in recorded.runs if run[0] == loss]), console)
    if len(recorded.losses) > 1:
        _print_rate(recorded, console)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for column in ("loss", "measure", "steps", "recorded", f"found in 4 of 5 checks: {NEW_RUNS} runs at"):
        table.add_column(column)
    found = recorded.summaries()
    for key, shift in smallest_found(found).items():
        (loss, name, first, last), measure = key, MEASURES[key[1]]
        mean = float(found[key].mean())
        ends = (three_digits(measure.back(at)) for at in (mean - shift, mean + shift))
        table.add_row(
            loss, name, f"{first}-{last}", f"{three_digits(measure.back(mean))} {measure.unit}", " or ".join(ends)
        )
    console.print(table)
    return 0


def _print_rate(recorded: Envelope, console: Console) -> None:
    alarms, total = false_alarms(recorded.summaries())
    seeds = len(recorded.seeds(recorded.losses[0]))
    console.print(
        f"{', '.join(recorded.losses)}: {alarms} of {total} choices of {NEW_RUNS} of the {seeds} seeds are told from "
        f"the other {seeds - NEW_RUNS}; {100 * ALPHA:g} % are asked for",
        **PLAIN,
    )


def _said_versions(recorded: Envelope, new: Envelope, console: Console) -> bool:
    """Say what is another than where the envelope was recorded; whether all versions and the processor are the same."""
    there, here = (
        {**one.about["versions"], "processor": one.about["hardware"].get("processor")} for one in (recorded, new)
    )
    differ = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    named = ", ".join(f"{name} {here.get(name)}" for name in SHOWN_VERSIONS)
    said = "; ".join(f"{name} {there.get(name)} there, {here.get(name)} here" for name in differ)
    console.print(
        f"{new.about['experiment']}: {named}, {here['processor']}; the envelope "
        + (f"was recorded with others: {said}" if said else "was recorded with all versions the same"),
        **PLAIN,
    )
    return not differ


def _another(recorded: Envelope, new: Envelope, loss: str, seed: int) -> str:
    """That the run of a recorded seed is another than recorded, and from where on; nothing if it is the same."""
    found = first_difference(recorded.rows(loss, seed), new.rows(loss, seed))
    if not found:
        return ""
    step, name, old, now = found
    return f"{loss}: seed {seed} is another run from step {step} on, where {name} is {now:.6g}, recorded {old:.6g}"


def _departed(part: Sequence[Compared], departed: Sequence[Compared], recorded: Envelope, new: Envelope) -> str:
    """The line of a loss that learns something else."""
    loss = departed[0].key[0]
    said = []
    for one in sorted(departed, key=lambda one: one.found.p)[:MAX_NAMED]:
        _, name, first, last = one.key
        low, old, high, now = (three_digits(value) for value in (one.low, one.recorded, one.high, one.new))
        steps = _ranges(steps_beyond(recorded.rows(loss), new.rows(loss), name))
        beyond = f", beyond every recorded run at step {steps}" if steps else ""
        said.append(
            f"{name} at steps {first}-{last} is {now} {MEASURES[name].unit}".rstrip()
            + f", recorded {old} (band {low} to {high}, p {one.p:.1g}{beyond})"
        )
    more = f"; and {len(departed) - MAX_NAMED} more" if len(departed) > MAX_NAMED else ""
    return f"{loss}: LEARNS SOMETHING ELSE in {len(departed)} of {len(part)} values: {'; '.join(said)}{more}"


def _kept(part: Sequence[Compared], recorded: Envelope, new: Envelope) -> str:
    """The line of a loss that learns what was recorded."""
    nearest = min(part, key=lambda one: one.found.p)
    loss, name, first, last = nearest.key
    seeds = ", ".join(map(str, new.seeds(loss)))
    low, high, now = (three_digits(value) for value in (nearest.low, nearest.high, nearest.new))
    return (
        f"{loss}: learns the same: the mean of seeds {seeds} is within the band of {len(recorded.seeds(loss))} in all "
        f"of {len(part)} values; nearest to an end: {name} at steps {first}-{last}, {now} in {low} to {high}"
    )


def _ranges(steps: Iterable[int]) -> str:
    """1, 4-6 of [1, 4, 5, 6]."""
    found: list[list[int]] = []
    for step in steps:
        if found and step == found[-1][-1] + 1:
            found[-1][1:] = [step]
        else:
            found.append([step])
    return ", ".join("-".join(map(str, one)) for one in found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis conform",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="  make conform     # train three seeds of three losses, and check them\n"
        "  python -m analysis conform check build/conform\n\n"
        "Exit code 0: the same; 1: a loss learns something else; 2: nothing can be said, with one line that says why.",
    )
    parts = parser.add_subparsers(dest="what", required=True, metavar="{check,record,calibrate}")
    where = f"folder with {ABOUT} (default: {ENVELOPES}/EXPERIMENT)"
    check = parts.add_parser("check", help="compare runs with the recorded ones")
    check.add_argument("--varies", action="append", default=[], metavar="KEY", help="config key, or prefix of keys, in "
                       "which the runs may differ from the recorded ones; may be repeated")  # fmt: skip
    record = parts.add_parser("record", help="make the envelope of runs, ten seeds of each loss")
    record.add_argument("--add", action="store_true", help="keep the other losses that are recorded there: the same "
                        "settings and versions")  # fmt: skip
    for part in (check, record):
        part.add_argument(
            "runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders with any below"
        )
        part.add_argument("--envelope", type=Path, metavar="DIR", help=where)
    calibrate = parts.add_parser("calibrate", help="how often recorded seeds raise a false alarm, and what is found")
    calibrate.add_argument("envelope", nargs="?", type=Path, default=ENVELOPES / "tiny_conform", metavar="DIR",
                           help="folder with the envelope (default: %(default)s)")  # fmt: skip
    return parser
