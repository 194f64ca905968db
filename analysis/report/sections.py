"""The report's own tables, made from its numbers (``numbers``): claims, arms, contrasts."""

from collections.abc import Iterable
from typing import Any

from analysis.report.findings import sentence
from analysis.report.missing import more_seeds
from analysis.report.numbers import ARM_COLUMNS, Report
from analysis.statistics.arms import MIN_T_RUNS, X_AXES
from analysis.statistics.claims import three_digits
from analysis.statistics.comparison import BASES
from analysis.tables.table import Entry, Table

UNITS = {"ratio": " x", "points": " points", "tokens": " tokens"}
TOKEN_MATCHED = "equal tokens"  # the rows of claims.yaml that compare at equal tokens


def claims_table(report: Report, experiment: str) -> Table:
    """Every claim that was put to the experiment, with what decides it; bold: supported or contradicted."""
    rows = []
    for result in of_experiment(report, experiment):
        name = f"{result['id']}, {result['row']}" if result["row"] else result["id"]
        decided = result["verdict"] in ("supported", "contradicted")
        n = f"{result['n']}" if result["n"] else ""
        window = "" if result["first_step"] is None else f"{result['first_step']}-{result['last_step']}"
        window = ", ".join(map(str, result["steps"])) or window  # of validations, which are not at every step
        basis = ("token" if TOKEN_MATCHED in result["row"] else "config") if len(result["arms"]) == 2 else ""
        basis = "config, not data" if result["against"] else basis
        basis += ", unpaired" * (basis != "" and not result["paired"] and not result["against"])
        rows.append(
            (
                sentence(result),
                name,
                Entry(result["verdict"], bold=decided),
                _entry(result, _named(result, report["level"])),
                n,
                window,
                basis,
                "; ".join(filter(None, (result["reason"], more_seeds(result)))),
            )
        )
    percent, shown = 100 * report["level"], {row[6].split(",")[0] for row in rows}
    return Table(
        f"claims_{experiment}",
        f"Claims of the paper, decided on {experiment}",
        ("what the paper claims", "id", "verdict", "estimate", "pairs", "steps", "matched by", "reason"),
        tuple(rows),
        (
            f"In brackets: {percent:g} % Student-t interval over runs paired by seed; for the primary claims "
            f"({', '.join(_primaries(report))}) at the level of Holm's correction, which decides, and behind it the "
            f"same interval at {percent:g} %, which the answer above gives. x: a ratio; points: percentage points.",
            _rules(report, experiment),
            *_by_chance(report, experiment),
            *([note] if (note := report["experiments"][experiment]["note"]) else []),
            *(f"{name}: {text}." for name, text in BASES.items() if name.split("-")[0] in shown),
        ),
    )


def _named(result: dict[str, Any], level: float) -> str:
    """A claim's estimate with its interval; where that is corrected, its name and the uncorrected one behind it."""
    ends = (result["low_plain"], result["high_plain"])
    if result["level"] == level or None in ends:
        return result["text"]
    low, high = (three_digits(end) if result["unit"] == "ratio" else f"{end:+.1f}" for end in ends)
    return f"{result['text']} Holm; [{low}, {high}] at {100 * level:g} %"


def _rules(report: Report, experiment: str) -> str:
    """Whether the rules are known to be older than the runs."""
    found = report["experiments"][experiment]["rules"]
    known, other, unknown = found["same"], found["other"], found["unknown"]
    if not other and not unknown:
        return f"The rules, results/paper/claims.yaml, are those that all {known} runs found when they began."
    parts = [f"{known} runs began with these rules"] * bool(known)
    parts += [f"{len(other)} with others ({', '.join(other[:3])}{', ...' if len(other) > 3 else ''})"] * bool(other)
    parts += [f"{unknown} did not record theirs, so nothing shows that the rules are older"] * bool(unknown)
    return f"The rules are those of results/paper/claims.yaml: {'; '.join(parts)}."


def _by_chance(report: Report, experiment: str) -> list[str]:
    """How many rows that are not corrected would lie beyond no effect by chance."""
    tested = [r for r in of_experiment(report, experiment) if not r["primary"] and r["low"] is not None]
    tested = [r for r in tested if r["verdict"] != "not tested"]
    if not tested:
        return []
    share = 1 - report["level"]
    others = f"The {len(tested)} other rows stand each" if len(tested) > 1 else "The one other row stands"
    return [
        f"Holm's correction holds for the primary claims. {others} at {100 * report['level']:g} %: without any true "
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
        "Mean over finished runs; in brackets the t interval of the mean, of two runs minimum and maximum.",
        *(f"{arm['remark']}." for arm in report["experiments"][experiment]["arms"] if arm["remark"]),
    ]
    if any(0 < arm[name]["n"] < arm["n"] for arm in report["experiments"][experiment]["arms"] for name in ARM_COLUMNS):
        notes.append("(2 of 3): the other runs did not record it at every step that it needs.")
    return Table(f"arms_{experiment}", f"Arms of {experiment}", ("arm", "n", *ARM_COLUMNS), tuple(rows), tuple(notes))


