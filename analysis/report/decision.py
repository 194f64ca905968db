"""What a sweep that trains seeds until it is decided asks after each of them, and its answer in records and words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.report.answer import named, points, shown
from analysis.report.numbers import DEFAULT_RULES, json_ready
from analysis.runs.load import AnalysisError, load_runs
from analysis.statistics.claim_file import load_claims
from analysis.statistics.claims import three_digits
from analysis.statistics.comparison import LESS, MARGINS, MORE, OPEN, SAME, UNTESTED, chosen_pairs
from analysis.statistics.pairs import experiment_runs
from analysis.statistics.sequential import FIRST_LOOK, Look, Plan, looks

MOST_SAID = 3  # open comparisons of which the sentence has the interval
NAMES = {"response length": "length", "accuracy": "accuracy"}
REPEATED = "repeated confidence intervals, {level:g} % for all looks and comparisons together"


@dataclass(frozen=True)
class Decision:
    """The rule of one sweep, and what it says of runs."""

    plan: Plan

    @classmethod
    def of(cls, arms: Sequence[str], asked: Sequence[str], max_seeds: int) -> "Decision":
        """The rule for these arms at the level of claims.yaml; asked: pairs such as luspo:gspo, else those of a report.

        Raises ``AnalysisError`` for what cannot be compared.
        """
        if len(arms) < 2:
            raise AnalysisError(f"a decision is between two arms, and this sweep has only {', '.join(arms)}")
        for claim in asked:
            if strange := [arm for arm in claim.split(":") if arm not in arms]:
                raise AnalysisError(f"claim={claim}: no arm {strange[0]!r} in this sweep; there are {', '.join(arms)}")
        return cls(Plan(tuple(dict.fromkeys(chosen_pairs(arms, asked))), max_seeds, load_claims().level))

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
        return (
            f"until decided: {pairs}, in length and accuracy; a look after each seed from number {FIRST_LOOK} on, at "
            f"most {self.plan.max_seeds} seeds. A comparison is decided once its interval excludes no effect, or lies "
            f"within the margin ({margins}); {REPEATED.format(level=100 * self.plan.level)}"
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
        runs, claims = load_runs(paths).trained(), load_claims()
        (experiment,) = set(runs.runs["experiment"])
        rules = claims.rules[claims.experiments.get(experiment, {}).get("rules", DEFAULT_RULES)]
        return looks(experiment_runs(runs, rules), self.plan, seeds)


def _record(look: Look, plan: Plan) -> dict[str, Any]:
    pairs = [pair for pair in plan.pairs for _ in range(len(look.effects) // len(plan.pairs))]
    compared = [
        {**effect.record(), "arms": list(pair), "verdict": verdict}
        for pair, effect, verdict in zip(pairs, look.effects, look.verdicts, strict=True)
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
