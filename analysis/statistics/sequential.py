"""Seeds until it is decided: after how many seeds one may look, and what an interval is worth that was looked at often.

**The rule** is alpha spending (Lan and DeMets 1983, Biometrika 70:659) with a function of O'Brien and Fleming's shape,
over the share n / max_seeds of the seeds, on differences paired by seed. It was preferred to a confidence sequence,
which holds for any number of seeds: the number of seeds has an end here (``max_seeds``), and there, where what is hard
to decide is decided, a mixture of t statistics (Lai 1976, Ann. Statist. 4:265) is about a tenth wider even if it is
tuned for it. Three things make the rule hold with few seeds:

- *Each look has a level of its own*, the increment of the spending function at its n, with the quantile of Student's t
  at n - 1 degrees of freedom. The levels add up to no more than the whole, so the error is bounded whatever the
  dependence between looks. The exact boundaries for normal noise would spend less cautiously; with skewed noise they
  err two to four times as often as they say. A level depends on n alone: looks may be left out, made twice or made
  later, and the same files give the same decision.
- *Skewness*: the interval is the hull of Student's and of Hall's (1992, J. R. Stat. Soc. B 54:221), whose cubic
  transformation removes the effect of skewness, here with the unbiased sample skewness (Joanes and Gill 1998,
  The Statistician 47:183). It is Student's on the side without a tail and never narrower.
- *A small maximum spends less*, the share max_seeds / 25 of the whole, since skewness counts most with few seeds and
  shows least in them.

The first look is at 3 seeds; at the usual maximum of 20 the levels of the first looks are too small for any interval
(``LEAST``), so the earliest decision is at 5 seeds for one pair of arms and at 7 for three.

**The family** is every pair of arms that is compared times every primary outcome (``comparison.OUTCOMES``: length and
accuracy, at equal steps), or the claims of a file, each with the rule that it has there. Each of its m members spends
alpha / m (Bonferroni), so all intervals at all looks hold together at ``level``: they are *repeated confidence
intervals* (Jennison and Turnbull 1989, J. R. Stat. Soc. B 51:305), valid at whatever look one stops and for whatever
reason. Effect and equivalence are read off the same interval, so neither costs the other. Simulated error rates:
``results/bench/sequential.md``.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy import special

from analysis.statistics.arms import MIN_T_RUNS
from analysis.statistics.claim_file import ANY, Claim, Claims, with_tuples
from analysis.statistics.comparison import MARGINS, OPEN, OUTCOMES, UNTESTED, judged
from analysis.statistics.effects import Effect
from analysis.statistics.intervals import Interval, Values, verdict
from analysis.statistics.pairs import Quantity, Sample, collect
from analysis.statistics.quantities import QUANTITIES
from analysis.statistics.recorded import quantity_of
from analysis.statistics.robust import FLAT
from analysis.statistics.windows import N_MIN, Run

FIRST_LOOK = MIN_T_RUNS  # seeds
MAX_SEEDS = 20  # unless another number is asked for
WHOLE = 25  # a maximum of so many seeds spends the whole error
LEAST = 1e-6  # a smaller level is none: at 4 seeds the interval would be wider than 100 standard deviations
Pair = tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """What is fixed before the first look. pairs: of arms; level: of all repeated intervals together.

    margins: by unit, as ``comparison.MARGINS``; a plan that was written with other ones is another plan. claims: what
    is to be decided in place of ``OUTCOMES``, each with two arms, its n_min and one delta (``planned``).
    """

    pairs: tuple[Pair, ...]
    max_seeds: int = MAX_SEEDS
    level: float = 0.95
    margins: Mapping[str, float] = field(default_factory=lambda: dict(MARGINS))
    claims: tuple[Claim, ...] = ()

    @classmethod
    def of_claims(cls, claims: Sequence[Claim], max_seeds: int, level: float) -> "Plan":
        """The plan that decides these claims, each resolved for its experiment (``planned``)."""
        pairs = tuple(dict.fromkeys((claim.arms[0], claim.arms[1]) for claim in claims))
        return cls(pairs, max_seeds, level, {}, tuple(claims))

    @property
    def tests(self) -> list["Test"]:
        """Members of the family: every pair times every primary outcome, or the claims."""
        if self.claims:
            return [_of_claim(claim) for claim in self.claims]
        return [
            Test(pair, outcome, unit, QUANTITIES[quantity], window, judged)
            for pair in self.pairs
            for outcome, (quantity, window, unit) in OUTCOMES.items()
        ]

    @property
    def hypotheses(self) -> int:
        """How many members the family has."""
        return len(self.claims) or len(self.pairs) * len(OUTCOMES)

    def spent(self, n: int) -> float:
        """Two-sided error of one member that is spent once n seeds have been looked at; 0 before the first look."""
        if n < FIRST_LOOK:
            return 0.0
        alpha = (1 - self.level) / self.hypotheses * min(1.0, self.max_seeds / WHOLE)
        share = min(1.0, n / self.max_seeds)
        return float(2 * special.ndtr(special.ndtri(alpha / 2) / math.sqrt(share)))

    def alpha(self, n: int) -> float:
        """The level of the look at n seeds, of one member. Seeds beyond the maximum are looked at with its level."""
        n = min(n, self.max_seeds)
        return self.spent(n) - self.spent(n - 1)

    def interval(self, effects: Values) -> Interval:
        """The repeated confidence interval of the mean of ``effects``, one for each seed: see ``repeated``."""
        return repeated(effects, self.alpha(len(effects)), self.level)

    def record(self) -> dict[str, Any]:
        """As JSON holds it; claims are there where there are any."""
        found = {"pairs": self.pairs, "max_seeds": self.max_seeds, "level": self.level, "margins": dict(self.margins),
                 "outcomes": [claim.name for claim in self.claims] or list(OUTCOMES), "first_look": FIRST_LOOK,
                 "whole": WHOLE, **({"claims": list(map(asdict, self.claims))} if self.claims else {})}  # fmt: skip
        return json.loads(json.dumps(found))

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Plan":
        """The inverse of ``record``. Raises KeyError, TypeError or ValueError for what is none."""
        pairs = tuple((str(first), str(second)) for first, second in record["pairs"])
        claims = (Claim(**with_tuples(claim)) for claim in record.get("claims", ()))
        return cls(pairs, int(record["max_seeds"]), float(record["level"]), dict(record["margins"]), tuple(claims))


@dataclass(frozen=True)
class Test:
    """A member of the family. name: of the outcome, or of the claim; judge: the verdict on its effect."""

    pair: Pair
    name: str
    unit: str
    quantity: Quantity
    window: str
    judge: Callable[[Effect], str]


def planned(claim: Claim, claims: Claims, experiment: str) -> Claim:
    """A claim with the number of runs and the delta that it has in an experiment."""
    delta = {ANY: claim.delta[key]} if (key := claims.setting_of(experiment)) in claim.delta else claim.delta
    return replace(claim, delta=dict(delta), n_min=claim.n_min or claims.rules_of(experiment)[N_MIN])


def _of_claim(claim: Claim) -> Test:
    rule, least = claim.rule(), claim.n_min or FIRST_LOOK

    def judge(effect: Effect) -> str:
        return verdict(effect.interval, rule, effect.sample.results >= least, effect.sample.capped)

    quantity = quantity_of(claim.quantity, claim.unit)
    return Test((claim.arms[0], claim.arms[1]), claim.name, claim.unit, quantity, claim.window, judge)


def repeated(effects: Values, alpha: float, level: float) -> Interval:
    """The interval of a look with two-sided error ``alpha``: the hull of Student's t and Hall's interval.

    Without any interval (NaN bounds): fewer than 2 effects, an alpha below ``LEAST`` or NaN, and effects that are all
    equal but not 0, of which t would be certain whatever their number; all 0 is the point 0. level: what
    ``Interval.level`` shall say, that of all looks together; p is NaN, since a p-value of one look is none.
    """
    x = np.asarray(effects, dtype=float)
    n, nan = x.size, math.nan
    mean, sd = (float(x.mean()) if n else nan), (float(x.std(ddof=1)) if n > 1 else nan)
    if n < 2 or not alpha >= LEAST or (sd <= FLAT * abs(mean) and mean):
        return Interval(mean, nan, nan, n, nan, sd, nan, level)
    below, above = (float(part) for part in hull(quantile(n, alpha), skewness(x) / math.sqrt(n)))
    error = sd / math.sqrt(n)
    low, high = (mean - below * error, mean + above * error) if error else (mean, mean)
    return Interval(mean, low, high, n, n - 1, sd, nan, level)


def quantile(n: int, alpha: float) -> float:
    """Student's two-sided quantile at n - 1 degrees of freedom; infinite for a level below ``LEAST``."""
    return -float(special.stdtrit(n - 1, alpha / 2)) if alpha >= LEAST else math.inf


