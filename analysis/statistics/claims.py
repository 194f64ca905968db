"""Claims, decided on runs by the rules of their file."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.foreign import native
from analysis.runs.load import Runs
from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.claim_file import Claim, Claims
from analysis.statistics.intervals import Interval, Rule, detectable, holm, verdict, welch
from analysis.statistics.movement import with_movement
from analysis.statistics.pairs import Sample
from analysis.statistics.quantities import AT_EQUAL
from analysis.statistics.repeated import both, can_be_repeated, plans_of, repeated_interval
from analysis.statistics.samples import members_of, sample_of
from analysis.statistics.windows import N_MIN

UNPAIRED = "unpaired (Welch): the first responses were the same in {} of {} pairs, so a seed is no pair"
NO_SPREAD = "the effects are all equal, which gives no interval; p is the exact sign test's"
MOVED = next(suffix for suffix, spent in AT_EQUAL.items() if spent == "kl")
NO_SPREAD_APART = "the runs of each arm are all equal, which gives no interval; p is the exact permutation test's"
LOOKS = (
    "by the file's rule alone {}, but seeds were added until a comparison was decided, and with the repeated interval, "
    "which allows for that, {}"
)


@dataclass(frozen=True)
class Result:
    """One row decided on one experiment. sample: the values and the runs they come from.

    plain: the interval at the file's level. interval: the one that decides, for a primary row at Holm's level. All on
    the scale of the effects; ``record`` and ``text`` are in the claim's unit. n_min: seeds without which nothing is
    decided. looked: seeds were added until a comparison was decided. repeated: then the interval that allows for it,
    None where there is none (``can_be_repeated``); a verdict must hold with it, too.
    """

    claim: Claim
    experiment: str
    sample: Sample
    plain: Interval
    interval: Interval
    p_holm: float
    verdict: str
    reason: str
    rule: Rule
    n_min: float
    looked: bool = False
    repeated: Interval | None = None

    @property
    def text(self) -> str:
        """Estimate and deciding interval, e.g. ``1.58 x [1.41, 1.77]`` or ``+1.9 points``; empty without a value."""
        if not self.sample.values:
            return ""
        return self._estimate + (f" {self._bounds(self.interval)}" if self._bounded else "")

    @property
    def stated(self) -> str:
        """The estimate with every interval of it, each by its name where there are several: Holm's, the one at the
        file's level, and the repeated one; e.g. ``1.58 x [1.30, 1.78] Holm; [1.41, 1.72] at 95 %``."""
        if not self._bounded or not self.sample.values:
            return self.text
        corrected = self.interval.level != self.plain.level
        named = [f"{self._bounds(self.interval)} Holm"] * corrected
        several = corrected or self.looked
        named.append(self._bounds(self.plain) + f" at {100 * self.plain.level:g} %" * several)
        if self.looked and (self.repeated is None or math.isnan(self.repeated.low)):
            named.append("none is adjusted for adding seeds until decided")
        elif self.repeated:
            named.append(f"{self._bounds(self.repeated)} repeated")
        return f"{self._estimate} {'; '.join(named)}"

    @property
    def _bounded(self) -> bool:
        """Too few runs have no interval, and neither have effects that are all equal."""
        return self.interval.n >= MIN_T_RUNS and not math.isnan(self.interval.low)

    @property
    def _estimate(self) -> str:
        unit = "x" if self.claim.unit == "ratio" else self.claim.unit
        return f"{self.claim.number(self.interval.estimate)} {unit}".rstrip()

    def _bounds(self, interval: Interval) -> str:
        return f"[{self.claim.number(interval.low)}, {self.claim.number(interval.high)}]"

    def record(self) -> dict[str, Any]:
        """Everything as one flat row, effects in the claim's unit (points: of percent), NaN where there is none.

        estimate, low, high at ``level`` decide; low_plain, high_plain at the file's; low_repeated, high_repeated: where
        seeds were added until decided (looked), those that allow for it. stated: all of them in words. n: pairs (runs,
        for one arm) with a value; values: their effects by seed. p: two-sided, p_holm: adjusted. welch_low,
        welch_high: unpaired. detectable: at 80 % power (``intervals.detectable``). same_start, failed, lost, left_out:
        ``Sample``. steps: the validations that were compared, where they are.
        against: the experiment that this one is compared with, or ""; other_values: the arm's there, by seed.
        """
        claim, sample, deciding = self.claim, self.sample, self.interval
        shown = sample.values if deciding.n >= MIN_T_RUNS else {}
        pairs = bool(shown) and len(sample.arms) == 2 and not sample.other
        unpaired = welch(*np.array(list(shown.values())).T) if pairs else None
        bounds = {
            "estimate": deciding.estimate,
            "low": deciding.low if shown else math.nan,
            "high": deciding.high if shown else math.nan,
            "low_plain": self.plain.low if shown else math.nan,
            "high_plain": self.plain.high if shown else math.nan,
            "low_repeated": self.repeated.low if shown and self.repeated else math.nan,
            "high_repeated": self.repeated.high if shown and self.repeated else math.nan,
            "welch_low": unpaired.low if unpaired else math.nan,
            "welch_high": unpaired.high if unpaired else math.nan,
            "detectable": detectable(deciding.sd, deciding.n, deciding.level) if shown else math.nan,
        }
        first, last = sample.window or (None, None)
        return {
            "id": claim.id,
            "row": claim.row,
            "claim": claim.claim,
            "sentence": claim.sentence,
            "where": claim.where,
            "primary": claim.primary,
            "metric": claim.metric,
            "quantity": claim.quantity,
            "experiment": self.experiment,
            "arms": list(sample.arms),
            "verdict": self.verdict,
            "reason": self.reason,
            "text": self.text,
            "stated": self.stated,
            "looked": self.looked,
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
            "paired": sample.paired and not sample.other,
            "same_start": sample.same_start,
            "steps": list(sample.steps),
            "failed": sample.failed,
            "lost": sample.lost,
            "left_out": sample.left_out,
            "runs": [*sample.runs, *(sample.other.runs if sample.other else ())],
            "against": claim.against,
            "other_values": {s: claim.natural(v[0]) for s, v in (sample.other.values if sample.other else {}).items()},
        }


