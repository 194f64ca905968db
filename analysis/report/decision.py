"""What a sweep that trains seeds until it is decided asks after each of them, and its answer in records and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.paper.claims import claims_for
from analysis.report.answer import points, shown
from analysis.report.numbers import json_ready
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.arms import named
from analysis.statistics.claim_file import NO_CLAIMS, Claim, Claims, three_digits
from analysis.statistics.comparison import LESS, MARGINS, MORE, OPEN, SAME, UNTESTED, chosen_pairs
from analysis.statistics.pairs import experiment_runs
from analysis.statistics.quantities import BENCHMARKS, COUNTS_FAILURES
from analysis.statistics.sequential import FIRST_LOOK, Look, Plan, looks, planned

MOST_SAID = 3  # open comparisons of which the sentence has the interval
NAMES = {"response length": "length", "accuracy": "accuracy"}
REPEATED = "repeated confidence intervals, {level:g} % for all looks and comparisons together"


@dataclass(frozen=True)
class Decision:
    """The rule of one sweep, and what it says of runs. claims: for the windows of its experiment."""

    plan: Plan
    claims: Claims = NO_CLAIMS

    @classmethod
    def of(
        cls, arms: Sequence[str], asked: Sequence[str], max_seeds: int, experiment: str = "", file: str = ""
    ) -> "Decision":
        """The rule for these arms of an experiment, at the level of its claims.

        file: of claims, whose primary ones that compare two arms (without any, all that do) are to be decided. Else
        asked: pairs such as luspo:gspo, else those that a report compares. Raises ``AnalysisError`` for what cannot be
        compared.
        """
        if len(arms) < 2:
            raise AnalysisError(f"a decision is between two arms, and this sweep has only {', '.join(arms)}")
        for claim in asked:
            if strange := [arm for arm in claim.split(":") if arm not in arms]:
                raise AnalysisError(f"claim={claim}: no arm {strange[0]!r} in this sweep; there are {', '.join(arms)}")
        claims = claims_for([experiment], Path(file) if file else None)
        if file:
            return cls(Plan.of_claims(_to_decide(claims, experiment, arms), max_seeds, claims.level), claims)
        first = claims.pairs if claims.decides(experiment) else ()
        pairs = chosen_pairs(arms, asked, first, claims.baselines)
        return cls(Plan(tuple(dict.fromkeys(pairs)), max_seeds, claims.level), claims)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of arms that are compared."""
        return self.plan.pairs

    @property
    def record(self) -> dict[str, Any]:
        """All that was fixed before the first look."""
        return self.plan.record()

    @property
    def words(self) -> str:
        """What is to be decided, when it is looked at, and what ends it."""
        pairs = ", ".join(f"{first}:{second}" for first, second in self.pairs)
        margins = f"{100 * (MARGINS['ratio'] - 1):.0f} % of length, {MARGINS['points']:g} point of accuracy"
        what, when = f"{pairs}, in length and accuracy", f"the margin ({margins})"
        if self.plan.claims:
            names = "; ".join(claim.name for claim in self.plan.claims)
            what, when = f"{names}, claims of {self.claims.file} ({pairs})", "the delta of the claim"
        return (
            f"until decided: {what}; a look after each seed from number {FIRST_LOOK} on, at most "
            f"{self.plan.max_seeds} seeds. A comparison is decided once its interval excludes no effect, or lies "
            f"within {when}; {REPEATED.format(level=100 * self.plan.level)}"
        )

    def judge(self, paths: Sequence[Path], seeds: Sequence[int]) -> dict[str, Any]:
        """Look at the runs ``paths`` of ``seeds``, all of one experiment and all ended: one record for the sweep.

        stop: why no further seed is to be trained (decided, max_seeds, lost), or ""; text: that in words; looks: seeds,
        alpha (the look's own level, of one comparison) and comparisons, of each ``Effect.record``, arms and verdict.
        Runs that cannot be read or are not matched are lost: more of them would decide nothing.
        """
        try:
            found = self._looks(paths, seeds)
        except AnalysisError as error:
            return {"looks": [], "stop": "lost", "text": f"No further seeds: the runs cannot be compared: {error}"}
        last = found[-1] if found else None
        stop = "" if not last else "lost" if last.lost else "decided" if last.decided else ""
        if not stop and len(seeds) >= self.plan.max_seeds:
            stop = "max_seeds"
        records = [_record(look, self.plan) for look in found]
        return {"looks": records, "stop": stop, "text": _sentence(records, self.plan, stop, len(seeds), last)}

    def _looks(self, paths: Sequence[Path], seeds: Sequence[int]) -> list[Look]:
        runs = load_runs(paths).trained()
        (experiment,) = set(runs.runs["experiment"])
        return looks(experiment_runs(runs, self.claims.rules_of(experiment)), self.plan, seeds)


