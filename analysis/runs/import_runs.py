"""Other frameworks' records -> a run directory, which the report shows beside others.

    python -m analysis import NAME FROM [FROM ...] --arm grpo --seed 3
    python -m analysis import compare trl_output --arm grpo-trl --seed 3
    python -m analysis import compare run.jsonl --arm grpo-verl --seed 3 --per-step 4
    python -m analysis import compare history.csv --arm luspo --seed 3 --map map.yaml
    python -m analysis results/imported/compare --contrast grpo-trl:grpo-verl

FROM is a verl .jsonl, TRL's output folder, an offline-run folder of W&B or wandb:ENTITY/PROJECT/RUN, TensorBoard's
event files, Trackio's .db, or a table (.csv, .tsv, .parquet). Several are parts of one run, oldest first. What the
records do not say stays unknown. docs/import.md says what becomes what.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.runs.foreign import KIND
from analysis.runs.imported_dir import hashed, write
from analysis.runs.load import AnalysisError
from analysis.runs.sources.detect import source_of
from analysis.runs.sources.history import History
from analysis.runs.sources.names import (
    APPROXIMATE,
    NOT_TAKEN,
    TOTAL_TOKENS,
    Mapped,
    bare,
    candidates,
    read_mapping,
    validation_of,
)
from analysis.runs.sources.settings import planned_steps, read_config, stated
from analysis.runs.sources.source import Source, listed
from analysis.runs.sources.steps import Taken, taken, trained_steps
from analysis.runs.sources.texts import COMPLETIONS, dumped, graded
from harness.rundir import STANDARD_METRICS, RunDir

ROOT = Path("results/imported")
MAX_NAMED = 6


def import_run(args: argparse.Namespace) -> tuple[Path, list[str]]:
    """Read the records and write the run directory; returns it, and the lines that say what was understood.

    args: of ``_parser``. Raises ``AnalysisError``, one line, for what cannot be read, is nothing that is known, or is
    there already as something else; nothing is written then.
    """
    mapped = read_mapping(args.map)
    sources = [source_of(given, args.run_name) for given in args.sources]
    history, found = _read(sources, mapped, args)
    trained = trained_steps(found.steps)
    if not trained:
        raise AnalysisError(f"{history.where}: {_nothing(history)}")
    given = (mapped.settings, *map(read_config, args.config), args.setting)
    config: dict[str, Any] = {}
    for told in (*(source.settings for source in sources), *given):
        config |= dict(told)
    settings, last = stated(config), trained[-1]
    planned = args.until or args.planned_steps or _planned(sources, config, args.per_step)
    told_seed = settings.get("seed")
    seed = args.seed if args.seed is not None else told_seed if isinstance(told_seed, int) else None
    notes = [*(note for source in sources for note in source.notes), *_said(history), *found.notes]
    notes += [] if planned else [f"planned steps are not stated, taken as the last one recorded, {last}"]
    notes += [] if seed is not None else ["no seed is stated: filed under seed 0; give --seed"]
    framework = " and ".join(dict.fromkeys(source.framework for source in sources))
    arm = args.arm or "".join(sign if sign.isalnum() else "-" for sign in framework.lower()).strip("-")
    ours = dict.fromkeys((*STANDARD_METRICS, *found.used))
    manifest = {
        "kind": KIND,
        "experiment": args.name,
        "arm": arm,
        "algo": args.algo or arm.split(",")[0],
        "seed": int(seed or 0),
        "clip": "",
        "fingerprint": "",
        "planned_steps": planned or last,
        "stated": settings,
        "imported": {
            "framework": framework,
            "files": [hashed(file) for source in sources for file in source.files],
            "where": [source.where for source in sources if source.where],
            "step": history.step_name,
            "per_step": args.per_step,
            "rows": history.rows,
            "steps": len(trained),
            "repeated": history.repeated,
            "used": {name: list(theirs) for name, theirs in found.used.items()},
            "not_used": _not_used(history, found),
            "unknown": [name for name in ours if name not in found.used],
            "notes": notes,
        },
    }
    ended = next((source.exit_code for source in reversed(sources) if source.exit_code is not None), None)
    status: dict[str, Any] = {"state": "done" if last >= (planned or last) else "incomplete", "last_step": last}
    if ended and status["state"] == "incomplete":
        status |= {"state": "failed", "error": f"its process ended with exit code {ended}"}
    run = RunDir(args.root / args.name / arm / f"seed={manifest['seed']}")
    write(run, manifest, status, found.steps, _texts(sources, args))
    return run.path, [*(f"note: {note}" for note in notes), _understood(run, manifest)]


def _read(sources: Sequence[Source], mapped: Mapped, args: argparse.Namespace) -> tuple[History, Taken]:
    """All rows of all sources, and our metrics of them."""
    choices = candidates(mapped)
    wanted = {column.theirs for columns in choices.values() for column in columns} | {TOTAL_TOKENS}
    where = ", ".join(source.named for source in sources)
    validations = {column.theirs for ours, columns in choices.items() if ours.startswith("val_") for column in columns}
    history = History(
        holds=lambda name: name in wanted or bool(validation_of(name)),
        trains=lambda name: name in wanted and name not in validations,
        where=where,
    )
    for source in sources:
        history.read(source.rows(), args.step or mapped.step, mapped.where)
    absent = [c.theirs for c in mapped.columns.values() if c.theirs not in history.columns]
    if absent:
        there = listed(sorted(history.columns), 12)
        raise AnalysisError(f"{history.where}: has no column {absent[0]}, which {args.map} names; there are {there}")
    if args.until:
        last = args.until * args.per_step
        history.steps = {step: row for step, row in history.steps.items() if step <= last}
    if args.validations:
        for step, accuracy in graded(args.validations).items():
            history.steps.setdefault(step, {}).setdefault("val_accuracy", accuracy)
    return history, taken(history, choices, args.per_step)


def _planned(sources: Sequence[Source], config: dict[str, Any], per_step: int) -> int | None:
    told = [source.planned for source in sources if source.planned] or [planned_steps(config)]
    return math.ceil(told[-1] / per_step) if told[-1] else None


def _said(history: History) -> Iterator[str]:
    """What a reader has to know of the rows."""
    for before, to in history.resumed:
        yield f"steps go back from {before} to {to}, taken as a resumed run: what was recorded from {to} on is replaced"
    if history.repeated:
        yield f"{history.repeated} rows repeat a value of their step: the last one counts"
    if history.skipped:
        yield f"{history.skipped} rows have no {history.step_name} and are left out"
    if history.texts:
        yield f"values that are no numbers are left out, of {listed(sorted(history.texts), MAX_NAMED)}"
    for table in (APPROXIMATE, NOT_TAKEN):
        yield from (said for name, said in table.items() if any(bare(column) == name for column in history.columns))


def _not_used(history: History, found: Taken) -> list[str]:
    used = {name for theirs in found.used.values() for name in theirs} | {history.step_name}
    return sorted(history.columns.keys() - used)


def _nothing(history: History) -> str:
    there = listed(sorted(history.columns), 12)
    return (
        f"no row of training with a metric that is known ({history.rows} rows, steps in {history.step_name}); there "
        f"are {there}; name yours with --map"
    )


def _texts(sources: Sequence[Source], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Responses that were dumped: where they are said to be, and TRL's beside its state."""
    folders = [(args.responses, "training")] if args.responses else []
    if not folders:
        beside = [file.parent / COMPLETIONS for source in sources if source.framework == "TRL" for file in source.files]
        folders = [(folder, "training") for folder in beside if any(folder.glob("*.parquet"))]
    folders += [(args.validations, "validation")] if args.validations else []
    rows = [row for folder, kind in folders for row in dumped(folder, kind)]
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        step = math.ceil(row["step"] / args.per_step)
        if not args.until or step <= args.until:  # TRL dumps a rollout again at each of its updates
            found.setdefault((row["of"], step, row["prompt_id"]), {**row, "step": step})
    return list(found.values())


