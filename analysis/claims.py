"""The paper's claims, decided by rules that were written before the runs: ``results/paper/claims.yaml``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis.figures import MIN_T_RUNS
from analysis.intervals import Interval, Rule, detectable, holm, t_interval, verdict, welch
from analysis.load import AnalysisError, Runs
from analysis.pairs import Sample, collect
from analysis.quantities import QUANTITIES

CLAIMS = Path(__file__).parents[1] / "results" / "paper" / "claims.yaml"
NEUTRAL = {"ratio": 1.0}  # no effect, in the unit; 0 in all others


@dataclass(frozen=True)
class Claim:
    """One row of claims.yaml, a test of a claim; the file's header says what the fields mean."""

    id: str
    claim: str
    where: str
    metric: str
    unit: str
    window: str
    direction: str
    arms: tuple[str, ...]
    experiments: tuple[str, ...]
    row: str = ""
    primary: bool = False
    quantity: str | None = None
    delta: Mapping[str, float] = field(default_factory=dict)
    than: float | None = None
    range: tuple[float, float] | None = None
    needs: str = ""

    def natural(self, effect: float) -> float:
        """An effect, on the scale on which runs are averaged, in the claim's unit: ratios are averaged as logarithms."""
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
        """Everything as one flat row, effects in the claim's unit (points are hundredths), NaN where there is none.

        estimate, low, high at ``level`` decide; low_plain, high_plain at the file's. n: pairs (runs, for one arm) with a
        value; values: their effects by seed. p: two-sided, p_holm: adjusted. welch_low, welch_high: unpaired.
        detectable: the smallest effect that as many such runs tell from none. same_start, failed, left_out: ``Sample``.
        """
        claim, sample, deciding = self.claim, self.sample, self.interval
        shown = sample.values if deciding.n >= MIN_T_RUNS else {}
        unpaired = welch(*zip(*shown.values(), strict=True)) if shown and len(sample.arms) == 2 else None
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
            "runs": list(sample.runs),
        }

    def _number(self, effect: float) -> str:
        value = self.claim.natural(effect)
        if self.claim.unit != "ratio" or not 0 < value < math.inf:
            return f"{value:+.1f}"
        return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"  # three digits that count


def load_claims(path: Path = CLAIMS) -> Claims:
    """Read claims.yaml; raises ``AnalysisError`` naming a claim with unknown or missing fields."""
    content = yaml.safe_load(path.read_text())
    rows = []
    for entry in content["claims"]:
        shared = {key: value for key, value in entry.items() if key != "rows"}
        for row in entry.get("rows", [{}]):
            given = {key: tuple(v) if isinstance(v, list) else v for key, v in {**shared, **row}.items()}
            try:
                claim = Claim(**given)
            except TypeError as error:
                raise AnalysisError(f"{path}: claim {entry.get('id')}: {error}") from None
            if not claim.needs and claim.quantity not in QUANTITIES:
                raise AnalysisError(f"{path}: claim {claim.id}: unknown quantity {claim.quantity!r}")
            rows.append(claim)
    return Claims(content["level"], content["rules"], content["experiments"], tuple(rows))


def evaluate(runs: Runs, claims: Claims) -> list[Result]:
    """Decide every row of ``claims`` on every experiment in ``runs``; a row that cannot be decided is there, not tested.

    Holm's family is the primary rows of the file, in each experiment, with p = 1 for those that are not tested or have
    a failed run. Raises ``AnalysisError`` if a row would compare runs that are not matched.
    """
    results = []
    for experiment in runs.runs["experiment"].unique():
        part = runs.select(experiment=experiment)
        samples = [_sample(part, claim, claims, experiment) for claim in claims.rows]
        plain = [t_interval(sample.effects, claims.level) for sample in samples]
        there = claims.experiments.get(experiment, {})
        n_min = claims.rules[there["rules"]]["n_min"] if there else math.inf
        primary = [at for at, claim in enumerate(claims.rows) if claim.primary]
        made = [samples[at].results >= n_min and not samples[at].failed for at in primary]
        counted = [plain[at].p if counts else 1.0 for at, counts in zip(primary, made, strict=True)]
        corrected = dict(zip(primary, zip(*holm(counted, 1 - claims.level), strict=True), strict=True))
        for at, (claim, sample) in enumerate(zip(claims.rows, samples, strict=True)):
            p_holm, alpha = corrected.get(at, (math.nan, 1 - claims.level))
            interval = t_interval(sample.effects, 1 - alpha)
            enough = sample.results >= n_min
            decided = verdict(interval, claim.rule(there.get("delta", "")), enough, bool(sample.failed))
            reason = _reason(sample, enough, n_min)
            results.append(Result(claim, experiment, sample, plain[at], interval, p_holm, decided, reason))
    return results


def results_frame(results: list[Result]) -> pd.DataFrame:
    """One row per result, columns as in ``Result.record``."""
    return pd.DataFrame([result.record() for result in results])


def _sample(runs: Runs, claim: Claim, claims: Claims, experiment: str) -> Sample:
    if experiment not in claims.experiments:
        return Sample(missing="claims.yaml has no rules for this experiment")
    if experiment not in claim.experiments:
        return Sample(missing=f"a claim about {', '.join(claim.experiments)}")
    if claim.needs or claim.quantity is None:
        return Sample(missing=f"needs {claim.needs}")
    rules = claims.rules[claims.experiments[experiment]["rules"]]
    return collect(runs, claim.arms, rules, QUANTITIES[claim.quantity], claim.window)


def _reason(sample: Sample, enough: bool, n_min: float) -> str:
    """Why a row is not tested or capped, in one line; empty where it is neither."""
    if sample.missing:
        return sample.missing
    told = [f"seed {seed}: {what}" for seed, what in sample.failed.items()]
    if not enough:
        told = [f"{sample.results} runs per arm, {n_min} needed", *told]
        told += [f"seed {seed}: {what}" for seed, what in sample.left_out.items()]
    return "; ".join(told)
