"""Figures of length pressure: functions of the frames of ``analysis.statistics.length_pressure`` and an ``Axes``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.figures.curves import Curve, draw_curves
from analysis.figures.style import (
    COLOURS,
    SMALL,
    draw_band,
    figure_of,
    line_styles,
    name_lines,
    panel_axes,
    prepare,
    single_axes,
    write_caption,
    write_common_caption,
)
from analysis.runs.load import KEYS, AnalysisError
from analysis.statistics.arms import MIN_T_RUNS, pointwise, rank
from analysis.statistics.length_pressure import STAGES, TERMS, Clip, arm_intervals, batch_pressure

UNITS = {"value": "tokens per sqrt(2 KL)", "in_sd": "sd of length"}  # of the columns of ``run_means``
CURVES = {"total": f"length pressure ({UNITS['value']})", "bias": f"loss bias ({UNITS['value']})"}
TICKS = {
    "reference": "reward\n(c = A)",
    "1/L": "x 1/L",
    "clipping": "x kept",
    "s": "x ratio",
    "total": "loss\n(the sum)",
    "bias": "loss bias",
}
HATCHES = ("", "///", "...", "xxx")  # arms of one algorithm share its colour
STEP = "Of one natural-gradient step; this is not the answer of Adam or of the plain gradient."
BIAS = "Loss bias: pressure of the loss minus that of c = A, which is what the reward itself asks for."


def pressure_curves(
    frame: pd.DataFrame, ax: Axes | None = None, terms: Sequence[str] = ("total", "bias"), smooth: int = 1
) -> Figure:
    """``terms`` by step, a panel each on one y axis: per arm the runs, their mean and its t band (``curves.curve``).

    frame: ``pressure_frame``, of one loss per run; a step is the mean over its updates. ``smooth``: each run's moving
    mean over that many steps. In the place of ``ax`` if it is given. Raises ``AnalysisError`` for several losses.
    """
    losses = frame.groupby("run")["loss"].nunique()
    if losses.max() > 1:
        raise AnalysisError(f"{losses.idxmax()}: {losses.max()} losses; curves are of one loss per run, select it")
    steps = frame.pivot_table(index=[*KEYS, "step"], columns="term", values="value").reset_index()
    axes = panel_axes(len(terms), ax)
    curves = {panel: Curve(term, CURVES.get(term, term)) for panel, term in zip(axes, terms, strict=True)}
    notes = draw_curves(curves, steps, smooth, share=True)
    for panel in axes:
        _mark_zero(panel)
    write_common_caption(axes, [*notes, *([BIAS] if "bias" in terms else []), STEP])
    return figure_of(axes[0])


def decomposition_bars(means: pd.DataFrame, ax: Axes | None = None, value: str = "value") -> Axes:
    """What each factor of c adds to the pressure: a group of bars per term, in it a bar per arm and loss.

    means: ``run_means``. value: its column, an entry of ``UNITS``. Whiskers: t intervals over runs, where there are 3
    or more; dots: the runs.
    """
    ax = ax or single_axes()
    prepare(ax, f"length pressure ({UNITS[value]})", "")
    intervals = arm_intervals(means, value)
    bars = _by_algorithm(intervals[["experiment", "arm", "algo", "loss"]].drop_duplicates())
    width = 0.8 / len(bars)
    algos = bars["algo"].tolist()
    for at, (bar, style) in enumerate(zip(bars.to_dict("records"), line_styles(algos), strict=True)):
        rows = _where(intervals, bar).set_index("term").loc[list(TERMS)]
        x = np.arange(len(TERMS)) + (at - (len(bars) - 1) / 2) * width
        label = f"{_bar_name(bar, bars)} (n = {rows['n'].max()})"
        hatch = HATCHES[algos[:at].count(bar["algo"]) % len(HATCHES)]
        ax.bar(
            x, rows["estimate"], 0.9 * width, color=style["color"], alpha=0.7, hatch=hatch, edgecolor="w", label=label
        )
        if rows["n"].max() >= MIN_T_RUNS:
            whiskers = np.abs(rows[["low", "high"]].to_numpy().T - rows["estimate"].to_numpy())
            ax.errorbar(x, rows["estimate"], whiskers, fmt="none", ecolor="0.2", elinewidth=1, capsize=2)
        for place, term in zip(x, TERMS, strict=True):
            runs = _where(means, {**bar, "term": term})[value]
            ax.plot(np.full(len(runs), place), runs, "o", color="0.2", markersize=1.8, alpha=0.6, zorder=4)
    _mark_zero(ax)
    ax.axvline(len(STAGES) - 0.5, color="0.75", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(TERMS)), [TICKS[term] for term in TERMS])
    ax.legend(fontsize=SMALL, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
    notes = ["From the left: the reward's pressure and what each factor of c adds to it.", BIAS, "Dots: runs."]
    if intervals["n"].max() >= MIN_T_RUNS:
        notes.append("Whiskers: 95 % Student-t intervals of the mean over runs.")
    if means["loss"].isin(["grpo", "grpo_sum"]).any():
        notes.append("Approximate for losses that clip tokens.")
    write_caption(ax, [*notes, STEP])
    return ax


def clip_range_curves(data: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Loss bias against the width of the clip range, a panel for each arm whose responses are clipped, on one y axis.

    data: ``clip_range_frame``. A line per loss: solid where high is wider than low, dotted where they are equal; band:
    t interval over runs.
    """
    arms = _by_algorithm(data[["experiment", "arm", "algo"]].drop_duplicates()).to_dict("records")
    axes = panel_axes(len(arms), ax)
    for panel, arm in zip(axes, arms, strict=True):
        prepare(panel, f"responses of {arm['arm']}", "clip range, mean of low and high")
        rows = _where(data, arm)
        for (loss, skew), line in rows.groupby(["loss", "skew"]):
            summary = pointwise(line.pivot(index="width", columns="run", values="value"))
            colour = COLOURS[str(loss)]
            draw_band(panel, summary, colour)
            panel.plot(summary.index, summary["mean"], color=colour, **_line(float(str(skew))))
        panel.set_xscale("log")
        panel.margins(x=0)
    limits = np.array([panel.get_ylim() for panel in axes])
    skews = ", ".join(f"{skew:g}" for skew in sorted(data["skew"].unique()) if skew != 1)
    runs = data.groupby("arm")["run"].nunique()
    for panel, arm in zip(axes, arms, strict=True):
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())
        _mark_zero(panel)
        ends = _where(data, arm).query("width == width.max() and skew == skew.min()").groupby("loss")["value"].mean()
        name_lines(panel, [(str(loss), data["width"].max(), y, COLOURS[str(loss)]) for loss, y in ends.items()])
    notes = [
        f"Loss bias in {UNITS['in_sd']}: mean over the updates of a run, then over runs"
        f" ({', '.join(f'{n} of {arm}' for arm, n in runs.items())}).",
        f"Solid: low = {skews} x high; dotted: low = high. Bands: 95 % Student-t intervals."
        if skews
        else "low = high.",
        "The recorded log-ratios are clipped again: under another range the run itself would have gone another way.",
        STEP,
    ]
    write_common_caption(axes, notes)
    return figure_of(axes[0])


