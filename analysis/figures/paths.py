"""One quantity against another as a path through the steps: functions of tidy metrics and an ``Axes``."""

import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.captions import caption
from analysis.figures.curves import arm_styles, equal_arms
from analysis.figures.layout import name_arms, single_axes, write_caption
from analysis.figures.style import prepare
from analysis.runs.load import AnalysisError
from analysis.statistics.arms import arm_tables


def length_accuracy(frame: pd.DataFrame, ax: Axes | None = None, smooth: int = 1) -> Axes:
    """Response length against training accuracy: each arm's mean over runs as a path through its steps.

    A step that not all of the arm's runs have is left out, so that the path never moves because a run was lost.
    """
    ax = ax or single_axes()
    lengths, accuracies = (arm_tables(frame, metric, smooth) for metric in ("response_length", "accuracy"))
    prepare(ax, "training accuracy", "response length (tokens)")
    paths = {}
    for name, (algo, length) in lengths.items():
        runs = length.columns.intersection(accuracies[name][1].columns)
        both = pd.concat({"x": length[runs], "y": accuracies[name][1][runs]}, axis=1).dropna()
        if both.size:
            paths[name] = (algo, both)
    if not paths:
        raise AnalysisError("no arm has steps at which all of its runs have response_length and accuracy")
    means = {name: (algo, both.T.groupby(level=0).mean().T) for name, (algo, both) in paths.items()}
    in_x, in_y = (equal_arms({name: (algo, mean[[of]]) for name, (algo, mean) in means.items()}) for of in "xy")
    same = [group for group in in_x if group in in_y]
    styles = {name: style for name, style in arm_styles(lengths, same).items() if name in paths}
    for name, style in styles.items():
        x, y = means[name][1]["x"], means[name][1]["y"]
        wide = style.get("alpha", 1) < 1
        ax.plot(x, y, gid="mean", zorder=2, **{"linewidth": 1.2, **style})
        for at, fill in ((0, "white"), (-1, style["color"])):
            ring = {"markersize": 11 if wide else 6, "color": style["color"], "markerfacecolor": fill}
            ax.plot(x.iloc[at], y.iloc[at], "o", alpha=style.get("alpha", 1), zorder=3, **ring)
    name_arms([ax], styles, same)
    steps = {name: f"{int(both.index[0])} to {int(both.index[-1])}" for name, (_, both) in paths.items()}
    span = ", ".join(f"{name} {step}" for name, step in steps.items()) if len(set(steps.values())) > 1 else None
    drawn = {name: (algo, both["x"]) for name, (algo, both) in paths.items()}
    notes = [
        "Mean over runs, without interval, as a path through the steps: open circle first, filled circle last.",
        *(f"Equal: {', '.join(group)}; wide and pale under thin and dashed." for group in same),
        f"Steps: {span or next(iter(steps.values()))}, those that all runs of the arm have.",
    ]
    write_caption(ax, [*caption({"": drawn}, (), smooth), *notes])
    return ax
