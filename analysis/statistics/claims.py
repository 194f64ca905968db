"""The paper's claims, decided by rules that were written before the runs: ``results/paper/claims.yaml``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.evaluated import collect_benchmarks
from analysis.statistics.intervals import Interval, Rule, detectable, holm, verdict, welch
from analysis.statistics.pairs import Sample, collect, collect_apart, experiment_runs
from analysis.statistics.quantities import COUNTS_FAILURES, QUANTITIES
from analysis.statistics.rounding import ABOUT_CLIPPING, remarks
from analysis.statistics.windows import Run

CLAIMS = Path(__file__).parents[2] / "results" / "paper" / "claims.yaml"
BENCHMARKS = "benchmark_accuracy"  # the quantity that evaluations give, not the metrics of training
NEUTRAL = {"ratio": 1.0}  # no effect, in the unit; 0 in all others
DIGITS = {"sd of length": 3}  # decimals shown; 1 in all others


@dataclass(frozen=True)
class Claim:
    """One row of claims.yaml, a test of a claim; the file's header says what the fields mean."""

    id: str
    claim: str
    metric: str
    unit: str
    window: str
    direction: str
    arms: tuple[str, ...]
    experiments: tuple[str, ...]
    quantity: str
    where: str = ""
    row: str = ""
    primary: bool = False
    delta: Mapping[str, float] = field(default_factory=dict)
    than: float | None = None
    range: tuple[float, float] | None = None
    against: str = ""
    n_min: int | None = None

    def natural(self, effect: float) -> float:
        """An effect in the claim's unit; runs are averaged on that scale, ratios as logarithms."""
        return math.exp(effect) if self.unit == "ratio" else effect

    def scaled(self, value: float) -> float:
        """The inverse of ``natural``."""
        return math.log(value) if self.unit == "ratio" else value

    def rule(self, setting: str) -> Rule:
        """The rule on the scale of the effects, with the delta of ``setting``: tiny or paper."""
        neutral = NEUTRAL.get(self.unit, 0.0)
        low, high = self.range or (neutral, neutral)
        return Rule(
            self.direction,
            delta=self.scaled(self.delta.get(setting, neutral)),
            than=self.scaled(neutral if self.than is None else self.than),
            region=(self.scaled(low), self.scaled(high)),
        )


@dataclass(frozen=True)
class Claims:
    """claims.yaml: level of the intervals, rules (n_min and windows) by name, experiments, rows in the file's order."""

    level: float
    rules: Mapping[str, Mapping[str, Any]]
    experiments: Mapping[str, Mapping[str, str]]
    rows: tuple[Claim, ...]