def length_clipping_frame(
    noises: Sequence[float] | np.ndarray,
    clips: Sequence[Clip] = ((2e-3, 2.5e-3), (2.25e-3, 2.25e-3)),
    lengths: tuple[int, int] = (20, 200),
    drift: float = 0.5,
    points: int = 4001,
) -> pd.DataFrame:
    """Pressure of GSPO and LUSPO where length has nothing to do with correctness but with clipping.

    One prompt, half of the responses right, half of each length. A token's log-ratio has standard deviation ``noise``,
    so a sequence's mean log-ratio has noise / sqrt(L), normal, and is moved by ``drift`` of those to the side of its
    advantage. ``points`` quantiles stand for that distribution. Columns: noise, loss, low, high, value (tokens per
    sqrt(2 KL); c = A has none).
    """
    quantiles = stats.norm.ppf((np.arange(points) + 0.5) / points)
    length, advantage, quantile = (v.ravel() for v in np.meshgrid(lengths, (1.0, -1.0), quantiles, indexing="ij"))
    fixed = {"step": 1, "update": 2, "prompt_id": 0, "tokens": length, "advantage": advantage}
    records = []
    for noise in noises:
        log_ratio = (quantile + drift * advantage) * noise / np.sqrt(length)
        rows = pd.DataFrame({**fixed, "log_ratio": log_ratio, "clipped": 0, "effective_ratio": 1.0})
        for loss in ("gspo", "luspo"):
            for low, high in clips:
                found = batch_pressure(rows, loss, (low, high)).set_index("term")["value"]
                records.append({"noise": noise, "loss": loss, "low": low, "high": high, "value": found["total"]})
    return pd.DataFrame.from_records(records)


