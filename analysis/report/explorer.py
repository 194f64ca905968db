"""The data of a report's interactive picture: every curve that its controls can choose, computed here.

The page only draws. Smoothing, x axes and intervals are those of the static figures (``arm_tables``, ``pointwise``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.captions import SHARE, x_notes
from analysis.figures.style import equal_groups, line_styles
from analysis.report.quantities import QUANTITIES, Quantity
from analysis.runs.load import KEYS, Runs
from analysis.statistics.arms import (
    MIN_T_RUNS,
    Tables,
    arm_tables,
    on_shared_grid,
    pointwise,
    positions,
    smoothed,
    x_axis,
)
from analysis.statistics.movement import with_movement

POINTS = 300  # of a curve at most: a screen shows no more
SHORT, WINDOWS, LONG_WINDOWS = 100, (1, 5), (1, 5, 25)  # points of a run, and the moving means that are offered
HOURS = 3.0  # from here on training time is shown in hours, below in seconds
DIGITS, X_DIGITS = 4, 6  # significant ones of what is drawn, and of where

# Okabe and Ito's colours on a dark page: the same hues, as light as its text.
DARK = {
    "#0072B2": "#3B9EE5",
    "#56B4E9": "#A6DBFF",
    "#E69F00": "#F0B429",
    "#009E73": "#21C796",
    "#CC79A7": "#E49CC4",
    "#D55E00": "#FF8743",
    "#000000": "#E6EDF3",
    "#999999": "#A9A9A9",
    "#B5A800": "#D6CB3C",
}


BANDS = {
    "t": "Band: pointwise 95 % Student-t interval of the mean over runs, cut where the quantity ends.",
    "share": f"Band: pointwise 95 % Student-t interval of the mean over runs. {SHARE}",
}
AXES = ("step", "tokens", "hours", "kl")


def explorer(runs: Runs) -> dict[str, Any] | None:
    """Everything that the picture of one experiment can show; None where no quantity was recorded.

    Returns plain lists and texts: ``arms`` (name, colours, dash, runs), ``axes``, ``quantities`` with their ``means``
    by axis and window (a curve an arm: x, mean, low, high, n), and ``runs`` with their steps, places on the other axes
    and values by quantity and window. Missing numbers are NaN. Bands end at the values that a quantity can have.
    """
    runs = with_movement(runs)
    frame = runs.metrics
    shown = [q for q in QUANTITIES if _recorded(frame, q.metric)]
    if not shown:
        return None
    axes = ["step", *(x for x in AXES[1:] if _recorded(frame, x_axis(x).column(frame)))]
    places = {x: pd.DataFrame({str(run): positions(of, x) for run, of in frame.groupby("run")}) for x in axes[1:]}
    unit = dict.fromkeys(axes, 1.0)
    if "hours" in places and not places["hours"].max().max() >= HOURS:
        unit["hours"] = 3600.0
    by_quantity = {q: arm_tables(frame[[*KEYS, "step", q.metric]], q.metric) for q in shown}
    first = next(iter(by_quantity.values()))
    arms, styles = list(first), line_styles([algo for algo, _ in first.values()])
    quantities: list[dict[str, Any]] = []
    drawn: dict[tuple[int, str], dict[str, dict[int, pd.Series]]] = {}
    for quantity, tables in by_quantity.items():
        smooth = {
            window: {name: (algo, smoothed(table, window)) for name, (algo, table) in tables.items()}
            for window in _windows(tables)
        }
        means = {x: {window: _on(x, of, places) for window, of in smooth.items()} for x in axes}
        quantities.append(_quantity(quantity, means, unit))
        for at, (name, (_, table)) in enumerate(tables.items()):
            for run in table:
                values = {window: of[name][1][run].dropna() for window, of in smooth.items()}
                drawn.setdefault((at, str(run)), {})[quantity.metric] = values
    return {
        "arms": [
            {
                "name": name,
                "colour": style["color"],
                "dark": DARK.get(style["color"], style["color"]),
                "dash": _dash(style["linestyle"]),
                "runs": sum(of == at for of, _ in drawn),
            }
            for at, (name, style) in enumerate(zip(arms, styles, strict=True))
        ],
        "axes": [{"id": x, **_axis(x, unit[x])} for x in axes],
        "quantities": quantities,
        "runs": [_run(at, run, values, places, unit) for (at, run), values in sorted(drawn.items())],
        "thinned": any(len(of[1]) > POINTS for values in drawn.values() for of in values.values()),
        "points": POINTS,
        "least": MIN_T_RUNS,
    }


def thin(values: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Places, at most ``points``, of the values that are kept of a long curve: the lowest and the highest of each of
    equal stretches, so that no peak is lost, and both ends. All places of a short one."""
    if len(values) <= points:
        return np.arange(len(values))
    inner = np.array_split(np.arange(1, len(values) - 1), (points - 2) // 2)
    filled = np.nan_to_num(values.astype(float), nan=0.0)
    kept = [part[[filled[part].argmin(), filled[part].argmax()]] for part in inner]
    return np.unique(np.concatenate([[0], *kept, [len(values) - 1]]))


def _on(x: str, tables: Tables, places: Mapping[str, pd.DataFrame]) -> Tables:
    """The tables over steps as tables over ``x``."""
    if x == "step":
        return tables
    return {name: (algo, on_shared_grid(table, places[x], x)) for name, (algo, table) in tables.items()}


def _quantity(
    quantity: Quantity, means: Mapping[str, Mapping[int, Tables]], unit: Mapping[str, float]
) -> dict[str, Any]:
    """means: the tables of every arm by axis and window."""
    tables = means["step"][1]
    values = np.concatenate([table.to_numpy().ravel() for _, table in tables.values()])
    summaries = _summaries(means, quantity.band)
    return {
        "id": quantity.metric,
        "label": quantity.label,
        "log": quantity.log,
        **_logarithm(values[np.isfinite(values)]),
        "bounds": [None if np.isinf(end) else end for end in (quantity.low, quantity.high)],
        "windows": list(means["step"]),
        "band": BANDS[quantity.band],
        "equal": _equal(tables),
        "notes": {x: " ".join(x_notes({quantity.label: of[1]}, x)) for x, of in means.items()},
        "means": {
            x: {
                str(window): [_curve(summaries.get((x, window, name)), quantity, unit[x]) for name in tables]
                for window in of
            }
            for x, of in means.items()
        },
    }


def _summaries(means: Mapping[str, Mapping[int, Tables]], band: str) -> dict[tuple[str, int, str], np.ndarray]:
    """x, mean, low, high, n (``pointwise``) of every table.

    Rows do not depend on each other, so tables of the same runs go through it as one: hundreds of small calls would
    take longer than all else of the page.
    """
    keyed = {
        (x, window, name): table
        for x, of in means.items()
        for window, tables in of.items()
        for name, (_, table) in tables.items()
        if table.size
    }
    groups: dict[tuple[str, ...], list[tuple[str, int, str]]] = {}
    for key, table in keyed.items():
        groups.setdefault(tuple(map(str, table)), []).append(key)
    found = {}
    for keys in groups.values():
        whole = pointwise(pd.concat([keyed[key] for key in keys]), band)[["mean", "low", "high", "n"]].to_numpy(float)
        ends = np.cumsum([len(keyed[key]) for key in keys])
        for key, part in zip(keys, np.split(whole, ends[:-1]), strict=True):
            found[key] = np.column_stack([keyed[key].index.to_numpy(float), part])
    return found


def _curve(summary: np.ndarray | None, quantity: Quantity, unit: float) -> dict[str, list[Any]] | None:
    """An arm's curve, thinned; None where it has none."""
    if summary is None:
        return None
    kept = thin(summary[:, 1])
    x, mean, low, high, n = summary[kept].T
    return {
        "x": _plain(x * unit, X_DIGITS),
        "mean": _plain(mean),
        "low": _plain(np.maximum(low, quantity.low)),
        "high": _plain(np.minimum(high, quantity.high)),
        "n": n.astype(int).tolist(),
    }


def _run(
    arm: int,
    run: str,
    values: Mapping[str, Mapping[int, pd.Series]],
    places: Mapping[str, pd.DataFrame],
    unit: Mapping[str, float],
) -> dict[str, Any]:
    """One run's points: those of all its quantities share their steps and places."""
    kept = {metric: thin(of[1].to_numpy()) for metric, of in values.items()}
    steps = np.unique(np.concatenate([of[1].index.to_numpy()[kept[metric]] for metric, of in values.items()]))

    def spread(metric: str, of: pd.Series) -> list[float]:
        found = np.full(len(steps), np.nan)
        found[np.searchsorted(steps, of.index.to_numpy()[kept[metric]])] = of.to_numpy()[kept[metric]]
        return _plain(found)

    return {
        "name": run,
        "arm": arm,
        "at": {"step": [int(step) for step in steps]}
        | {x: _plain(of[run].reindex(steps).to_numpy() * unit[x], X_DIGITS) for x, of in places.items()},
        "values": {
            metric: {str(window): spread(metric, one) for window, one in of.items()} for metric, of in values.items()
        },
    }


def _windows(tables: Tables) -> Sequence[int]:
    """The moving means that make sense for a quantity: none that takes in half of what was recorded."""
    most = max(len(table) for _, table in tables.values())
    return [w for w in (WINDOWS if most <= SHORT else LONG_WINDOWS) if w == 1 or 2 * w <= most]


def _equal(tables: Tables) -> list[list[int]]:
    """Groups of arms with one and the same mean curve, by their places."""
    groups = equal_groups({name: table.mean(axis=1) for name, (_, table) in tables.items() if table.size})
    return [[list(tables).index(name) for name in group] for group in groups]


def _logarithm(values: np.ndarray) -> dict[str, float | None]:
    """Of a logarithmic axis: whether there can be one, and the value below which it is linear so that 0 is on it."""
    positive = values[values > 0]
    if not positive.size or (values < 0).any():
        return {"smallest": None, "linear_below": None}
    linear = float(10 ** np.floor(np.log10(np.quantile(positive, 0.02)))) if positive.size < values.size else None
    return {"smallest": float(positive.min()), "linear_below": linear}


def _axis(x: str, unit: float) -> dict[str, str]:
    """The label of an axis, and what stands behind a number on it."""
    if x == "step":
        return {"label": "training step", "unit": "steps"}
    if x == "hours":
        word = "seconds" if unit > 1 else "hours"
        return {"label": f"{word} of training steps", "unit": word}
    return {"label": x_axis(x).label, "unit": {"tokens": "tokens", "kl": "nats/token"}[x]}


def _dash(style: Any) -> list[float]:
    """Pixels on and off of a matplotlib line style."""
    return [] if style == "-" else [2 * part for part in style[1]]


def _recorded(frame: pd.DataFrame, metric: str) -> bool:
    return metric in frame and bool(frame[metric].notna().any())


def _plain(values: np.ndarray, digits: int = DIGITS) -> list[float]:
    """Numbers of so many significant digits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.floor(np.log10(np.abs(values)))
    places = np.where(np.isfinite(size), digits - 1 - size, 0)
    up, down = 10.0 ** np.clip(places, 0, 300), 10.0 ** np.clip(-places, 0, 300)
    return (np.round(values * up / down) / up * down).tolist()
