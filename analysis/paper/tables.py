"""Tables 2 to 5 of the paper with ours beside them, and the same for experiments that the paper does not have."""

import math
from collections.abc import Sequence

import pandas as pd

from analysis.paper.experiments import beside_settings, in_miniature, miniature_label, miniature_notes, repeating
from analysis.paper.published import AVERAGE, names, printed, shown_benchmarks
from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.outcomes import BASE, Evaluations, evaluations, last_validations, left_out, not_evaluated
from analysis.tables.entries import (
    cell_entry,
    comparison_entry,
    comparison_note,
    difference_entry,
    favours,
    mean_entry,
    ratio_entry,
)
from analysis.tables.table import Entry, Table

TITLES = {
    2: "Mathematics benchmarks, trained on text (table 2; percent)",
    3: "Multimodal benchmarks (table 3; percent)",
    4: "Mean length of validation responses (table 4; tokens)",
    5: "Multimodal benchmarks, trained on images and text (table 5; percent)",
}
LENGTH = "mean-response-length"
LENGTH_METRIC, ACCURACY_METRIC = "val_response_length", "val_accuracy"
PAIR = ("luspo", "gspo")
ABSENT = Entry("-")
Row = tuple[str | Entry, ...]
Arms = tuple[str] | tuple[str, str]  # one, or two and their difference


def paper_table(
    number: int, runs: Runs, published: pd.DataFrame, level: float = 0.95, varies: Sequence[str] = ()
) -> Table:
    """Table 2, 3, 4 or 5 of the paper, ours beside the published value, and ours minus published.

    published: as of ``published.load_published``. Rows are the settings that the table has; what we have not run says
    so. Arms are taken by their plain name, so never one with another clip range; arms that the paper does not have
    follow. The setting in miniature has rows of its own, if it was run, on benchmarks of its own. Which experiment
    stands where: ``experiments.beside_settings``. Raises ``AnalysisError`` for another number or for compared runs
    that are not matched.
    """
    if number not in TITLES:
        raise AnalysisError(f"no table {number}; there are {', '.join(map(str, TITLES))}")
    if number == 4:
        return _length_table(runs, published, level, varies)
    return _accuracy_table(number, runs, published, level, varies)


def benchmark_table(runs: Runs, level: float = 0.95, varies: Sequence[str] = ()) -> Table:
    """Every experiment that is none of the paper's: benchmarks, or where it has none the last validation.

    Columns: the benchmarks and their average if there are any, validation accuracy in percent and response length in
    tokens if an experiment has no benchmark. Rows: the arms, then LUSPO against GSPO: difference, of lengths the ratio.
    Raises ``AnalysisError`` for compared runs that are not matched.
    """
    of_the_paper = {name for beside in beside_settings().values() for name in beside.experiments}
    experiments = [name for name in dict.fromkeys(runs.runs["experiment"]) if name not in of_the_paper]
    evals = runs.evals()
    found = {name: evaluations(runs, name, evals, level, varies) for name in experiments}
    benchmarks = list(dict.fromkeys(name for of_one in found.values() for name in of_one.benchmarks))
    validated = [name for name in experiments if not found[name].benchmarks]
    columns = [*benchmarks, *([AVERAGE] if benchmarks else [])]
    columns += ["validation accuracy (%)", "validation length (tokens)"] if validated else []

    rows: list[Row] = []
    notes: list[str] = []
    for name in experiments:
        if name in validated:
            new, said = _validation_rows(runs, name, level, varies)
            rows += [(*row[:2], *[ABSENT] * (len(columns) - 2), *row[2:]) for row in new]
        else:
            own, absent = found[name].benchmarks, [ABSENT] * (2 * bool(validated))
            shown = [b for b in benchmarks if b in own]
            lines = [*((arm,) for arm in _all_arms(found[name])), PAIR]
            rows += [(name, " - ".join(arms), *_ours(found[name], arms, benchmarks, shown), *absent) for arms in lines]
            said = _comparison_notes(found[name], [PAIR], shown, name)
        notes += said + _left_out_notes(runs, name)
    what = [_benchmark_note(level)] if benchmarks else []
    what += [_validation_note(level)] if validated else []
    return Table(
        "benchmarks",
        "Accuracy and length at the end of training, experiments of this project",
        ("experiment", "arm", *columns),
        tuple(rows),
        (*(what or ["No experiment of this kind was run."]), *notes),
        labels=2,
    )


