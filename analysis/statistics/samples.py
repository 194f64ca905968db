"""The values that a claim is decided on, in the runs of one experiment, or why there are none."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from analysis.runs.load import Runs
from analysis.statistics.claim_file import Claim, Claims
from analysis.statistics.evaluated import collect_benchmarks
from analysis.statistics.intervals import Interval
from analysis.statistics.pairs import Sample, collect, collect_apart, experiment_runs
from analysis.statistics.quantities import ABOUT_COLLAPSE, BENCHMARKS, COUNTS_FAILURES, OVER_VALIDATIONS
from analysis.statistics.recorded import over_validations, quantity_of
from analysis.statistics.robust import discordant, mixed_arms, signed_rank_p
from analysis.statistics.rounding import ABOUT_CLIPPING, remarks
from analysis.statistics.windows import MissingError, Run, validations


def members_of(runs: Runs, claims: Claims, experiment: str) -> list[Run]:
    """The runs of an experiment with its windows; none if it has no run."""
    if experiment not in set(runs.runs["experiment"]):
        return []
    return experiment_runs(runs.select(experiment=experiment), claims.rules_of(experiment))


def sample_of(members: Sequence[Run], claim: Claim, claims: Claims, experiment: str, runs: Runs) -> Sample:
    """The claim's values in ``members``, the runs of an experiment among all ``runs``.

    Raises ``AnalysisError`` if runs would be compared that are not matched.
    """
    if claim.experiments and experiment not in claim.experiments:
        return Sample(missing=f"a claim about {', '.join(claim.experiments)}")
    if claim.quantity == BENCHMARKS:
        return collect_benchmarks(members, claim.arms, claim.window)
    quantity, caps = quantity_of(claim.quantity, claim.unit), claim.quantity not in COUNTS_FAILURES
    if claim.against:
        others = members_of(runs, claims, claim.against)
        if not others:
            return Sample(claim.arms, missing=f"no run of {claim.against}")
        return collect_apart(runs, members, others, claim.arms, quantity, claim.window)
    sample = collect(members, claim.arms, quantity, claim.window, caps)
    compared = [run for run in members if run.name in sample.runs]
    said = [sample.remark]
    if claim.quantity in ABOUT_CLIPPING and sample.values:
        said.append(remarks(compared))
    if over_validations(claim.quantity):
        metric, count = OVER_VALIDATIONS.get(claim.quantity, (claim.quantity, 1))
        sample = replace(sample, steps=_validated(compared, sample, metric, count))
    if not caps:
        said.append(_counts(sample))
        sample = replace(sample, at_level=lambda level: _exact(sample, level))
    if claim.quantity not in ABOUT_COLLAPSE and (mixed := mixed_arms(compared, sample.arms)):
        p = f"; Wilcoxon's signed ranks p = {signed_rank_p(sample.effects):.3g}" if sample.results > 2 else ""
        sample = replace(sample, mixed=f"{mixed}, where a t interval covers too little{p}")
    return replace(sample, remark="; ".join(filter(None, said)))


def _exact(sample: Sample, level: float) -> Interval:
    return discordant(sample.effects, level)


def _validated(compared: Sequence[Run], sample: Sample, metric: str, count: int) -> tuple[int, ...]:
    """The steps of the validations that were compared, where they are the same for all seeds."""
    found = set()
    for seed in sample.values:
        try:
            values, *_ = validations([run for run in compared if run.seed == seed], metric, count)
        except MissingError:
            continue
        found.add(tuple(int(step) for step in values.index))
    return found.pop() if len(found) == 1 else ()


def _counts(sample: Sample) -> str:
    """In how many runs of each arm what is counted happened, in one phrase."""
    lost = zip(sample.arms, np.sum(list(sample.values.values()), axis=0), strict=True) if sample.values else ()
    return ", ".join(f"{count:.0f} of {len(sample.values)} {arm}" for arm, count in lost)
