"""``python -m analysis.report.readme RUNS...``: the README's results, every number of them from the run directories."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.curves import three_panels
from analysis.figures.style import save
from analysis.report.numbers import Report, build_report
from analysis.report.sections import arms_table, contrast_tables
from analysis.report.write import REPORTS
from analysis.runs.load import AnalysisError, Runs, load_runs
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.claims import Claim, Claims, load_claims, three_digits
from analysis.statistics.matched import require_matched
from analysis.tables.render import to_markdown
from harness.rundir import write_json

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
REPORT = REPORTS / "readme" / "report.json"
SHOWN = ("attribution_", "fork_")  # of the contrasts; the 2 x 2 itself is in the report
FIGURE = Path("results/reference/figure.png")
FIGURE_EXPERIMENT, FIGURE_ARMS = "tiny", ("grpo", "gspo", "luspo")


def render(report: Report, claims: Claims, figure: str | None) -> str:
    """The README's block in Markdown, without the markers. figure: the image's address, None where there is none."""
    parts = [_figure(report, figure), _claims_table(report, claims)]
    for experiment, content in report["experiments"].items():
        if "fork" not in content:  # one step has no learning to show
            parts.append(f"{experiment}: {_conditions(content)}")
            parts.append(to_markdown(arms_table(report, experiment)).strip())
        parts += [to_markdown(t).strip() for t in contrast_tables(report, experiment) if t.name.startswith(SHOWN)]
    return "\n\n".join(parts)


def replace_block(text: str, block: str) -> str:
    """``text`` with what is between the two markers replaced; raises ``AnalysisError`` if they are not there once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise AnalysisError(f"the README needs one line {BEGIN} and below it one line {END}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def write_readme(runs: Runs, readme: Path, report_file: Path = REPORT, figure: Path = FIGURE) -> list[Path]:
    """Write report, figure (PNG and PDF, where the experiment is there) and the README's block; returns the paths."""
    claims = load_claims()
    try:
        text = readme.read_text()
    except OSError as error:
        raise AnalysisError(f"{readme}: cannot be read ({error.strerror})") from None
    replace_block(text, "")  # refuses before anything is written
    report = build_report(runs, claims)
    arms = report["experiments"].get(FIGURE_EXPERIMENT, {}).get("arms", [])
    drawn = any(row["arm"] in FIGURE_ARMS for row in arms)
    images = []
    if drawn:
        part = runs.select(experiment=FIGURE_EXPERIMENT, arm=FIGURE_ARMS)
        require_matched(part)
        images = save(three_panels(part.metrics), figure.with_suffix(""))
    address = Path(os.path.relpath(figure, readme.parent)).as_posix() if drawn else None
    write_json(report_file, report)
    readme.write_text(replace_block(text, render(report, claims, address)))
    return [report_file, *images, readme]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, 2 for input that cannot be analysed."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report.readme",
        description=f"Decide the paper's claims on runs (of one experiment or several) and write {REPORT}, {FIGURE} "
        f"and the README between {BEGIN} and {END}.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run directories, or folders with any below")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="default: README.md")
    args = parser.parse_args(argv)
    try:
        for path in write_readme(load_runs(args.runs), args.readme):
            print(f"wrote {path}")
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _figure(report: Report, figure: str | None) -> str:
    """The image and its caption."""
    if figure is None:
        return f"*Figure: experiment {FIGURE_EXPERIMENT} not run.*"
    content = report["experiments"][FIGURE_EXPERIMENT]
    counts = {row["arm"]: row["n"] for row in content["arms"] if row["arm"] in FIGURE_ARMS}
    n = ", ".join(f"{count} of {arm}" for arm, count in counts.items())
    lines = "; thin: runs, bold: their mean" if max(counts.values()) > 1 else ""
    band = ", band: its pointwise 95 % Student-t interval" if max(counts.values()) >= MIN_T_RUNS else ""
    alt = "Response length, clipped tokens and training accuracy by step, a colour an algorithm"
    return f"![{alt}]({figure})\n\n*{FIGURE_EXPERIMENT}: finished runs n = {n}{lines}{band}. {_conditions(content)}*"


def _conditions(content: Report) -> str:
    """Steps, device and minutes in one sentence each."""
    steps = " or ".join(map(str, content["steps"]))
    minutes = " to ".join(dict.fromkeys(three_digits(m) for m in content["minutes"]))
    device = ", ".join(content["devices"]) or "device not recorded"
    return f"{steps} steps on {device}" + (f", {minutes} minutes a run." if minutes else ".")


def _claims_table(report: Report, claims: Claims) -> str:
    columns = list(dict.fromkeys(entry["column"] for entry in claims.experiments.values()))
    found = {(r["id"], r["row"], r["experiment"]): r for r in report["claims"]}
    lines = [
        "| claim of the paper | " + " | ".join(f"{c} (n)" for c in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    told = ""
    for claim in claims.rows:
        name = f"**{claim.id}**" if claim.primary else claim.id
        where = f" ({claim.where})" if claim.where else ""
        what = f", {claim.row}" if claim.id == told else f" {claim.claim}{where}" + f": {claim.row}" * bool(claim.row)
        cells = [_verdicts(claim, column, claims, found) for column in columns]
        lines.append(f"| {name}{what} | " + " | ".join(cells) + " |")
        told = claim.id
    note = (
        f"In brackets: {100 * report['level']:g} % Student-t interval over runs paired by seed, for primary claims "
        "(bold) at the level of Holm's correction; (n): pairs of runs; dash: not a claim about this setting. "
        "The rules: `results/paper/claims.yaml`."
    )
    return "\n".join(lines) + f"\n\n{note}"


def _verdicts(claim: Claim, column: str, claims: Claims, found: dict[tuple[str, str, str], Report]) -> str:
    """One cell: what each of the column's experiments says of the claim."""
    meant = [e for e, entry in claims.experiments.items() if entry["column"] == column and e in claim.experiments]
    if not meant:
        return "-"
    said = []
    for experiment in meant:
        result = found.get((claim.id, claim.row, experiment))
        if result is None or result["reason"].startswith("no run of"):
            continue
        name = "" if experiment.lower() == column.lower() else f"{experiment}: "
        explain = result["reason"] and (not result["n"] or result["verdict"] == "undecided")
        # Without any value the last seed's reason says it all; the report has the others.
        why = f": {result['reason'].rsplit(': ', 1)[-1]}" if explain else ""
        effect = f"{result['text']} ({result['n']}), " if result["n"] else ""
        said.append(f"{name}{effect}{result['verdict']}{why}".replace("|", "\\|"))
    return "<br>".join(said) or "not run"


if __name__ == "__main__":
    sys.exit(main())