def _to_decide(claims: Claims, experiment: str, arms: Sequence[str]) -> list[Claim]:
    """The claims of a file that a sweep of these arms can decide seed by seed, with the rules of its experiment."""
    about = [
        claim
        for claim in claims.rows
        if claims.decides(experiment) and experiment in (claim.experiments or [experiment])
    ]
    fit = [claim for claim in about if len(claim.arms) == 2 and claim.quantity not in (*COUNTS_FAILURES, BENCHMARKS)]
    chosen = [claim for claim in fit if claim.primary] or fit
    if not chosen:
        raise AnalysisError(f"{claims.file}: no claim compares two arms seed by seed in {experiment} (docs/claims.md)")
    for claim in chosen:
        if strange := [arm for arm in claim.arms if arm not in arms]:
            raise AnalysisError(
                f"{claims.file}:{claim.id}: no arm {strange[0]!r} in this sweep; there are {', '.join(arms)}"
            )
    return [planned(claim, claims, experiment) for claim in chosen]


def _record(look: Look, plan: Plan) -> dict[str, Any]:
    compared = [
        {**effect.record(), "arms": list(test.pair), "verdict": verdict}
        for test, effect, verdict in zip(plan.tests, look.effects, look.verdicts, strict=True)
    ]
    return json_ready({"seeds": look.n, "alpha": plan.alpha(look.n), "lost": look.lost, "comparisons": compared})


def _sentence(records: Sequence[dict[str, Any]], plan: Plan, stop: str, ended: int, last: Look | None) -> str:
    of = f"of {plan.max_seeds} seeds"
    if not records or not last:
        return f"{ended} {of} have ended; the first look is at {FIRST_LOOK}."
    compared = records[-1]["comparisons"]
    still = [one for one in compared if one["verdict"] in (OPEN, UNTESTED)]
    adjusted = f"({REPEATED.format(level=100 * plan.level)})"
    if stop == "lost":
        return (
            f"No further seeds: {last.lost}. More of them decide nothing while a run failed or is lost; once the "
            "cause is mended, the same command goes on."
        )
    if stop == "decided":
        return f"Decided after {last.n} {of}: {'; '.join(map(_said, compared))} {adjusted}."
    done = f"{len(compared) - len(still)} of {len(compared)} comparisons are decided. " if len(compared) > 1 else ""
    open_ones = "; ".join(map(_said, still[:MOST_SAID])) + (
        f"; and {len(still) - MOST_SAID} more" * (len(still) > MOST_SAID)
    )
    head = f"Not decided by all {plan.max_seeds} seeds" if stop else f"Undecided after {last.n} {of}"
    return f"{head}: {done}Open: {open_ones} {adjusted}."


def _said(record: dict[str, Any]) -> str:
    """One comparison in words, with its estimate and interval."""
    if record["quantity"] not in NAMES:  # a claim of a file
        unit = "times" if record["unit"] == "ratio" else record["unit"]
        early = ", too early for an interval" if record["low"] is None else ""
        return f"{record['quantity']} {record['verdict']}, {shown(record, three_digits)} {unit}".rstrip() + early
    first, second = (named(arm) for arm in record["arms"])
    ratio = record["unit"] == "ratio"
    numbers = f"{shown(record, three_digits)} times" if ratio else f"{shown(record, points)} points"
    if record["low"] is None:
        numbers += ", too early for an interval"
    name = NAMES.get(record["quantity"], record["quantity"])
    margin = f"{100 * (MARGINS['ratio'] - 1):.0f} %" if ratio else f"{MARGINS['points']:g} point"
    more, less = ("longer", "shorter") if ratio else ("more accurate", "less accurate")
    subject = f"{first}'s responses are {{}} than {second}'s" if ratio else f"{first} is {{}} than {second}"
    words = {
        MORE: subject.format(more),
        LESS: subject.format(less),
        SAME: f"no difference in {name} between {first} and {second} larger than {margin}",
    }
    return f"{words.get(record['verdict'], f'{name} of {first} and {second}')}, {numbers}"
