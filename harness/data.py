"""Data sets of the paper's experiments in verl's schema.

    python -m harness.data list
    python -m harness.data prepare NAME [--source FOLDER] [--out FOLDER]

Prepare the benchmarks before the training sets: a training set's card then says which questions it shares with them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.config import ConfigError, say_error
from harness.tasks.hub.prepare import card_of, folder_of, prepare
from harness.tasks.hub.table import BENCHMARKS, BUILT_HERE, DATA_SETS
from harness.tasks.registry import asset_builders


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; what cannot be done ends it with one line."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "list":
            _list()
        elif args.name in BUILT_HERE:
            _build(args)
        else:
            out = args.out or folder_of(args.name)
            card = prepare(args.name, args.source, out, args.prompt, args.seed, args.heldout, args.drop_invalid)
            print("\n".join(summary(card, out)))
    except (ConfigError, OSError) as error:
        say_error(error)
        return 2
    return 0


def summary(card: dict[str, Any], out: Path) -> list[str]:
    """A few lines about a data set that was just prepared."""
    lines: list[str] = []
    for part, counts in card["counts"].items():
        dropped = "".join(f", {n:,} dropped ({reason})" for reason, n in counts["dropped"].items())
        read = f"{part}: {counts['read']:,} rows read, {counts['duplicates']:,} duplicates"
        lines.append(f"{read}{dropped}, {counts['kept']:,} kept")
    lines.append(f"{out}: " + ", ".join(f"{one} {of['rows']:,}" for one, of in card["splits"].items()))
    unknown = [source["file"] for source in card["sources"] if source["revision"] is None]
    if unknown:
        lines.append(f"no revision on record for a file with this content: {', '.join(unknown)}")
    for benchmark, found in card["overlap"].items():
        if isinstance(found, str):
            lines.append(f"overlap with {benchmark}: {found}, so not checked")
        else:
            near = next(value for key, value in found.items() if key.startswith("shared"))
            lines.append(
                f"overlap with {benchmark}: {found['same']} questions the same, {near} with 13 words in common"
            )
    return lines


def _build(args: argparse.Namespace) -> None:
    if args.source or args.out or args.prompt or args.heldout is not None or args.drop_invalid:
        raise ConfigError(f"{args.name} is built here, from nothing: of the options it takes --seed only")
    print(asset_builders()[args.name](args.seed))


def _list() -> None:
    table = Table("name", "what", "prompt", "prepared", "from", box=None)
    for name, data_set in DATA_SETS.items():
        card = card_of(folder_of(name))
        rows = ", ".join(f"{one} {of['rows']:,}" for one, of in card["splits"].items()) if card else "no"
        what = "benchmark" if name in BENCHMARKS else "training"
        repos = ", ".join(dict.fromkeys(file.repo for file in data_set.files))
        table.add_row(name, what, card["prompt"]["key"] if card else data_set.prompt, rows, repos)
    for name in BUILT_HERE:
        table.add_row(name, "training", "", "when needed", "built here")
    Console().print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.data", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what can be prepared, and what is")
    one = commands.add_parser("prepare", help="make the files of one data set")
    one.add_argument(
        "name", choices=[*DATA_SETS, *BUILT_HERE], metavar="NAME", help=", ".join([*DATA_SETS, *BUILT_HERE])
    )
    one.add_argument("--source", type=Path, metavar="FOLDER", help="with the published files (default: download them)")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="default: results/assets/data/NAME, where tasks look")
    one.add_argument("--prompt", metavar="KEY|FILE", help="a key of harness/tasks/hub/prompts, or a text file")
    one.add_argument("--seed", type=int, default=0, help="of the choice of held-out questions (default 0)")
    one.add_argument("--heldout", type=int, metavar="N", help="held-out questions of a training set")
    one.add_argument(
        "--drop-invalid", action="store_true", help="leave out rows without answer or image, and count them"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