@dataclass(frozen=True)
class Result:
    """One row decided on one experiment. sample: the values and the runs they come from.

    plain: the interval at the file's level. interval: the one that decides, for a primary row at Holm's level. Both on
    the scale of the effects; ``record`` and ``text`` are in the claim's unit.
    """

    claim: Claim
    experiment: str
    sample: Sample
    plain: Interval
    interval: Interval
    p_holm: float
    verdict: str
    reason: str

    @property
    def text(self) -> str:
        """Estimate and deciding interval, e.g. ``1.58 x [1.41, 1.77]`` or ``+1.9 points``; empty without a value."""
        if not self.sample.values:
            return ""
        unit = "x" if self.claim.unit == "ratio" else self.claim.unit
        estimate, low, high = (self._number(getattr(self.interval, name)) for name in ("estimate", "low", "high"))
        return f"{estimate} {unit}" + (f" [{low}, {high}]" if self.interval.n >= MIN_T_RUNS else "")

    def record(self) -> dict[str, Any]:
        """Everything as one flat row, effects in the claim's unit (points: of percent), NaN where there is none.

        estimate, low, high at ``level`` decide; low_plain, high_plain at the file's. n: pairs (runs, for one arm) with
        a value; values: their effects by seed. p: two-sided, p_holm: adjusted. welch_low, welch_high: unpaired.
        detectable: the half-width of the interval (``intervals.detectable``). same_start, failed, left_out: ``Sample``.
        against: the experiment that this one is compared with, or ""; other_values: the arm's there, by seed.
        """
        claim, sample, deciding = self.claim, self.sample, self.interval
        shown = sample.values if deciding.n >= MIN_T_RUNS else {}
        unpaired = welch(*np.array(list(shown.values())).T) if shown and len(sample.arms) == 2 else None
        bounds = {
            "estimate": deciding.estimate,
            "low": deciding.low if shown else math.nan,
            "high": deciding.high if shown else math.nan,
            "low_plain": self.plain.low if shown else math.nan,
            "high_plain": self.plain.high if shown else math.nan,
            "welch_low": unpaired.low if unpaired else math.nan,
            "welch_high": unpaired.high if unpaired else math.nan,
            "detectable": detectable(deciding.sd, deciding.n, deciding.level) if shown else math.nan,
        }
        first, last = sample.window or (None, None)
        return {
            "id": claim.id,
            "row": claim.row,
            "claim": claim.claim,
            "where": claim.where,
            "primary": claim.primary,
            "metric": claim.metric,
            "experiment": self.experiment,
            "arms": list(sample.arms),
            "verdict": self.verdict,
            "reason": self.reason,
            "text": self.text,
            "unit": claim.unit,
            **{name: claim.natural(value) for name, value in bounds.items()},
            "level": deciding.level,
            "p": deciding.p,
            "p_holm": self.p_holm,
            "n": deciding.n,
            "n_runs": sample.n_runs,
            "window": claim.window,
            "first_step": first,
            "last_step": last,
            "values": {seed: claim.natural(e) for seed, e in zip(sample.values, sample.effects, strict=True)},
            "correlation": sample.correlation,
            "same_start": sample.same_start,
            "failed": sample.failed,
            "left_out": sample.left_out,
            "runs": [*sample.runs, *(sample.other.runs if sample.other else ())],
            "against": claim.against,
            "other_values": {s: claim.natural(v[0]) for s, v in (sample.other.values if sample.other else {}).items()},
        }

    def _number(self, effect: float) -> str:
        value = self.claim.natural(effect)
        if self.claim.unit == "ratio":
            return three_digits(value)
        digits = DIGITS.get(self.claim.unit, 1)
        return f"{round(value, digits) + 0.0:+.{digits}f}"


