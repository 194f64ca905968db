"""Figures from recorded responses: how long they are, and of how much weight the clip range deprives which of them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.captions import caption, n_notes
from analysis.figures.curves import draw_tables, equal_arms, mark_dropouts, name_tables, prepare_over
from analysis.figures.layout import LETTER, panel_axes, write_common_caption
from analysis.figures.style import FONT, figure_of, leave_empty, line_styles, prepare
from analysis.runs.load import KEYS, AnalysisError, Runs
from analysis.statistics.arms import X_AXES, arm_tables

QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}
SIGNS = {"positive": 1, "negative": -1}


def effective_weight(runs: Runs, bins: int = 10) -> pd.DataFrame:
    """Share of the weight ``|advantage|`` that is not clipped, by length and sign of the advantage, in each run.

    The share is the sum of ``|A| (1 - clipped / tokens)`` over that of ``|A|``, over all updates. The bins are
    quantiles of the lengths of all responses of ``runs``; equal lengths share one, so there may be fewer. A loss is
    fair to lengths if its share does not depend on the bin (FSPO, arXiv 2509.09177). Returns one row per run, sign and
    bin with any weight: ``KEYS``, sign (1 or -1), bin (from 1), low and high (lengths in it), share.
    """
    sums = []
    for run, rows in runs.responses(["tokens", "advantage", "clipped"]):
        weight = rows["advantage"].abs().astype(float)
        part = pd.DataFrame(
            {
                "tokens": rows["tokens"],
                "sign": np.sign(rows["advantage"]).astype(int),
                "responses": 1,
                "weight": weight,
                "kept": weight * (1 - rows["clipped"] / rows["tokens"]),
            }
        )
        sums.append(part.groupby(["tokens", "sign"], as_index=False).sum().assign(**{key: run[key] for key in KEYS}))
    if not sums:
        raise AnalysisError("no responses are recorded in these runs")
    table = pd.concat(sums, ignore_index=True)
    # Few numbers per length and run are left, so that millions of responses need no memory.
    count = table.groupby("tokens")["responses"].sum()
    upper = np.searchsorted(count.cumsum(), count.sum() * np.arange(1, bins + 1) / bins)
    edges = np.unique(count.index.to_numpy()[upper])  # the longest length of each bin
    table["bin"] = np.searchsorted(edges, table["tokens"]) + 1
    span = table.groupby("bin")["tokens"].agg(low="min", high="max")
    table = table[table["sign"] != 0].groupby([*KEYS, "sign", "bin"], as_index=False)[["weight", "kept"]].sum()
    table["share"] = table.pop("kept") / table.pop("weight")
    return table.join(span, on="bin")


def draw_kept_weight(runs: Runs, ax: Axes | None = None) -> Figure:
    """``effective_weight`` by length: positive and negative advantage side by side, per arm its runs, mean and band."""
    values = runs.metrics.groupby("run")["clip_frac_token"].count()
    clipping = runs.select(run=values[values > 0].index)
    frame = effective_weight(clipping)
    without = sorted({*runs.runs["arm"]} - {*clipping.runs["arm"]})
    spans = frame.drop_duplicates("bin").sort_values("bin")[["bin", "low", "high"]]
    names = [f"{low}" if low == high else f"{low}-{high}" for _, low, high in spans.itertuples(index=False)]
    tables = {}
    axes = panel_axes(2, ax)
    for panel, (name, sign) in zip(axes, SIGNS.items(), strict=True):
        title, rows = f"kept weight, {name} advantage", frame[frame["sign"] == sign]
        if rows.empty:
            leave_empty(panel, title, "no such response")
            continue
        prepare(panel, title, "")
        tables[panel] = arm_tables(rows.rename(columns={"bin": "step"}), "share")
    draw_tables(tables, "share")
    for panel in tables:
        inches = panel.get_position().width * figure_of(panel).get_figwidth()
        every = int(np.ceil(len(names) * LETTER * (max(map(len, names)) + 1) / inches))  # so many have room
        panel.set_xticks(spans["bin"], [name if at % every == 0 else "" for at, name in enumerate(names)])
        panel.set_xlabel("response length (tokens)", fontsize=FONT)
        panel.set_xlim(0.5, len(names) + 0.5)
    of_panels = {" ".join(panel.get_title(loc="left").split()): arms for panel, arms in tables.items()}
    notes = [
        f"Across: {len(names)} bins of response length with about equal numbers of all arms' responses.",
        "Kept weight: the share of |advantage| that is not clipped, over all updates, the first of a step included.",
        "A level line treats all lengths alike (FSPO, arXiv 2509.09177).",
        *n_notes(of_panels, ("share",)),
        *name_tables(axes, of_panels),
        *([f"Nothing can be clipped, not drawn: {', '.join(without)}."] if without else []),
    ]
    write_common_caption(axes, notes)
    return figure_of(axes[0])


def length_quantiles(runs: Runs) -> pd.DataFrame:
    """One row per run and step of ``Runs.metrics``: ``KEYS``, step, the quantiles of the step's response lengths
    (columns of ``QUANTILES``), and the metrics of ``X_AXES``. Raises ``AnalysisError`` if no response is recorded."""
    parts = []
    for run, rows in runs.responses(["step", "tokens"]):
        lengths = rows.groupby("step")["tokens"]
        found = pd.DataFrame({name: lengths.quantile(at) for name, at in QUANTILES.items()})
        parts.append(found.reset_index().assign(run=run["run"]))
    if not parts:
        raise AnalysisError("no responses are recorded in these runs")
    kept = [*KEYS, "step", *(axis.column(runs.metrics) for axis in X_AXES.values())]
    return runs.metrics[kept].merge(pd.concat(parts), on=["run", "step"], how="left")


def draw_length_quantiles(runs: Runs, ax: Axes | None = None, smooth: int = 1, x: str = "step") -> Figure:
    """Median and quantile bands of response length over training, a panel per arm, each quantile a mean over runs."""
    frame = length_quantiles(runs)
    tables = {quantile: arm_tables(frame, quantile, smooth, x) for quantile in QUANTILES}
    drawn = {name: (algo, table) for name, (algo, table) in tables["median"].items() if table.size}
    if not drawn:
        raise AnalysisError(f"response lengths over {x}: no arm has runs with both and a range in common")
    axes = panel_axes(len(drawn), ax)
    styles = dict(zip(tables["median"], line_styles([a for a, _ in tables["median"].values()]), strict=True))
    for panel, name in zip(axes, drawn, strict=True):
        style = styles[name]
        prepare_over(panel, name, x)
        panel.set_title(name, loc="left", color=style["color"], fontsize=FONT)
        mean = {quantile: arms[name][1].mean(axis=1) for quantile, arms in tables.items()}
        for low, high, alpha in (("q10", "q90", 0.18), ("q25", "q75", 0.3)):
            if len(mean[low]) == 1:  # a band of one step would have no width
                panel.vlines(mean[low].index, mean[low], mean[high], color=style["color"], alpha=alpha, linewidth=9)
                continue
            span = (mean[low].index, mean[low], mean[high])
            panel.fill_between(*span, color=style["color"], alpha=alpha, linewidth=0)
        marker = {"marker": "o"} if len(mean["median"]) == 1 else {}
        panel.plot(mean["median"].index, mean["median"], linewidth=2, gid="median", **marker, **style)
        mark_dropouts(panel, drawn[name][1], mean["median"], style["color"])
        panel.margins(x=0)
    top = max(panel.get_ylim()[1] for panel in axes)
    for panel in axes:
        panel.set_ylim(0, top)
    groups = [equal_arms(arms) for arms in tables.values()]
    same = [group for group in groups[0] if all(group in of for of in groups)]
    notes = [
        "Across steps: length of responses (tokens).",
        *caption({"": tables["median"]}, (), smooth, x),
        *(f"Equal: {', '.join(group)}." for group in same),
        "Line: median; bands: 25 to 75 and 10 to 90 % of a step's responses. Each quantile is the mean over runs;",
        "no interval over runs is drawn.",
    ]
    write_common_caption(axes, notes)
    return figure_of(axes[0])