def evaluate(runs: Runs, claims: Claims) -> list[Result]:
    """Decide every row of ``claims`` on every experiment that they are about; what cannot be decided is not tested.

    Holm's family is the primary rows of the file, in each experiment, with p = 1 for those that are not tested or have
    a failed run. Imported runs prove nothing and are left out. Raises ``AnalysisError`` if a row would compare runs
    that are not matched.
    """
    runs = native(runs)
    if runs.runs.empty:
        return []
    if any(claim.quantity.endswith(MOVED) for claim in claims.rows):
        runs = with_movement(runs)
    present = set(runs.runs["experiment"])
    listed = [name for name in claims.experiments if name in present]
    others = sorted(present.difference(listed))
    return [r for name in (*listed, *others) if claims.decides(name) for r in _decide(runs, claims, name)]


def results_frame(results: list[Result]) -> pd.DataFrame:
    """One row per result, columns as in ``Result.record``."""
    return pd.DataFrame([result.record() for result in results])


def _decide(runs: Runs, claims: Claims, experiment: str) -> list[Result]:
    """Every row on the runs of one experiment; runs: of all experiments."""
    members = members_of(runs, claims, experiment)
    samples = [sample_of(members, claim, claims, experiment, runs) for claim in claims.rows]
    usual = claims.rules_of(experiment)[N_MIN]
    n_min = [claim.n_min or usual for claim in claims.rows]
    enough = [sample.results >= n for sample, n in zip(samples, n_min, strict=True)]
    plain = [sample.interval(claims.level) for sample in samples]

    family = [at for at, claim in enumerate(claims.rows) if claim.primary]
    p = [plain[at].p if enough[at] and not samples[at].capped else math.nan for at in family]
    corrected = dict(zip(family, zip(*holm(p, 1 - claims.level), strict=True), strict=True))
    of_looks = repeated_interval(plans_of(runs.select(experiment=experiment)), claims.level)
    results = []
    for at, (claim, sample) in enumerate(zip(claims.rows, samples, strict=True)):
        p_holm, alpha = corrected.get(at, (math.nan, 1 - claims.level))
        interval = sample.interval(1 - alpha)
        repeated = of_looks(sample) if of_looks and can_be_repeated(sample) else None
        rule = claim.rule(claims.setting_of(experiment))
        alone = verdict(interval, rule, enough[at], sample.capped)
        decided = verdict(both(interval, repeated), rule, enough[at], sample.capped) if repeated else alone
        reason = _reason(sample, n_min[at], claim.against)
        if decided != alone:
            reason = "; ".join(filter(None, [reason, LOOKS.format(alone, decided)]))
        results.append(
            Result(
                claim, experiment, sample, plain[at], interval, p_holm, decided, reason, rule, n_min[at],
                looked=of_looks is not None, repeated=repeated,
            )
        )  # fmt: skip
    return results


def _reason(sample: Sample, n_min: float, against: str) -> str:
    """Why a row is not tested or capped and what else is to be said of it, in one line; mostly empty."""
    if sample.missing:
        return sample.missing
    parts = {"": sample} | ({f"{against}, " if against else "": sample.other} if sample.other else {})
    failed, lost, left_out = (
        [f"{name}seed {seed}: {what}" for name, part in parts.items() for seed, what in getattr(part, kind).items()]
        for kind in ("failed", "lost", "left_out")
    )
    few = [] if sample.results >= n_min else [f"{sample.results} of {n_min} runs per arm"]
    unpaired = "" if sample.paired else UNPAIRED.format(sample.same_start, len(sample.values))
    apart = bool(sample.other) or not sample.paired
    equal = sample.results > 1 and math.isnan(sample.interval(0.95).low) and (apart or not sample.at_level)
    flat = (NO_SPREAD_APART if apart else NO_SPREAD) if equal else ""
    left_out = left_out if few else []
    return "; ".join(filter(None, [*few, *failed, *lost, *left_out, sample.mixed, unpaired, flat, sample.remark]))
