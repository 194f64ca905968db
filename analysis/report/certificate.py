"""The report's certificate as tables: what was equal, what is proved of it, and what became of every run."""

from analysis.report.numbers import Report
from analysis.runs.proofs import AGREES, FALSE, UNKNOWN
from analysis.statistics.attrition import OUTCOMES
from analysis.statistics.comparison import BASES
from analysis.tables.table import Entry, Table


def comparability_table(report: Report, experiment: str) -> Table:
    """What was equal, what was not, and how one knows."""
    content = report["experiments"][experiment]["comparability"]
    same = content["same_start"]
    rows = [
        ("matched in all that is not treatment", _matched(content)),
        ("declared to differ", ", ".join(content["varies"]) or "nothing"),
        ("fingerprints", "; ".join(f"{of or 'none'}: {', '.join(a)}" for of, a in content["fingerprints"].items())),
        (
            "same first responses",
            f"{same['equal']} of {same['pairs']} pairs of runs of one seed" if same["pairs"] else "not recorded",
        ),
    ]
    rows += _stated(content["stated"]) if content.get("stated") else []
    for key, values in content["treatment"].items():
        rows.append((f"treatment: {key}", ", ".join(f"{arm} {value}" for arm, value in values.items())))
    for kind in ("commit", "versions", "hardware"):
        for name, values in content[kind].items():
            differ = " (runs differ)" if len(values) > 1 else ""
            rows.append((kind if kind == name else f"{kind}: {name}", " | ".join(values) + differ))
    notes = (
        "Not matched, because the losses differ in it: the clip range, the size of the gradient, tokens spent.",
        *(f"{name}: {text}." for name, text in ({} if content.get("imported") else BASES).items()),
    )
    return Table(f"matching_{experiment}", f"Comparability of {experiment}", ("what", "found"), tuple(rows), notes)


def imported_tables(report: Report, experiment: str) -> list[Table]:
    """What was read of the files of each imported run; [] without one."""
    rows = []
    for run, found in report["experiments"][experiment]["comparability"].get("imported", {}).items():
        files = [f"{file['file']}: SHA-256 {file['sha256']}" for file in found.get("files", [])]
        files += found.get("where", [])
        used = [
            ours if theirs == [ours] else f"{ours} from {', '.join(theirs)}"
            for ours, theirs in found.get("used", {}).items()
        ]
        axis = f"{found.get('step')}" + (f", {found['per_step']} are one" if found.get("per_step", 1) > 1 else "")
        rows.append(
            (
                run,
                str(found.get("framework", "")),
                "; ".join(files),
                f"{found.get('rows')} rows, {found.get('steps')} steps by {axis}, {found.get('repeated')} repeated",
                "; ".join(used),
                ", ".join(found.get("unknown", [])),
                "; ".join(found.get("notes", [])),
            )
        )
    notes = (
        "Made by `python -m analysis import` from these files, which say no more than this. A run of this kind is "
        "never counted as matched, and no claim is decided with it.",
    )
    columns = ("run", "made by", "files", "read", "taken", "not known", "remarks")
    title = f"Imported runs of {experiment}"
    return [Table(f"imported_{experiment}", title, columns, tuple(rows), notes)] if rows else []


def verification_table(report: Report, experiment: str) -> Table:
    """The certificate: what was recomputed of the runs and of every two arms at one seed, and what cannot be known."""
    rows = []
    for row in report["experiments"][experiment]["verification"]:
        said = [f"{reason} ({_some(subjects)})" for reason, subjects in row["exceptions"].items()]
        of = "pair" if row["pair"] else "run"
        false = Entry(str(row[FALSE]), bold=row[FALSE] > 0)
        rows.append((of, row["what"], str(row[AGREES]), str(row[UNKNOWN]), false, "; ".join(said)))
    notes = (
        "Recomputed for this report from the runs' own files, by `python -m analysis verify`: fingerprints from the "
        "settings, config.yaml against the manifest, files against the hashes of the run's end, responses against the "
        "metrics (number, mean length, reward and accuracy of every step). A pair: two arms at one seed.",
    )
    columns = ("of", "what", "agree", "not known", "false", "which")
    return Table(f"verification_{experiment}", f"What is proved of {experiment}", columns, tuple(rows), notes, labels=2)


def attrition_table(report: Report, experiment: str) -> Table:
    """What became of every run that was started, by arm."""
    rows = []
    for row in report["experiments"][experiment]["attrition"]:
        why = "; ".join(row["why"]) + f"; {row['no_norm']} without a recorded gradient norm" * (row["no_norm"] > 0)
        rows.append((row["arm"], str(row["started"]), *(str(row[name]) for name in OUTCOMES), why.removeprefix("; ")))
    notes = (
        "failed: ended by an error or an alert; diverged: no update in the last three steps. Both are results and cap "
        "a verdict at undecided, as does a run that was started and has no value. stopped by the machine: memory, "
        "disk, a lost process or node, a time limit; it says nothing of the loss, and the same command continues it.",
    )
    columns = ("arm", "started", *OUTCOMES, "which")
    return Table(f"attrition_{experiment}", f"Runs that were started on {experiment}", columns, tuple(rows), notes)


def _matched(content: Report) -> str:
    if content["matched"]:
        return "yes"
    return str(content["why_not"]) if content.get("imported") else f"NO: {content['why_not']}"


def _stated(told: Report) -> list[tuple[str, str]]:
    """What imported runs state of their settings, held against the others."""
    differ = {
        key: " | ".join(f"{value}: {', '.join(runs)}" for value, runs in by_value.items())
        for key, by_value in (told["differ"] | told["treatment"]).items()
    }
    equal = ", ".join(f"{key} {value}" for key, value in told["equal"].items())
    return [
        ("stated by all, and equal", equal or "nothing"),
        *((f"stated, and not equal: {key}", values) for key, values in differ.items()),
        ("stated by some, so not to be compared", ", ".join(told["partly"]) or "nothing"),
    ]


def _some(subjects: list[str]) -> str:
    return "; ".join(subjects[:3]) + (f" and {len(subjects) - 3} more" if len(subjects) > 3 else "")


def runs_table(report: Report) -> Table:
    """Every run, the failed and incomplete ones too, with what went wrong."""
    rows = []
    for run in report["runs"]:
        remarks = "; ".join(filter(None, [run["error"], *run["warnings"]]))
        state = Entry(run["state"], bold=run["state"] != "done")
        minutes = "" if run["minutes"] is None else f"{run['minutes']:.1f}"
        rows.append((run["run"], state, f"{run['last_step']} of {run['planned_steps']}", minutes, remarks))
    done = sum(run["state"] == "done" for run in report["runs"])
    title = f"Runs: {done} of {len(rows)} done"
    return Table("runs", title, ("run", "state", "step", "minutes", "remarks"), tuple(rows))
