"""``python -m analysis power RUNS``: the noise between seeds, and how many seeds a test and a verdict need."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.report import arguments
from analysis.report.drawing import FigureOptions
from analysis.report.numbers import json_ready
from analysis.report.write import PLAIN, claims_of, say_left_out
from analysis.runs.load import AnalysisError, Runs, load_runs
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.claim_file import Claims, three_digits
from analysis.statistics.claims import Result, evaluate
from analysis.statistics.power import MAX_SEEDS, NO_SPREAD, NO_T, SEEDS, command, has_spread, plan
from analysis.statistics.selection import choose
from harness.rundir import write_json

Plan = dict[str, Any]
NONE = "the paper's claims are not about it; write some of your own (docs/claims.md) and give them: --claims FILE"
NOISE, NEEDED = (
    "noise between seeds, and the smallest effect that 3 to 20 seeds find",
    "effects, and the seeds they need",
)
NOTES = (
    "sd: of the difference of two runs of one seed, over seeds, with its {level:g} % interval; of a ratio (x) that of "
    "its logarithm. Found: a two-sided t test at {alpha:g} % shows an effect of this size with a probability of 80 %.",
    "Smallest: the effect that matters by the claim's rule. Seeds: of each arm in all, in brackets at either end of "
    "the interval of sd; the time is of those that are missing, one run after the other. A verdict is by the claim's "
    "whole rule, for primary claims at Holm's level, if the effect is the observed one.",
    "That effect is uncertain too: plan with the smallest that matters, and fix the number of seeds before you train. "
    "Testing after every further seed finds what is not there.",
)


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Plan and print; returns 0. Raises ``AnalysisError`` where nothing can be planned, with one line that says why."""
    console = console or Console()
    args = arguments.power().parse_args(argv)
    runs = load_runs(args.runs)
    claims = claims_of(runs, FigureOptions(claims=args.claims))
    runs = choose(runs)
    if not claims.rows:
        raise AnalysisError(f"{_said(sorted(set(runs.runs['experiment'])))}: {NONE}")
    wanted = _wanted(claims, args.claim)
    results = [r for r in evaluate(runs, claims) if r.claim.id in wanted and len(r.claim.arms) == 2]
    planned = [result for result in results if not _why_not(result)]
    said = list(_unplanned(results, runs))
    if not planned:
        raise AnalysisError(said[0] if said else _nothing(runs, results, claims))
    plans = [plan(result, runs, claims.level) for result in planned]
    if args.json:
        _write(args.json, {"level": claims.level, "max_seeds": MAX_SEEDS, "rows": plans, "not_planned": said})
    say_left_out(runs, console)
    for experiment in dict.fromkeys(one["experiment"] for one in plans):
        part = [one for one in plans if one["experiment"] == experiment]
        for title, table in ((NOISE, _noise_table), (NEEDED, _seeds_table)):
            console.print(Text(f"{experiment}: {title}", style="bold"), table(part), sep="\n")
    for line in said:
        console.print(f"not planned: {line}", style="yellow", **PLAIN)
    for note in NOTES:
        shown = note.format(level=100 * claims.level, alpha=100 * (1 - claims.level))
        console.print(shown, style="dim", highlight=False)
    return 0


def _wanted(claims: Claims, asked: Sequence[str]) -> list[str]:
    """The ids of the claims that compare two arms, or those of them that were asked for."""
    compared = list(dict.fromkeys(claim.id for claim in claims.rows if len(claim.arms) == 2))
    known = {claim.id.casefold(): claim.id for claim in claims.rows}
    for name in asked:
        if (found := known.get(name.casefold())) is None:
            said = _said(compared)
            raise AnalysisError(f"{claims.file} has no claim {name!r}; those that compare two arms are {said}")
        if found not in compared:
            said = _said(compared)
            raise AnalysisError(f"claim {found} of {claims.file} compares no two arms; those that do are {said}")
    return [known[name.casefold()] for name in asked] or compared


def _why_not(result: Result) -> str:
    """Why a row cannot be planned, or ""."""
    sample = result.sample
    if not sample.values:
        return sample.missing or result.reason.rsplit(": ", 1)[-1] or "no seed has both arms"
    if sample.at_level:
        return NO_T
    if result.interval.n < MIN_T_RUNS:
        return f"a spread needs {MIN_T_RUNS} seeds of each arm, found {result.interval.n}"
    return "" if has_spread(result) else NO_SPREAD


