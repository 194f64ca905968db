"""Benchmark results as a sample that a claim is decided on, beside the quantities of training in ``pairs``."""

from collections.abc import Sequence
from dataclasses import replace

from analysis.statistics.intervals import Interval
from analysis.statistics.outcomes import evaluations
from analysis.statistics.pairs import Sample, failures
from analysis.statistics.windows import Run


def collect_benchmarks(members: Sequence[Run], arms: Sequence[str], window: str) -> Sample:
    """Accuracy in percentage points, the average over the benchmarks that both arms have, paired by seed.

    Its interval is that on new questions (``benchmarks.average``): runs and questions are crossed. Values are
    of finished runs; a run that failed or diverged caps the verdict as everywhere. Raises ``AnalysisError`` as
    ``collect`` does, and for evaluations of unequal settings.
    """
    members = [run for run in members if run.arm in arms]
    absent = [arm for arm in arms if arm not in {run.arm for run in members}]
    if absent:
        return Sample(arms=tuple(arms), missing=f"no run of {' and '.join(absent)}")
    source = members[0].source.select(run=[run.name for run in members])
    found = evaluations(source, source.runs["experiment"].iloc[0], source.evals(), level=0.95)
    shared = [name for name in found.benchmarks if all(len(found.rows(arm, name)) for arm in arms)]
    mean = found.compare_mean(arms[0], arms[1], shared) if shared else None
    if mean is None:
        return Sample(arms=tuple(arms), missing="no benchmark evaluated for both arms and a common seed")
    values: dict[int, tuple[float, ...]] = {}
    for seed in mean.seeds:
        of_seed = (found.frame[(found.frame["arm"] == arm) & (found.frame["seed"] == seed)] for arm in arms)
        means = [rows[rows["benchmark"].isin(shared)].groupby("benchmark")["correct"].mean() for rows in of_seed]
        values[seed] = tuple(100 * float(accuracy.mean()) for accuracy in means)
    each = {name: found.compare(arms[0], arms[1], name) for name in shared}
    below = [name for name, one in each.items() if one and one.estimate < 0]

    def at_level(level: float) -> Interval:
        again = replace(found, level=level).compare_mean(arms[0], arms[1], shared)
        assert again
        return again.questions

    by_seed = {seed: [run for run in members if run.seed == seed] for seed in sorted({run.seed for run in members})}
    failed = {seed: what for seed, group in by_seed.items() if (what := failures(group))}
    unfinished = {seed: ", ".join(run.unfinished for run in group if run.unfinished) for seed, group in by_seed.items()}
    lost = {seed: why for seed, why in unfinished.items() if why and len(by_seed[seed]) == len(arms)}
    return Sample(
        arms=tuple(arms),
        runs=tuple(run.name for run in members),
        n_runs={arm: sum(run.arm == arm for run in members) for arm in arms},
        window=members[0].windows[window],
        values=values,
        failed=failed,
        lost=lost,
        remark=f"below 0 on {', '.join(below)}, so not consistently" if below else f"on {', '.join(shared)}",
        at_level=at_level,
    )
