"""How many seeds a test needs: what so many can find, how many decide a claim, what they cost, how to train them.

Two questions are kept apart. *Found*: the t interval at the file's level, 95 %, lies beyond no effect (``t_power``).
*Decided*: the claim's whole rule gives a verdict, at its own level, for primary claims that of Holm (``chances``). A
true effect of exactly the smallest size that matters is found with enough seeds and never decided.

The spread between seeds is itself estimated from few of them, so every number of seeds has a range: the number at
either end of the 95 % interval of the standard deviation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.runs.load import Runs
from analysis.statistics.claims import Result
from analysis.statistics.intervals import POWER, Rule, detectable, t_power
from analysis.statistics.robust import FLAT

SEEDS = (3, 5, 10, 20)  # of which a plan says what they can find
MAX_SEEDS = 1000  # more are called infinitely many
QUANTILES = (np.arange(400) + 0.5) / 400  # of the standard deviation that an experiment finds
MAX_LISTED = 6  # seeds that a command names one by one
CAPPED = "more seeds do not decide it while a run failed, is lost or collapsed"
NO_T = "its interval is not Student's t over seeds, so their spread does not say how many seeds it needs"
NO_SPREAD = "without any spread between seeds nothing says how many more it needs"


@dataclass(frozen=True)
class Needed:
    """A number of seeds of each arm; low, high: where the standard deviation is at an end of its interval.

    Infinite beyond ``MAX_SEEDS``.
    """

    n: float
    low: float
    high: float


def sd_interval(sd: float, df: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of the standard deviation of a normal distribution, from chi-square with ``df`` degrees of freedom.

    At 5 values from 0.60 to 2.87 times the one found. In the unit of ``sd``; NaN where ``df`` is not positive.
    """
    if not df > 0:
        return math.nan, math.nan
    low, high = (sd * math.sqrt(df / special.chdtri(df, tail)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def seeds_to_find(effect: float, sd: float, level: float = 0.95) -> float:
    """The smallest n at which ``t_power`` reaches ``POWER``; effect and sd in one unit. Infinite beyond ``MAX_SEEDS``.

    NaN where ``sd`` is not positive.
    """
    return _smallest(lambda n: t_power(effect, sd, n, level) >= POWER) if sd > 0 else math.nan


def seeds_to_decide(rule: Rule, effect: float, sd: float, level: float = 0.95) -> float:
    """The smallest n at which ``rule`` gives a verdict with probability ``POWER``, whichever it is (``chances``).

    Infinite beyond ``MAX_SEEDS``: the effect lies where two verdicts meet. NaN where ``sd`` is not positive.
    """
    return _smallest(lambda n: sum(chances(rule, effect, sd, n, level).values()) >= POWER) if sd > 0 else math.nan


def chances(rule: Rule, effect: float, sd: float, n: int, level: float = 0.95) -> dict[str, float]:
    """Probability of every verdict but *undecided* of n normal effects with this mean and sd (``intervals.verdict``).

    Once the standard deviation is found, a verdict is a range of estimates, whose probability is normal; the mean of
    these over ``QUANTILES`` of the standard deviation (chi-square), accurate to about 1e-3. n: 2 or more.
    """
    found = sd * np.sqrt(special.chdtri(n - 1, 1 - QUANTILES) / (n - 1))
    half = special.stdtrit(n - 1, (1 + level) / 2) / math.sqrt(n) * found
    sign = {"<": -1}.get(rule.direction, 1)
    mean, error = sign * (effect - rule.than), sd / math.sqrt(n)

    def within(low: Any, high: Any) -> float:
        inside = special.ndtr((high - mean) / error) - special.ndtr((low - mean) / error)
        return float(np.clip(inside, 0, 1).mean())

    if rule.direction == "within":
        low, high = (bound - rule.than for bound in rule.region)
        outside = within(-math.inf, low - half) + within(high + half, math.inf)
        return {"supported": within(low + half, high - half), "contradicted": outside}
    return {
        "supported": within(np.maximum(half, rule.delta), math.inf),
        "contradicted": within(-math.inf, -half),
        "negligible": within(np.maximum(-half, half - rule.delta), rule.delta - half),
    }


def to_decide(result: Result, runs: Runs) -> dict[str, Any]:
    """How many seeds of each arm would probably decide a row, at the effect and the spread that were observed.

    why_not: why that cannot be said, or "". Else seeds (``Needed``, in all, at least the rule's n_min); more: those
    that are missing, with more_low and more_high, at least 1 for a row that is undecided; verdict: the likeliest one,
    "" if no number is enough; command: what trains them, "" if none are missing. runs: all that the result was made of.
    """
    sample, found = result.sample, result.interval
    if why_not := CAPPED if sample.capped else NO_T if sample.at_level else "" if has_spread(result) else NO_SPREAD:
        return {"why_not": why_not}

    def decides(sd: float) -> float:
        return max(result.n_min, seeds_to_decide(result.rule, found.estimate, sd, found.level))

    needed = _needed(decides, found.sd, found.df)
    least = int(result.verdict == "undecided")
    more, low, high = (max(n - found.n, least) for n in (needed.n, needed.low, needed.high))
    enough = math.isfinite(needed.n)
    likely = chances(result.rule, found.estimate, found.sd, int(needed.n), found.level) if enough else {"": 1.0}
    return {
        "why_not": "",
        "seeds": asdict(needed),
        "more": more,
        "more_low": low,
        "more_high": high,
        "verdict": max(likely, key=lambda name: likely[name]),
        "command": command(result, runs, int(more)) if enough and more else "",
    }


def has_spread(result: Result) -> bool:
    """Whether the effects differ, so that a standard deviation is known."""
    found = result.interval
    return found.df > 0 and found.sd > FLAT * max(abs(found.estimate), FLAT)


def plan(result: Result, runs: Runs, level: float) -> dict[str, Any]:
    """What seeds can tell of a row whose interval is Student's t over 3 or more effects with some spread: one record.

    On the scale of the test, a logarithm for ratios: sd, sd_low, sd_high. In the claim's unit, ratios as ratios:
    detectable (by number of seeds), smallest (the smallest effect that matters, None where the rule has none) and
    observed. Numbers of seeds (``Needed``): to_find_smallest, to_find_observed at ``level``; to_decide: ``to_decide``.
    minutes, gpu_hours: of one more seed of every arm (``cost``). Runs that are no pairs are planned as if they were,
    with the sd of the difference of two, which asks for slightly too many.
    """
    claim, found, rule = result.claim, result.interval, result.rule
    low, high = sd_interval(found.sd, found.df, level)
    observed = found.estimate - rule.than

    def to_find(effect: float) -> dict[str, float]:
        return asdict(_needed(lambda sd: seeds_to_find(effect, sd, level), found.sd, found.df))

    return {
        "id": claim.id,
        "row": claim.row,
        "experiment": result.experiment,
        "arms": list(result.sample.arms),
        "metric": claim.metric,
        "unit": claim.unit,
        "n": found.n,
        "paired": result.sample.paired and not result.sample.other,
        "effects": result.sample.effects,
        "scale": "logarithm" if claim.unit == "ratio" else claim.unit,
        "sd": found.sd,
        "sd_low": low,
        "sd_high": high,
        "level": level,
        "detectable": {n: claim.natural(detectable(found.sd, n, level)) for n in SEEDS},
        "smallest": claim.natural(rule.delta) if rule.delta else None,
        "to_find_smallest": to_find(rule.delta) if rule.delta else None,
        "observed": claim.natural(observed),
        "to_find_observed": to_find(observed),
        "verdict": result.verdict,
        "verdict_level": found.level,
        "to_decide": to_decide(result, runs),
        **cost(result, runs),
    }


def cost(result: Result, runs: Runs) -> dict[str, float]:
    """minutes and gpu_hours of one more seed of every compared arm: the means of their finished runs, added up.

    NaN: not recorded. GPU-hours are 0 on CPUs.
    """
    table = _table(result, runs)
    done = table[table["state"] == "done"]
    minutes = float(done.groupby(["experiment", "arm"])["minutes"].mean().sum(skipna=False, min_count=1))
    gpus = {gpus_of(runs, run) for run in done["run"]}
    return {"minutes": minutes, "gpu_hours": minutes / 60 * gpus.pop() if len(gpus) == 1 else math.nan}


def gpus_of(runs: Runs, run: str) -> float:
    """GPUs that a run trained on, 0 on a CPU; NaN where that is not recorded."""
    settings = runs.manifests[run].get("controlled") or {}
    if settings.get("trainer.device") == "cpu":
        return 0
    return settings.get("trainer.nnodes", math.nan) * settings.get("trainer.n_gpus_per_node", math.nan)


def command(result: Result, runs: Runs, more: int) -> str:
    """What to type to train ``more`` further seeds of every compared arm, as its runs were started.

    First the seeds that one arm has and another lacks, since a sweep passes over finished runs; then those after the
    largest.
    """
    table = _table(result, runs)
    sides = table.drop_duplicates(["experiment", "arm"])
    there = table.groupby("seed").size()
    half = [int(seed) for seed in there.index[there < len(sides)]]
    after = int(table["seed"].max()) + 1
    seeds = _listed((half + list(range(after, after + more)))[:more])
    groups: dict[tuple[str, str], list[str]] = {}
    for row in sides.to_dict("records"):
        words = [word.partition("=") for word in runs.manifests[row["run"]].get("overrides") or ()]
        experiment = next((value for key, _, value in words if key == "experiment"), row["experiment"])
        others = " ".join("".join(word) for word in words if word[0] not in ("algo", "seed", "experiment"))
        groups.setdefault((experiment, others), []).append(row["algo"])
    return " && ".join(
        f"make sweep EXPERIMENT={experiment} ALGOS={','.join(algos)} SEEDS={seeds}" + f' ARGS="{others}"' * bool(others)
        for (experiment, others), algos in groups.items()
    )


def _table(result: Result, runs: Runs) -> pd.DataFrame:
    """The rows of ``Runs.runs`` that the result compares."""
    sample = result.sample
    return runs.runs[runs.runs["run"].isin((*sample.runs, *(sample.other.runs if sample.other else ())))]


def _needed(count: Callable[[float], float], sd: float, df: float) -> Needed:
    return Needed(count(sd), *(count(end) for end in sd_interval(sd, df)))


def _smallest(enough: Callable[[int], bool]) -> float:
    """The smallest n from 2 for which ``enough`` holds, which is asked at doubling and then at halving distances."""
    low, high = 1, 2
    while not enough(high):
        if high >= MAX_SEEDS:
            return math.inf
        low, high = high, min(2 * high, MAX_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _listed(seeds: Sequence[int]) -> str:
    """``5,6,7``; many that follow each other as a word that the shell makes into that."""
    if len(seeds) > MAX_LISTED and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"$(seq -s, {seeds[0]} {seeds[-1]})"
    return ",".join(map(str, seeds))
