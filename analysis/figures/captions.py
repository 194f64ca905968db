"""Captions: sentences that say what is drawn, so that no figure needs its program to be read."""

from collections.abc import Collection, Mapping

from analysis.statistics.arms import MIN_T_RUNS, Tables, x_axis

SHARE = "Bands of fractions: that interval of arcsin(sqrt), which stays within 0 and 1."


def caption(
    tables: Mapping[str, Tables], bands: Collection[str] = ("t",), smooth: Mapping[str, int] | int = 1, x: str = "step"
) -> list[str]:
    """What every figure of runs says.

    tables: of each panel, by its title; bands (of ``pointwise``; none: neither lines nor bands are drawn), smooth (for
    all or by panel), x: as they were drawn.
    """
    return [*n_notes(tables, bands), *x_notes(tables, x), *smooth_notes(smooth)]


def smooth_notes(smooth: Mapping[str, int] | int) -> list[str]:
    """A caption's sentence on the moving mean, for all panels or of each by its title."""
    windows = {"": smooth} if isinstance(smooth, int) else smooth
    if len(set(windows.values())) == 1:
        windows = {"": next(iter(windows.values()))}
    return [
        f"Each run smoothed by a centred moving mean of {points} points{f': {panel}' if panel else ''}."
        for panel, points in windows.items() if points > 1
    ]  # fmt: skip


def sentence(text: str) -> str:
    """With one full stop at its end."""
    return text.rstrip(". ") + "."


def n_notes(tables: Mapping[str, Tables], bands: Collection[str] = ("t",)) -> list[str]:
    """A caption's sentences on n, of each panel where they differ, and on lines and bands (see ``caption``)."""
    of = {panel: {name: table.shape[1] for name, (_, table) in arms.items()} for panel, arms in tables.items()}
    counts = {n for runs in of.values() for n in runs.values() if n}
    if len({tuple(runs.items()) for runs in of.values()}) == 1:
        notes = _n_note("Runs", next(iter(of.values())))
    else:
        notes = [note for panel, runs in of.items() for note in _n_note(f"Runs, {panel}", runs)]
    if not bands:
        return notes
    if max(counts) > 1:
        notes.append("Bold: mean, thin: runs.")
    student = {"t", "share"} & {*bands}
    if student and max(counts) >= MIN_T_RUNS:
        notes.append("Band: pointwise 95 % Student-t interval of the mean.")
        notes += [SHARE] * ("share" in bands)
    if (student and 2 in counts) or ("minmax" in bands and max(counts) > 1):
        notes.append("Band: minimum to maximum." if "minmax" in bands else "Band of two runs: minimum to maximum.")
    if 1 in counts:
        notes.append("A single run has no interval.")
    return notes


def x_notes(tables: Mapping[str, Tables], x: str) -> list[str]:
    """A caption's sentences on the x axis and on how far the arms go."""
    arms = {name: table for of_panel in tables.values() for name, (_, table) in of_panel.items() if table.shape[1]}
    if x == "step":
        last = {name: int(table.index[-1]) for name, table in arms.items()}
        if len(set(last.values())) < 2:
            return []
        return [f"Drawn as far as the runs go: {', '.join(f'{name} to step {step}' for name, step in last.items())}."]
    apart = [name for name, table in arms.items() if table.empty]
    notes = ["Each run interpolated linearly, inside the range that all runs of its arm have; none extrapolated."]
    notes += [f"Not drawn, their runs have no range in common: {', '.join(apart)}."] if apart else []
    return notes + ([x_axis(x).note] if x_axis(x).note else [])


def _n_note(of: str, runs: Mapping[str, int]) -> list[str]:
    """n of each arm; runs: number of runs per arm, 0 where nothing is recorded."""
    counts = sorted({n for n in runs.values() if n}, reverse=True)
    names = {n: ", ".join(name for name, count in runs.items() if count == n) for n in [*counts, 0]}
    n = f"{counts[0]} per arm" if len(counts) == 1 else "; ".join(f"{n} of {names[n]}" for n in counts)
    return [f"{of}: n = {n}.", *([f"Not recorded: {names[0]}."] if names[0] else [])]