def _understood(run: RunDir, manifest: dict[str, Any]) -> str:
    """The closing line: what was taken and what was not."""
    found = manifest["imported"]
    used = [ours if names == [ours] else f"{ours} from {listed(names, 2)}" for ours, names in found["used"].items()]
    return (
        f"imported {run.path}: {found['framework']}, {found['rows']} rows, {found['steps']} training steps of "
        f"{manifest['planned_steps']} by {found['step']}, {found['repeated']} repeated; {len(used)} columns used "
        f"({listed(used, 20)}); {len(found['not_used'])} not used ({listed(found['not_used'], MAX_NAMED) or 'none'}); "
        f"not known: {listed(found['unknown'], 20) or 'nothing'}; {len(manifest['stated'])} settings stated"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for what cannot be imported."""
    args = _parser().parse_args(argv)
    try:
        unclear = [given for given in args.setting if "=" not in given]
        if unclear:
            raise AnalysisError(f"--setting {unclear[0]}: expected KEY=VALUE, such as learning_rate=1e-6")
        args.setting = {key: _typed(value) for key, _, value in (given.partition("=") for given in args.setting)}
        if bad := [name for name in (args.name, args.arm or "arm") if "/" in name or name in ("", ".", "..")]:
            raise AnalysisError(
                f"{bad[0] or 'an empty name'}: a name of an experiment or arm is a folder's, without a slash"
            )
        path, lines = import_run(args)
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*lines, sep="\n")
    print(f"report: python -m analysis {path.parent.parent}")
    return 0


def _typed(text: str) -> Any:
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis import", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="of the experiment: runs that are to be compared have one")
    add("sources", nargs="+", metavar="FROM", help="file, folder or address of one run's records")
    add("--arm", help="what is compared, such as luspo or grpo-trl (default: the framework)")
    add("--algo", help="the loss, which gives the colour (default: the arm up to a comma)")
    add("--seed", type=int, metavar="N", help="(default: what the records state, else 0)")
    add("--map", type=Path, metavar="FILE", help="YAML: which of the columns is which metric, and in which unit")
    add("--config", type=Path, action="append", default=[], metavar="FILE", help="the run's configuration, YAML or "
        "JSON, of verl or TRL: settings that are then compared; may be repeated")  # fmt: skip
    add("--setting", action="append", default=[], metavar="KEY=VALUE", help="one setting, by verl's or TRL's name")
    add("--step", metavar="COLUMN", help="the column of the steps (default: the usual names)")
    add("--per-step", type=_at_least_one, default=1, metavar="N", help="steps of the source that are one here: the "
        "updates of a rollout, or the steps between two logged rows (default: 1)")  # fmt: skip
    add("--planned-steps", type=_at_least_one, metavar="N", help="that it was to train, counted as here (default: what "
        "the records state, else the last one)")  # fmt: skip
    add("--until", type=_at_least_one, metavar="N", help="take the steps up to N, counted as here, as the whole run")
    add("--run-name", metavar="NAME", help="of a file or folder with several runs the one that is meant")
    add("--responses", type=Path, metavar="DIR", help="dumped training responses: TRL's completions (taken by "
        "themselves where they lie beside the state) or verl's rollout_data_dir")  # fmt: skip
    add("--validations", type=Path, metavar="DIR", help="dumped validations: verl's validation_data_dir")
    add("--root", type=Path, default=ROOT, metavar="DIR", help=f"where run directories are made (default: {ROOT})")
    return parser
