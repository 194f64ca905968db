"""What a reader must know before any number of a report: one sentence each, at the top of the page."""

from collections.abc import Iterator

from analysis.report.numbers import Report
from analysis.runs.proofs import FALSE


def warnings(report: Report) -> list[str]:
    """The sentences of all experiments; mostly none."""
    several = len(report["experiments"]) > 1
    return [
        f"{experiment}: {said}" if several else said
        for experiment, content in report["experiments"].items()
        for said in _of(content)
    ]


def _of(content: Report) -> Iterator[str]:
    if theirs := content["comparability"].get("imported"):
        frameworks = ", ".join(sorted({record.get("framework", "unknown") for record in theirs.values()}))
        yield (
            f"{len(theirs)} runs are imported from other records ({frameworks}). What those do not "
            "state is unknown, nothing proves that the runs are matched, and no claim is decided with them."
        )
    same = content["comparability"]["same_start"]
    if same["equal"] < same["pairs"]:
        yield (
            f"The first responses differ in {same['pairs'] - same['equal']} of {same['pairs']} pairs of runs of one "
            "seed. Runs of one seed did not begin alike there, so no pairing by seed is claimed and the interval is "
            "Welch's, of independent runs."
        )
    for row in content["verification"]:
        for reason, subjects in row["exceptions"].items():
            if reason.startswith(FALSE) and row["what"] != "first responses":  # said above
                detail = reason.removeprefix(f"{FALSE}: ")
                unused = ", so its responses are in no number" if row["what"] == "responses" else ""
                yield f"{'; '.join(subjects[:3])}: {row['what']}: {detail}{unused}."
    for kind in ("versions", "hardware", "commit"):
        for name, values in content["comparability"][kind].items():
            if len(values) > 1:
                what = "come from different commits" if kind == "commit" else f"differ in {kind}, {name}"
                yield f"The runs {what}: {' | '.join(values)}."
    if changed := [value for value in content["comparability"]["commit"].get("commit", []) if value.endswith("+")]:
        yield f"Runs were made from a changed tree, whose state no commit holds: {', '.join(changed)}."
    for row in content["attrition"]:
        if lost := row["started"] - row["finished"] - row["left out"]:
            yield f"{lost} of {row['started']} runs of {row['arm']} did not finish ({'; '.join(row['why'][:3])})."