def contrast_tables(report: Report, experiment: str) -> list[Table]:
    """The bases of comparison, the 2 x 2, the attribution of the length difference and the forks, where it has them."""
    content, tables = report["experiments"][experiment], []
    if content.get("comparisons"):
        tables.append(_comparisons_table(content, experiment))
    if "factorial" in content:
        rows = [
            (r["quantity"], r["contrast"], _entry(r, _effect(r)), str(r["n"]), r["reason"])
            for r in content["factorial"]
        ]
        notes = (
            "ratio by sequence: gspo and luspo against grpo and grpo_sum; sum over tokens: grpo_sum and luspo against "
            "grpo and gspo; interaction: what the sum does by sequence beyond what it does by token.",
        )
        columns = ("quantity", "effect", "estimate", "seeds", "reason")
        tables.append(
            Table(f"factorial_{experiment}", f"The 2 x 2 on {experiment}", columns, tuple(rows), notes, labels=2)
        )
    if "attribution" in content:
        rows = [(r["part"], _entry(r, _effect({**r, "unit": "ratio"})), str(r["n"])) for r in content["attribution"]]
        notes = (
            "The parts multiply to the whole, seed by seed. The losses compared differ in 1/|y| alone: the last part "
            "is no effect of ratio and clip by themselves, but what 1/|y| does more where they are of sequences.",
        )
        title = f"What LUSPO's length over GSPO's is made of on {experiment}"
        tables.append(Table(f"attribution_{experiment}", title, ("part", "estimate", "seeds"), tuple(rows), notes))
    if "fork" in content:
        rows = [(r["arm"], _entry(r, _effect({**r, "unit": "tokens"})), str(r["n"])) for r in content["fork"]]
        notes = ("Change of the mean response length on the held-out prompts by one update.",)
        title = f"One update of each loss from one checkpoint and batch: {experiment}"
        tables.append(Table(f"fork_{experiment}", title, ("loss", "change", "parents"), tuple(rows), notes))
    return tables


def _comparisons_table(content: Report, experiment: str) -> Table:
    """A row per pair of arms and outcome, a column per basis that was compared, and what tuning would need."""
    by_row: dict[tuple[str, str], dict[str, Report]] = {}
    for record in content["comparisons"]:
        by_row.setdefault((record["contrast"], record["quantity"]), {})[record["basis"]] = record
    bases = list(next(iter(by_row.values())))
    rows = [(*key, *(_entry(of[name], _effect(of[name], n=True)) for name in bases)) for key, of in by_row.items()]
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
    notes = (
        "Of lengths, the ratio at the end; of accuracies, the difference over the run. At equal tokens or movement the "
        "steps compared are those of the run that has spent less.",
        *(f"{name}: {text}." + needed * (name == "tuned") for name, text in BASES.items()),
        X_AXES["kl"].note,
        *(f"{basis}, {', '.join(pairs)}: {reason}." for (basis, reason), pairs in reasons.items()),
    )
    title = f"Contrasts on {experiment} by basis of comparison (pairs of runs)"
    return Table(f"comparisons_{experiment}", title, ("arms", "quantity", *bases), tuple(rows), notes, labels=2)


def _primaries(report: Report) -> Iterable[str]:
    return dict.fromkeys(result["id"] for result in report["claims"] if result["primary"])


def _entry(record: dict[str, Any], text: str, **kwargs: Any) -> Entry:
    numbers = {"mean": record["estimate"], "low": record["low"], "high": record["high"], "n": record["n"]}
    return Entry(text, **{name: float("nan") if value is None else value for name, value in numbers.items()}, **kwargs)


def _effect(record: dict[str, Any], n: bool = False) -> str:
    """Estimate and interval in the record's unit; without an interval the estimate alone; ``n``: and how many."""
    if record["estimate"] is None or not record["n"]:
        return "not tested"
    signed = record["unit"] != "ratio"
    estimate, low, high = (
        "" if value is None else f"{value:+.2f}" if signed else three_digits(value)
        for value in (record["estimate"], record["low"], record["high"])
    )
    interval = f" [{low}, {high}]" if record["n"] >= MIN_T_RUNS else ""
    return estimate + UNITS[record["unit"]] + interval + f" ({record['n']})" * n


def _cell(cell: Report, runs: int) -> Entry:
    """runs: those of the row; a cell of fewer says so."""
    if not cell["n"]:
        return Entry("-")
    of = f" ({cell['n']} of {runs})" if cell["n"] < runs else ""
    spread = f" [{three_digits(cell['low'])}, {three_digits(cell['high'])}]" if cell["n"] > 1 else ""
    return Entry(three_digits(cell["mean"]) + spread + of, cell["mean"], cell["low"], cell["high"], cell["n"])