def _unplanned(results: Sequence[Result], runs: Runs) -> Iterator[str]:
    """One line for each experiment, pair of arms and reason; none about arms that are not there."""
    there = set(runs.runs[["experiment", "arm"]].itertuples(index=False, name=None))
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        arms, why = result.sample.arms, _why_not(result)
        if why and arms and all((result.experiment, arm) in there for arm in arms):
            groups.setdefault((result.experiment, " and ".join(arms), why), []).append(result)
    for (experiment, arms, why), group in groups.items():
        first = group[0]
        lacking = MIN_T_RUNS - first.interval.n
        fewer = first.sample.values and lacking > 0 and not first.sample.at_level
        remedy = f"; train the others: {command(first, runs, lacking)}" if fewer else ""
        rows = ", ".join(dict.fromkeys(result.claim.id for result in group))
        yield f"{experiment}, {arms}: {why} ({rows}){remedy}"


def _nothing(runs: Runs, results: Sequence[Result], claims: Claims) -> str:
    """Why no row has runs of both of its arms, and what would be right."""
    arms = set(runs.runs["arm"])
    known = [result for result in results if result.sample.arms]
    if not known:
        experiments = runs.runs["experiment"].unique()
        return f"{_said(experiments)}: {claims.file} has no claim about it that compares two arms (docs/claims.md)"
    best = max(known, key=lambda result: len(arms.intersection(result.sample.arms)))
    pair = [arm.partition("|")[0] for arm in best.sample.arms]
    algos = ",".join(arm.partition(",")[0] for arm in pair)
    return (
        f"{best.experiment}: only runs of {_said(sorted(arms))}, and {best.claim.id} compares {' and '.join(pair)}; "
        f"train both: make sweep EXPERIMENT={best.experiment} ALGOS={algos} SEEDS=0,1,2"
    )


def _noise_table(plans: Sequence[Plan]) -> Table:
    table = _empty("claim", "seeds", "sd", *(f"by {n}" for n in SEEDS))
    for one in plans:
        low, sd, high = (three_digits(one[name]) for name in ("sd_low", "sd", "sd_high"))
        found = [three_digits(one["detectable"][n]) for n in SEEDS]
        seeds = f"{one['n']}" + " unpaired" * (not one["paired"])
        table.add_row(f"{_label(one)} ({_unit(one)})", seeds, f"{sd} [{low}, {high}]", *found)
    return table


def _seeds_table(plans: Sequence[Plan]) -> Table:
    table = _empty("claim", "smallest effect", "observed effect", "verdict now, and then")
    for one in plans:
        arms = (" / " if one["unit"] == "ratio" else " - ").join(one["arms"])
        effects = [
            f"{three_digits(one[name])} {_unit(one)}\n{_seeds(one, one[f'to_find_{name}'])}"
            if one[name] is not None
            else "-"
            for name in ("smallest", "observed")
        ]
        decides = one["to_decide"]
        then = decides["why_not"] or f"{decides['verdict'] or 'none'} by {_seeds(one, decides['seeds'])}"
        table.add_row(f"{_label(one)}\n{arms}\n{_time(one, 1)} a seed", *effects, f"{one['verdict']}\n{then}")
    return table


def _empty(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=not column.startswith(("claim", "verdict")))
    return table


def _unit(one: Plan) -> str:
    return "x" if one["unit"] == "ratio" else str(one["unit"])


def _seeds(one: Plan, needed: dict[str, float]) -> str:
    """Number of seeds, its range, and the time of those that are not there."""
    n, low, high = (str(value) if value <= MAX_SEEDS else f">{MAX_SEEDS}" for value in needed.values())
    more = max(needed["n"] - one["n"], 0)
    return f"{n} ({low} to {high})" + (f"\n{_time(one, more)}" if 0 < more <= MAX_SEEDS else "")


def _time(one: Plan, seeds: float) -> str:
    """What so many more seeds of every arm cost."""
    if one["gpu_hours"] > 0:
        return f"{three_digits(seeds * one['gpu_hours'])} GPU-hours"
    minutes = seeds * one["minutes"]
    if math.isnan(minutes):
        return "time unknown"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _label(one: Plan) -> str:
    return f"{one['id']}, {one['row']}" if one["row"] else str(one["id"])


def _said(names: Iterable[str]) -> str:
    return ", ".join(names)


def _write(file: Path, content: dict[str, Any]) -> None:
    try:
        write_json(file, json_ready(content))
    except OSError as error:
        raise AnalysisError(f"--json {file}: cannot be written ({error.strerror})") from None