def _accuracy_table(number: int, runs: Runs, published: pd.DataFrame, level: float, varies: Sequence[str]) -> Table:
    columns = names(published, "benchmark", table=number)
    benchmarks = [column for column in columns if column != AVERAGE]
    evals, ran = runs.evals(), set(runs.runs["experiment"])
    rows: list[Row] = []
    notes = [
        "Published differences are recomputed from the published cells. The paper states no uncertainty and not how "
        "its accuracies were measured.",
        _benchmark_note(level),
        *miniature_notes(names(published, "setting", table=number), ran),
    ]
    for setting in names(published, "setting", table=number):
        over = shown_benchmarks(published, number, setting)
        if len(over) < len(benchmarks):
            notes.append(f"{setting}: the average is over {', '.join(over)}, which is what the paper prints.")
        small = in_miniature(setting, ran)
        found = {name: evaluations(runs, name, evals, level, varies) for name in repeating(setting, ran)}
        in_small = {name: evaluations(runs, name, evals, level, varies) for name in small}
        algos = names(published, "algo", table=number, setting=setting)
        of_all = [*found.values(), *in_small.values()]
        others = dict.fromkeys(arm for of_one in of_all for arm in of_one.arms if arm not in algos)
        deltas = names(published, "algo", "printed-delta", table=number, setting=setting)
        pairs = [_pair(delta) for delta in deltas]
        for name, columns_of in small.items():
            stand_in = [columns_of.get(column, "-") for column in benchmarks]
            rows.append((setting, "benchmark", miniature_label(name), *stand_in, "of these"))
        for arms in (*((algo,) for algo in (*algos, *others)), *pairs):
            label = " - ".join(arms)
            theirs = [_theirs(published, number, setting, arms, column) for column in columns]
            rows.append((setting, label, "published", *(_shown(value, len(arms) > 1) for value in theirs)))
            for name, of_one in found.items():
                entries = dict(zip((*benchmarks, AVERAGE), _ours(of_one, arms, benchmarks, over), strict=True))
                ours = [entries[column] for column in columns]
                rows.append((setting, label, name, *ours))
                gaps = [_gap(entry, value) for entry, value in zip(ours, theirs, strict=True)]
                if any(gap is not ABSENT for gap in gaps):
                    rows.append((setting, label, f"{name} - published", *gaps))
            for name, of_one in in_small.items():
                own = list(small[name].values())
                entries = dict(zip((*small[name], AVERAGE), _ours(of_one, arms, own, own), strict=True))
                rows.append(
                    (setting, label, miniature_label(name), *(entries.get(column, ABSENT) for column in columns))
                )
        for name, of_one in (found | in_small).items():
            notes += _comparison_notes(of_one, pairs, list(small.get(name, {}).values()) or over, name)
            without = not_evaluated(of_one, name)
            notes += [f"{name}, finished without results of benchmarks: {', '.join(without)}."] if without else []
            notes += _left_out_notes(runs, name)
    return Table(
        f"table_{number}", TITLES[number], ("setting", "algorithm", "source", *columns), tuple(rows), tuple(notes), 3
    )


def _length_table(runs: Runs, published: pd.DataFrame, level: float, varies: Sequence[str]) -> Table:
    ran = set(runs.runs["experiment"])
    rows: list[Row] = []
    settings = names(published, "setting", table=4)
    notes = [_validation_note(level), "Published ratios are those of the published lengths."]
    notes += miniature_notes(settings, ran)
    for setting in settings:
        theirs = {algo: printed(published, 4, setting, algo, LENGTH) for algo in PAIR}
        small = in_miniature(setting, ran)
        for name in (*repeating(setting, ran), *small):
            label = miniature_label(name) if name in small else name
            found = last_validations(runs, name, LENGTH_METRIC, level, varies)
            algos = names(published, "algo", table=4, setting=setting)
            for arm in (*algos, *(a for a in found.arms if a not in algos)):
                value, ours = theirs.get(arm, math.nan), mean_entry(found.of(arm))
                shown = ABSENT if math.isnan(value) else Entry(f"{value:.0f}", value)
                gap = ABSENT if name in small else _gap(ours, value, digits=0)
                rows.append((setting, label, arm, shown, ours, gap))
            ratio, ours = theirs[PAIR[0]] / theirs[PAIR[1]], ratio_entry(found.compare(*PAIR, logs=True))
            gap = ABSENT if name in small else _gap(ours, ratio, digits=2)
            rows.append((setting, label, " / ".join(PAIR), Entry(f"{ratio:.2f} x", ratio), ours, gap))
            notes += _step_notes(found.frame, name) + _left_out_notes(runs, name)
    columns = ("setting", "experiment", "algorithm", "published", "ours", "ours - published")
    return Table("table_4", TITLES[4], columns, tuple(rows), tuple(notes), labels=3)


