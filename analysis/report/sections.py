"""The report's own tables, made from its numbers (``numbers``): claims, arms, contrasts."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from analysis.paper.factorial import factorial_tables
from analysis.report.answer import EQUAL, NOT_ADJUSTED
from analysis.report.missing import more_seeds
from analysis.report.numbers import ARM_COLUMNS, Report
from analysis.statistics.arms import X_AXES
from analysis.statistics.claim_file import three_digits
from analysis.statistics.comparison import BASES
from analysis.statistics.recorded import parts_of
from analysis.tables.effects import effect_entry, effect_text
from analysis.tables.table import Entry, Table

MATCHED = {"": "config", "tokens": "token", "kl": "movement"}  # what is equal in a claim -> its basis of comparison
STUDENT = "Student-t interval over pairs of runs, not corrected for several tests"
REPEATED = "repeated interval, which allows for looking after every seed and for all that was to be decided"
LOOKED = (
    "Seeds were added until a comparison was decided. The interval that allows for looking after every seed is called "
    "repeated; Holm's, those at one level and all p are not adjusted for it. A verdict must hold with both."
)


def claims_table(report: Report, experiment: str) -> Table:
    """Every claim that was put to the experiment, with what decides it; bold: supported or contradicted."""
    of, file = report["claims_of"]["of"], report["claims_of"]["file"]
    rows = []
    for result in of_experiment(report, experiment):
        name = f"{result['id']}, {result['row']}" if result["row"] else result["id"]
        decided = result["verdict"] in ("supported", "contradicted")
        n = f"{result['n']}" if result["n"] else ""
        window = "" if result["first_step"] is None else f"{result['first_step']}-{result['last_step']}"
        window = ", ".join(map(str, result["steps"])) or window  # of validations, which are not at every step
        basis = MATCHED[parts_of(result["quantity"])[1]] if len(result["arms"]) == 2 else ""
        basis = "config, not data" if result["against"] else basis
        basis += ", unpaired" * (basis != "" and not result["paired"] and not result["against"])
        rows.append(
            (
                result["sentence"],
                name,
                Entry(result["verdict"], bold=decided),
                effect_entry(result, result["stated"]),
                n,
                window,
                basis,
                "; ".join(filter(None, (result["reason"], more_seeds(result)))),
            )
        )
    shown = {row[6].split(",")[0] for row in rows}
    return Table(
        f"claims_{experiment}",
        f"Claims of {of or file}, decided on {experiment}",
        (f"what {of} claims" if of else "claim", "id", "verdict", "estimate", "pairs", "steps", "matched by", "reason"),
        tuple(rows),
        (
            _intervals(report, experiment),
            *([LOOKED] if report["experiments"][experiment].get("repeated") else []),
            _rules(report, experiment),
            *_by_chance(report, experiment),
            *([note] if (note := report["experiments"][experiment]["note"]) else []),
            *(f"{name}: {text}." for name, text in BASES.items() if name.split("-")[0] in shown),
        ),
    )


def _intervals(report: Report, experiment: str) -> str:
    """What the intervals of the claims are."""
    primaries, percent = ", ".join(_primaries(report)), 100 * report["level"]
    answer = "" if report["experiments"][experiment].get("repeated") else ", the kind that the answer above gives"
    holm = (
        f"; for the primary claims ({primaries}) at the level of Holm's correction, which decides, and behind it the "
        f"same interval at {percent:g} %{answer}"
    )
    units = "x: a ratio; points: percentage points"
    return f"In brackets: {percent:g} % Student-t interval over runs paired by seed{holm * bool(primaries)}. {units}."


def _rules(report: Report, experiment: str) -> str:
    """Whether the rules are known to be older than the runs."""
    found = report["experiments"][experiment]["rules"]
    known, other, unknown = found["same"], found["other"], found["unknown"]
    file = report["claims_of"]["file"]
    if not other and not unknown:
        return f"The rules, {file}, are those that all {known} runs found when they began."
    parts = [f"{known} runs began with these rules"] * bool(known)
    parts += [f"{len(other)} with others ({', '.join(other[:3])}{', ...' if len(other) > 3 else ''})"] * bool(other)
    parts += [f"{unknown} did not record theirs, so nothing shows that the rules are older"] * bool(unknown)
    return f"The rules are those of {file}: {'; '.join(parts)}."


def _by_chance(report: Report, experiment: str) -> list[str]:
    """How many rows that are not corrected would lie beyond no effect by chance."""
    tested = [r for r in of_experiment(report, experiment) if not r["primary"] and r["low"] is not None]
    tested = [r for r in tested if r["verdict"] != "not tested"]
    if not tested:
        return []
    share = 1 - report["level"]
    others = f"The {len(tested)} other rows stand each" if len(tested) > 1 else "The one other row stands"
    holm = "Holm's correction holds for the primary claims." if any(_primaries(report)) else "No claim is primary."
    others = others.replace(" other", "") if not any(_primaries(report)) else others
    return [
        f"{holm} {others} at {100 * report['level']:g} %: without any true "
        f"effect about {len(tested) * share:.1f} of them would lie beyond no effect, in either direction."
    ]


def of_experiment(report: Report, experiment: str) -> list[dict[str, Any]]:
    """The results of one experiment; claims about another kind of experiment are left out."""
    return [
        r for r in report["claims"] if r["experiment"] == experiment and not r["reason"].startswith("a claim about")
    ]


def arms_table(report: Report, experiment: str) -> Table:
    """One row per arm: number of finished runs, and the mean over them of ``ARM_COLUMNS``."""
    rows = []
    for arm in report["experiments"][experiment]["arms"]:
        n = f"{arm['n']} ({arm['not_done']} more not done)" if arm["not_done"] else str(arm["n"])
        rows.append((arm["arm"], n, *(_cell(arm[name], arm["n"]) for name in ARM_COLUMNS)))
    notes = [
        f"Mean over finished runs; in brackets the {100 * report['level']:g} % t interval of the mean, of two runs "
        "minimum and maximum.",
        *([NOT_ADJUSTED.format("these are")] if report["experiments"][experiment].get("repeated") else []),
        *(f"{arm['remark']}." for arm in report["experiments"][experiment]["arms"] if arm["remark"]),
    ]
    if any(0 < arm[name]["n"] < arm["n"] for arm in report["experiments"][experiment]["arms"] for name in ARM_COLUMNS):
        notes.append("(2 of 3): the other runs did not record it at every step that it needs.")
    return Table(f"arms_{experiment}", f"Arms of {experiment}", ("arm", "n", *ARM_COLUMNS), tuple(rows), tuple(notes))


def contrast_tables(report: Report, experiment: str) -> list[Table]:
    """The bases of comparison, the 2 x 2, the attribution of the length difference and the forks, where it has them."""
    content, tables = report["experiments"][experiment], []
    if content.get("comparisons"):
        tables.append(_comparisons_table(content, experiment, 100 * report["level"]))
    looked = (NOT_ADJUSTED.format("these intervals are"),) if content.get("repeated") else ()
    tables += [replace(table, notes=(*table.notes, *looked)) for table in factorial_tables(content, experiment)]
    if "fork" in content:
        rows = [(r["arm"], effect_entry(r, effect_text({**r, "unit": "tokens"})), str(r["n"])) for r in content["fork"]]
        notes = ("Change of the mean response length on the held-out prompts by one update.",)
        title = f"One update of each loss from one checkpoint and batch: {experiment}"
        tables.append(Table(f"fork_{experiment}", title, ("loss", "change", "parents"), tuple(rows), notes))
    return tables


def _comparisons_table(content: Report, experiment: str, percent: float) -> Table:
    """A row per pair of arms and outcome, a column per basis that was compared, and what tuning would need."""
    by_row: dict[tuple[str, str], dict[str, Report]] = {}
    for record in content["comparisons"]:
        by_row.setdefault((record["contrast"], record["quantity"]), {})[record["basis"]] = record
    bases = list(next(iter(by_row.values())))
    rows = [
        (*key, *(effect_entry(of[name], effect_text(of[name], n=True)) for name in bases)) for key, of in by_row.items()
    ]
    tuning = content["tuning"]
    needed = (
        f" It would need {', '.join(tuning['arms'])} at the learning rates "
        f"{', '.join(f'{rate:g}' for rate in tuning['grid'])}, on other seeds than "
        f"{', '.join(map(str, tuning['compared_seeds']))}."
        if tuning
        else ""
    )
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for record in (record for record in content["comparisons"] if record["reason"]):
        reasons.setdefault((record["basis"], record["reason"]), {})[record["contrast"]] = None
    theirs = content["comparability"].get("imported")  # never called matched
    words = {name: EQUAL[name] if theirs else name for name in bases}
    described = [] if theirs else [f"{name}: {text}." + needed * (name == "tuned") for name, text in BASES.items()]
    notes = (
        "Of lengths, the ratio at the end; of accuracies, the difference over the run. At equal tokens or movement the "
        "steps compared are those of the run that has spent less.",
        f"In brackets: {percent:g} % {REPEATED if content['repeated'] else STUDENT}.",
        *described,
        X_AXES["kl"].note,
        *(f"{words[basis]}, {', '.join(pairs)}: {reason}." for (basis, reason), pairs in reasons.items()),
    )
    shown = [words[name] for name in bases]
    title = f"Contrasts on {experiment} by basis of comparison (pairs of runs)"
    return Table(f"comparisons_{experiment}", title, ("arms", "quantity", *shown), tuple(rows), notes, labels=2)


def _primaries(report: Report) -> Iterable[str]:
    return dict.fromkeys(result["id"] for result in report["claims"] if result["primary"])


def _cell(cell: Report, runs: int) -> Entry:
    """runs: those of the row; a cell of fewer says so."""
    if not cell["n"]:
        return Entry("-")
    of = f" ({cell['n']} of {runs})" if cell["n"] < runs else ""
    spread = f" [{three_digits(cell['low'])}, {three_digits(cell['high'])}]" if cell["n"] > 1 else ""
    return Entry(three_digits(cell["mean"]) + spread + of, cell["mean"], cell["low"], cell["high"], cell["n"])