def three_digits(value: float) -> str:
    """A number with three digits that count and no exponent: 0.0312, 1.58, 27.6, 3940."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def load_claims(path: Path = CLAIMS) -> Claims:
    """Read claims.yaml; raises ``AnalysisError`` naming a claim with unknown or missing fields."""
    content = yaml.safe_load(path.read_text())
    rows = []
    for entry in content["claims"]:
        shared = {key: value for key, value in entry.items() if key != "rows"}
        for row in entry.get("rows", [{}]):
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in {**shared, **row}.items()}
            try:
                claim = Claim(**given)
            except TypeError as error:
                raise AnalysisError(f"{path}: claim {entry.get('id')}: {error}") from None
            if claim.quantity not in {*QUANTITIES, BENCHMARKS}:
                raise AnalysisError(f"{path}: claim {claim.id}: unknown quantity {claim.quantity!r}")
            rows.append(claim)
    return Claims(content["level"], content["rules"], content["experiments"], tuple(rows))


def evaluate(runs: Runs, claims: Claims) -> list[Result]:
    """Decide every row of ``claims`` on every experiment in ``runs``; what cannot be decided is there as not tested.

    Holm's family is the primary rows of the file, in each experiment, with p = 1 for those that are not tested or have
    a failed run. Raises ``AnalysisError`` if a row would compare runs that are not matched.
    """
    present = set(runs.runs["experiment"])
    listed = [name for name in claims.experiments if name in present]
    others = sorted(present.difference(listed))
    return [r for name in (*listed, *others) for r in _decide(runs, claims, name)]


def results_frame(results: list[Result]) -> pd.DataFrame:
    """One row per result, columns as in ``Result.record``."""
    return pd.DataFrame([result.record() for result in results])


def _decide(runs: Runs, claims: Claims, experiment: str) -> list[Result]:
    """Every row on the runs of one experiment; runs: of all experiments."""
    entry = claims.experiments.get(experiment)
    members = _members(runs, claims, experiment)
    samples = [_sample(members, claim, claims, experiment, runs) for claim in claims.rows]
    usual = claims.rules[entry["rules"]]["n_min"] if entry else math.inf
    n_min = [claim.n_min or usual for claim in claims.rows]
    enough = [sample.results >= n for sample, n in zip(samples, n_min, strict=True)]
    plain = [sample.interval(claims.level) for sample in samples]

    family = [at for at, claim in enumerate(claims.rows) if claim.primary]
    p = [plain[at].p if enough[at] and not samples[at].capped else math.nan for at in family]
    corrected = dict(zip(family, zip(*holm(p, 1 - claims.level), strict=True), strict=True))
    results = []
    for at, (claim, sample) in enumerate(zip(claims.rows, samples, strict=True)):
        p_holm, alpha = corrected.get(at, (math.nan, 1 - claims.level))
        interval = sample.interval(1 - alpha)
        decided = verdict(interval, claim.rule(entry["delta"] if entry else ""), enough[at], sample.capped)
        reason = _reason(sample, n_min[at], claim.against)
        results.append(Result(claim, experiment, sample, plain[at], interval, p_holm, decided, reason))
    return results


def _members(runs: Runs, claims: Claims, experiment: str) -> list[Run]:
    """The runs of an experiment with its windows; none if it has no rules or no run."""
    if experiment not in claims.experiments or experiment not in set(runs.runs["experiment"]):
        return []
    return experiment_runs(runs.select(experiment=experiment), claims.rules[claims.experiments[experiment]["rules"]])


def _sample(members: Sequence[Run], claim: Claim, claims: Claims, experiment: str, runs: Runs) -> Sample:
    """The claim's values in the runs of an experiment, ``members`` of all ``runs``, or why there are none."""
    if experiment not in claims.experiments:
        return Sample(missing="claims.yaml has no rules for this experiment")
    if experiment not in claim.experiments:
        return Sample(missing=f"a claim about {', '.join(claim.experiments)}")
    if claim.quantity == BENCHMARKS:
        return collect_benchmarks(members, claim.arms, claim.window)
    quantity, caps = QUANTITIES[claim.quantity], claim.quantity not in COUNTS_FAILURES
    if claim.against:
        others = _members(runs, claims, claim.against)
        if not others:
            return Sample(claim.arms, missing=f"no run of {claim.against}")
        return collect_apart(runs, members, others, claim.arms, quantity, claim.window)
    sample = collect(members, claim.arms, quantity, claim.window, caps)
    if claim.quantity in ABOUT_CLIPPING and sample.values:
        return replace(sample, remark=remarks(run for run in members if run.name in sample.runs))
    return sample if caps else replace(sample, remark=_counts(sample))


def _counts(sample: Sample) -> str:
    """In how many runs of each arm what is counted happened, in one phrase."""
    lost = zip(sample.arms, np.sum(list(sample.values.values()), axis=0), strict=True) if sample.values else ()
    return ", ".join(f"{count:.0f} of {len(sample.values)} {arm}" for arm, count in lost)


def _reason(sample: Sample, n_min: float, against: str) -> str:
    """Why a row is not tested or capped and what else is to be said of it, in one line; mostly empty."""
    if sample.missing:
        return sample.missing
    parts = {"": sample} | ({f"{against}, ": sample.other} if sample.other else {})
    failed, left_out = (
        [f"{name}seed {seed}: {what}" for name, part in parts.items() for seed, what in getattr(part, kind).items()]
        for kind in ("failed", "left_out")
    )
    if sample.results >= n_min:
        return "; ".join(filter(None, [*failed, sample.remark]))
    return "; ".join(filter(None, [f"{sample.results} of {n_min} runs per arm", *failed, *left_out, sample.remark]))