def _ours(found: Evaluations, arms: Arms, benchmarks: Sequence[str], over: Sequence[str]) -> list[Entry]:
    """Our entries for every benchmark and the average ``over`` some: of an arm, or of two the difference.

    An arm of ``PAIR`` is bold where the other is below it.
    """
    if len(arms) == 2:
        first, second = arms
        by_benchmark = [comparison_entry(found.compare(first, second, benchmark)) for benchmark in benchmarks]
        return [*by_benchmark, comparison_entry(found.compare_mean(first, second, over))]
    (arm,) = arms
    sign = {PAIR[0]: 1, PAIR[1]: -1}.get(arm, math.nan)  # of the difference where this arm is the better one
    cells = [
        cell_entry(found.cell(arm, benchmark), favours(found.compare(*PAIR, benchmark)) == sign)
        for benchmark in benchmarks
    ]
    return [*cells, cell_entry(found.mean(arm, over), favours(found.compare_mean(*PAIR, over)) == sign)]


def _validation_rows(runs: Runs, experiment: str, level: float, varies: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Accuracy in percent and length of the last validation: an arm a row, then ``PAIR``; and what to say of them."""
    accuracy = last_validations(runs, experiment, ACCURACY_METRIC, level, varies)
    length = last_validations(runs, experiment, LENGTH_METRIC, level, varies)
    arms = list(dict.fromkeys(runs.runs.loc[runs.runs["experiment"] == experiment, "arm"]))
    rows: list[Row] = [(experiment, a, mean_entry(accuracy.of(a), 100), mean_entry(length.of(a))) for a in arms]
    ratio = ratio_entry(length.compare(*PAIR, logs=True))
    rows.append((experiment, " against ".join(PAIR), difference_entry(accuracy.compare(*PAIR), 100), ratio))
    return rows, _step_notes(length.frame, experiment)


def _theirs(published: pd.DataFrame, table: int, setting: str, arms: Arms, benchmark: str) -> float:
    """A published cell, or the difference of two; NaN where one is not printed."""
    first, *others = (printed(published, table, setting, arm, benchmark) for arm in arms)
    return first - sum(others)


def _all_arms(found: Evaluations) -> list[str]:
    return [*([BASE] if (found.frame["arm"] == BASE).any() else []), *found.arms]


def _gap(ours: Entry, theirs: float, digits: int = 1) -> Entry:
    """Ours minus published, ``-`` where one is missing."""
    gap = ours.mean - theirs
    return ABSENT if math.isnan(gap) else Entry(f"{round(gap, digits) + 0.0:+.{digits}f}", gap)


def _shown(value: float, signed: bool) -> Entry:
    return ABSENT if math.isnan(value) else Entry(f"{round(value, 1) + 0.0:{'+' * signed}.1f}", value)


def _pair(delta: str) -> tuple[str, str]:
    first, second = delta.split("-")
    return first, second


def _comparison_notes(
    found: Evaluations, pairs: Sequence[tuple[str, str]], over: Sequence[str], experiment: str
) -> list[str]:
    """A note per pair that was compared: for each benchmark and the average, what ``comparison_note`` says."""
    notes = []
    for a, b in pairs:
        by_name = {benchmark: found.compare(a, b, benchmark) for benchmark in over}
        by_name[AVERAGE] = found.compare_mean(a, b, over)
        said = [f"{name}: {comparison_note(compared)}" for name, compared in by_name.items() if compared]
        notes += [f"{experiment}, {a} - {b}. {'. '.join(said)}."] if said else []
    return notes


def _step_notes(validated: pd.DataFrame, experiment: str) -> list[str]:
    steps = sorted({int(step) for step in validated["step"]})
    return [f"{experiment}: the last validation is at step {', '.join(map(str, steps))}."] if steps else []


def _left_out_notes(runs: Runs, experiment: str) -> list[str]:
    there = left_out(runs, experiment)
    return [f"{experiment}, not finished and in no number: {', '.join(there)}."] if there else []


def _benchmark_note(level: float) -> str:
    return (
        f"Ours: mean over runs of the accuracy, in brackets its {100 * level:g} % t interval over runs (below 3 runs "
        "the single values), then the number of runs and the standard error over questions. Differences are paired "
        "by seed and question; their interval is for other runs and new questions, and bold follows it."
    )


def _validation_note(level: float) -> str:
    return (
        f"Mean over runs of the last validation during training, in brackets its {100 * level:g} % t interval over "
        "runs (none below 3), then the number of runs. Ratios and differences are paired by seed; ratios are averaged "
        "as logarithms."
    )