def length_clipping_curves(data: pd.DataFrame, ax: Axes | None = None, mark: float = 0.02) -> Axes:
    """Pressure against the noise of a token's log-ratio: solid at an asymmetric clip range, dotted at a symmetric one.

    data: ``length_clipping_frame``. ``mark``: a noise at which the values are written out, if it is among the data's.
    """
    ax = ax or single_axes()
    prepare(ax, f"length pressure ({UNITS['value']})", "standard deviation of a token's log-ratio")
    ends = []
    for (loss, low, high), rows in data.groupby(["loss", "low", "high"]):
        colour, skew = COLOURS[str(loss)], float(str(low)) / float(str(high))
        ax.plot(rows["noise"], rows["value"], color=colour, **_line(skew))
        if skew < 1:
            ends.append((str(loss), rows["noise"].iloc[-1], rows["value"].iloc[-1], colour))
            for x, y in rows.loc[np.isclose(rows["noise"], mark), ["noise", "value"]].to_numpy():
                ax.plot(x, y, "o", color=colour, markersize=5, markeredgecolor="white", zorder=4)
                place = {"xytext": (-7, 3), "textcoords": "offset points", "ha": "right"}
                ax.annotate(f"{y:+.2f}", (x, y), fontsize=SMALL, color=colour, **place)
    ax.set_xscale("log")
    ax.margins(x=0)
    _mark_zero(ax)
    name_lines(ax, ends)
    ranges = data[["low", "high"]].drop_duplicates().sort_values("low").to_dict("records")
    names = [f"{'dotted' if r['low'] == r['high'] else 'solid'}: range {r['low']:g}/{r['high']:g}" for r in ranges]
    notes = [
        "Two lengths, each as often right as wrong, so that the reward asks for no change; the shorter leaves the "
        "range first, wrong responses through the lower side.",
        f"{'; '.join(names)}.".capitalize(),
        STEP,
    ]
    write_caption(ax, notes)
    return ax


def _line(skew: float) -> dict[str, Any]:
    return {"linewidth": 2, "linestyle": ":" if skew == 1 else "-", "zorder": 3}


def _mark_zero(ax: Axes) -> None:
    ax.axhline(0, color="0.4", linewidth=0.8, zorder=1.5)


def _where(frame: pd.DataFrame, values: dict[Any, Any]) -> pd.DataFrame:
    """The rows that have ``values``, of columns."""
    return frame[(frame[list(values)] == pd.Series(values)).all(axis=1)]


def _by_algorithm(arms: pd.DataFrame) -> pd.DataFrame:
    """``arms`` in the order in which algorithms are shown."""
    return arms.sort_values("algo", key=lambda algos: algos.map(rank), kind="stable")


def _bar_name(bar: dict[Any, Any], bars: pd.DataFrame) -> str:
    """The arm, with its experiment and the loss where the arm alone does not say which."""
    name = bar["arm"] if bars["experiment"].nunique() == 1 else f"{bar['experiment']}: {bar['arm']}"
    return name if (bars[["experiment", "arm"]].value_counts() == 1).all() else f"{name}, loss {bar['loss']}"