def hull(t: float | np.ndarray, a: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the interval reaches below and above the mean, in standard errors; t: Student's quantile, positive.

    Hall's transform of the t statistic T is T + a T^2 / 3 + a^2 T^3 / 27 + a / 6, a: skewness / sqrt(n). It rises
    everywhere, so that +t and -t have one T each; where a is 0 it is T itself. Elementwise.
    """
    t, a = np.asarray(t, dtype=float), np.asarray(a, dtype=float)
    some = np.where(np.abs(a) < FLAT, FLAT, a)  # any that is not 0: the straight case is taken below
    below, above = (sign * 3 / some * (np.cbrt(1 + some * (sign * t - some / 6)) - 1) for sign in (1, -1))
    straight = (np.abs(a) < FLAT) | np.isinf(t)
    return np.where(straight, t, np.maximum(t, below)), np.where(straight, t, np.maximum(t, above))


def skewness(x: Values) -> float:
    """G1, the unbiased sample skewness (``scipy.stats.skew`` with ``bias=False``); 0 for fewer than 3 and no spread."""
    x = np.asarray(x, dtype=float)
    n, away = x.size, x - x.mean()
    second = float((away**2).mean())
    if n < 3 or second <= (FLAT * abs(float(x.mean()))) ** 2:
        return 0.0
    return float((away**3).mean()) / second**1.5 * math.sqrt(n * (n - 1)) / (n - 2)


@dataclass(frozen=True)
class Look:
    """The family at n seeds. effects: with repeated intervals; verdicts: of ``Test.judge``; lost: seed and why
    it has no value in some arm, which no further seed mends, or ""."""

    n: int
    effects: tuple[Effect, ...]
    verdicts: tuple[str, ...]
    lost: str = ""

    @property
    def decided(self) -> bool:
        """Whether every member has a verdict at this look."""
        return not self.lost and not {OPEN, UNTESTED} & set(self.verdicts)


def looks(members: Sequence[Run], plan: Plan, seeds: Sequence[int]) -> list[Look]:
    """Every look at the first 3, 4, ... of ``seeds``, until one decides, a seed is lost or the seeds end.

    seeds: in the order in which they were to be trained, each with all its runs ended. Seeds are never taken in the
    order in which they finish: long responses take long, so the first to finish would be no fair sample.
    members: all runs of the experiment (``experiment_runs``). Raises ``AnalysisError`` for arms that are not matched.
    """
    samples = [(test, collect(members, test.pair, test.quantity, test.window)) for test in plan.tests]
    found: list[Look] = []
    for n in range(1, min(len(seeds), plan.max_seeds) + 1):
        lost = next((text for _, one in samples if (text := _lost(one, seeds[n - 1]))), "")
        if n < FIRST_LOOK and not lost:
            continue
        effects = tuple(_effect(test, _first(one, seeds[:n]), plan) for test, one in samples)
        verdicts = tuple(test.judge(effect) for (test, _), effect in zip(samples, effects, strict=True))
        found.append(Look(n, effects, verdicts, lost))
        if lost or found[-1].decided:
            break
    return found


def _effect(test: Test, sample: Sample, plan: Plan) -> Effect:
    return Effect(test.name, " - ".join(sample.arms), test.unit, plan.interval(sample.effects), sample)


def _first(sample: Sample, seeds: Sequence[int]) -> Sample:
    """The sample of these seeds alone, in this order."""
    parts = {"values": sample.values, "failed": sample.failed, "lost": sample.lost}
    kept: dict[str, Any] = {name: {seed: of[seed] for seed in seeds if seed in of} for name, of in parts.items()}
    return replace(sample, **kept)


def _lost(sample: Sample, seed: int) -> str:
    """Why the seed, whose runs have ended, counts against a verdict; "" if it has a value and no run failed."""
    if sample.missing:
        return sample.missing
    why = sample.failed.get(seed) or sample.lost.get(seed)
    if not why and seed not in sample.values:
        why = sample.left_out.get(seed) or "no run of it is there"
    return f"seed {seed}: {why}" if why else ""
