"""Every figure by name: the paper's and ours, what each needs, and the function that draws it from ``Runs``."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.curves import CLIP_WINDOW, CURVES, Curve, draw, panels
from analysis.figures.distributions import draw_kept_weight, draw_length_quantiles
from analysis.figures.layout import write_question
from analysis.figures.paths import length_accuracy
from analysis.figures.pressure import decomposition_bars, pressure_curves
from analysis.figures.spending import spending_curves
from analysis.figures.style import figure_of
from analysis.paper.figures import PaperFigure, paper_figures
from analysis.runs.load import AnalysisError, Runs
from analysis.statistics.length_pressure import pressure_frame, run_means, undefined
from analysis.statistics.matched import DATA_KEYS, require_matched
from analysis.statistics.movement import MOVEMENT, with_movement
from harness.rundir import RunDir

PAPER = "paper_"  # before the number of the paper's figure
CLIPPED = "Of the updates after the first of each step, at which both policies are the same and nothing is clipped."


@dataclass(frozen=True)
class View:
    """How a figure is drawn; see ``draw_figure``."""

    ax: Axes | None = None
    x: str = "step"
    smooth: int = 1
    paper_axes: bool = False


@dataclass(frozen=True)
class Entry:
    """A figure: its title, which is the question that it answers, what it needs, and what draws it from runs, the
    metrics found and a ``View``.

    metrics: names or patterns (``reward_*``) of which one must have a value. responses: recorded responses are needed.
    experiments, algos: a run of each of these algorithms in each of these experiments is needed; without them a figure
    is drawn of whatever runs it is given. varies: controlled keys in which its runs may differ. shares: what it is made
    from, where others are made from that, too, and it takes long to make.
    """

    title: str
    draw: Callable[[Runs, Sequence[str], View], Axes | Figure]
    metrics: tuple[str, ...]
    responses: bool = False
    experiments: tuple[str, ...] = ()
    algos: tuple[str, ...] = ()
    varies: tuple[str, ...] = ()
    shares: str = ""


def _curve(name: str, question: str) -> Entry:
    def drawn(runs: Runs, _: Sequence[str], view: View) -> Axes:
        return draw(name, runs.metrics, view.ax, view.smooth, x=view.x)

    return Entry(question, drawn, (CURVES[name].metric,))


def _panels(title: str, *curves: Curve, share: bool = True, notes: Sequence[str] = ()) -> Entry:
    def drawn(runs: Runs, _: Sequence[str], view: View) -> Figure:
        return panels(runs.metrics, curves, view.ax, view.smooth, view.x, share, notes)

    return Entry(title, drawn, tuple(entry.metric for entry in curves))


def _reward_parts(runs: Runs, metrics: Sequence[str], view: View) -> Figure:
    parts = [Curve(metric, f"part of the reward: {metric.removeprefix('reward_')}") for metric in metrics]
    return panels(runs.metrics, parts, view.ax, view.smooth, view.x, share=False)


@lru_cache(maxsize=1)
def _pressure(runs: Runs) -> pd.DataFrame:
    """``pressure_frame``, which two figures of the same runs show."""
    return pressure_frame(runs)


def _left_out(runs: Runs) -> list[str]:
    """A sentence that names the arms for whose loss length pressure is not defined; none if there are none."""
    arms = sorted(undefined(runs))
    return [f"Not shown: {', '.join(arms)}, for whose loss length pressure is not defined."] if arms else []


def _of_paper(figure: PaperFigure) -> Entry:
    def drawn(runs: Runs, metrics: Sequence[str], view: View) -> Axes:
        return figure.draw(runs, metrics[0], view.ax, view.smooth, view.x, view.paper_axes)

    return Entry(
        title=f"After the paper's figure {figure.id}: what becomes of {figure.label}?",
        draw=drawn,
        metrics=(figure.metric,),
        experiments=figure.experiments,
        algos=figure.algos,
        varies=DATA_KEYS if len(figure.experiments) > 1 else (),
    )


OURS = {
    "response_length": _curve("response_length", "Do responses get longer?"),
    "length_right_wrong": _panels(
        "Do correct and incorrect responses both get longer?",
        Curve("response_length_correct", "correct responses (tokens)"),
        Curve("response_length_incorrect", "incorrect responses (tokens)"),
    ),
    "length_finished_truncated": _panels(
        "Do responses end by themselves, and how long are those that do?",
        Curve("response_length_finished", "finished responses (tokens)"),
        Curve("truncated", "truncated responses (fraction)", share=True),
        share=False,
        notes=["A truncated response is as long as the limit."],
    ),
    "length_quantiles": Entry(
        "How widely do lengths vary among the responses of a step?",
        lambda runs, _, view: draw_length_quantiles(runs, view.ax, view.smooth, view.x),
        ("response_length",),
        responses=True,
    ),
    "clip_fraction": _panels(
        "How much does the loss clip?",
        CURVES["clip_fraction"],
        Curve("clip_frac_seq", "clipped share of a response", True, True, CLIP_WINDOW),
        notes=[CLIPPED],
    ),
    "clip_by_sign": _panels(
        "Are good or bad responses clipped?",
        Curve("clip_frac_pos", "advantage > 0 (fraction of tokens)", True, True, CLIP_WINDOW),
        Curve("clip_frac_neg", "advantage < 0 (fraction of tokens)", True, True, CLIP_WINDOW),
        notes=[CLIPPED],
    ),
    "effective_weight": Entry(
        "Does clipping spare some lengths?",
        lambda runs, _, view: draw_kept_weight(runs, view.ax),
        ("clip_frac_token",),
        responses=True,
    ),
    "length_pressure": Entry(
        "Which way does the loss push length, step by step?",
        lambda runs, _, view: pressure_curves(_pressure(runs), view.ax, smooth=view.smooth, notes=_left_out(runs)),
        ("clip_frac_token", "reward"),
        responses=True,
        shares="pressure",
    ),
    "pressure_parts": Entry(
        "Which part of the loss pushes length?",
        lambda runs, _, view: decomposition_bars(run_means(_pressure(runs)), view.ax, notes=_left_out(runs)),
        ("clip_frac_token", "reward"),
        responses=True,
        shares="pressure",
    ),
    "entropy": _curve("entropy", "Does the policy become certain?"),
    "grad_norm": _panels(
        "How large are the gradients, and how often are they clipped?",
        Curve("grad_norm", "norm before clipping", log=True),
        Curve("grad_norm_clipped", "updates clipped (fraction)", share=True),
        share=False,
    ),
    "reward": _curve("reward", "Is more reward earned?"),
    "reward_parts": Entry("Which part of the reward is earned?", _reward_parts, ("reward_*",)),
    "accuracy": _curve("accuracy", "Are more responses correct in training?"),
    "length_accuracy": Entry(
        "Does accuracy come with length?",
        lambda runs, _, view: length_accuracy(runs.metrics, view.ax, view.smooth),
        ("accuracy",),
    ),
    "spending": Entry(
        "What did the same tokens, or the same movement of the policy, buy?",
        lambda runs, _, view: spending_curves(with_movement(runs).metrics, view.ax, view.smooth),
        ("cumulative_tokens", "ppo_kl"),
    ),
    "val_accuracy": _curve("val_accuracy", "Are more responses correct on held-out questions?"),
    "val_response_length": _curve("val_response_length", "Do responses to held-out questions get longer?"),
}


class _Table(Mapping[str, Entry]):
    """The paper's figures, read from their file at the first look, then ours."""

    @cached_property
    def entries(self) -> dict[str, Entry]:
        return {PAPER + number: _of_paper(figure) for number, figure in paper_figures().items()} | OURS

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


FIGURES: Mapping[str, Entry] = _Table()


def draw_figure(
    name: str,
    runs: Runs,
    ax: Axes | None = None,
    x: str = "step",
    smooth: int = 1,
    paper_axes: bool = False,
    varies: Sequence[str] = (),
) -> Axes | Figure:
    """Draw the figure ``name`` of ``FIGURES``; the axes, of several panels their figure.

    ``ax``: where to draw; panels take its place. ``x``: step or an entry of ``X_AXES``, for all that is drawn over
    training. ``smooth``: see ``arm_tables``. ``paper_axes``: the paper's figures within the paper's axis limits.
    ``varies``: see ``require_matched``. Raises ``AnalysisError`` for an unknown name and a ``missing`` figure.
    """
    reason = missing(name, runs, varies)
    if reason:
        raise AnalysisError(f"figure {name}: {reason}")
    entry = FIGURES[name]
    part = _needed(entry, runs)
    part = with_movement(part) if x == "kl" and MOVEMENT not in part.metrics else part
    drawn = entry.draw(part, _recorded(entry, part), View(ax, x, smooth, paper_axes))
    if ax is None:
        write_question(figure_of(drawn) if isinstance(drawn, Axes) else drawn, entry.title)
    return drawn


def missing(name: str, runs: Runs, varies: Sequence[str] = ()) -> str:
    """Why the figure ``name`` cannot be drawn of ``runs``, in one line; "" if it can.

    Raises ``AnalysisError`` for an unknown name.
    """
    if name not in FIGURES:
        near = difflib.get_close_matches(name, FIGURES, n=3, cutoff=0.4) or FIGURES
        raise AnalysisError(f"unknown figure {name!r}; there are {', '.join(near)}")
    entry = FIGURES[name]
    absent = _absent(entry, runs)
    if absent:
        return absent
    part = _needed(entry, runs)
    try:
        require_matched(part, (*entry.varies, *varies))
    except AnalysisError as error:
        return str(error)
    if not _recorded(entry, part):
        return f"no run recorded {' or '.join(entry.metrics)}"
    if entry.responses and not any(RunDir(Path(path)).response_files() for path in part.runs["path"]):
        return "no run recorded its responses"
    return ""


def _absent(entry: Entry, runs: Runs) -> str:
    """Which of the runs that the entry needs are not there."""
    there = set(runs.runs[["experiment", "algo"]].itertuples(index=False, name=None))
    for experiment in entry.experiments:
        if experiment not in {e for e, _ in there}:
            return f"no run of {experiment}"
        lacking = [algo for algo in entry.algos if (experiment, algo) not in there]
        if lacking:
            return f"no run of {' and '.join(lacking)} in {experiment}"
    return ""


def _needed(entry: Entry, runs: Runs) -> Runs:
    """The runs that the figure shows."""
    if not entry.experiments:
        return runs
    return runs.select(experiment=entry.experiments, algo=entry.algos)


def _recorded(entry: Entry, runs: Runs) -> list[str]:
    """Metrics with values that the entry's names and patterns match, sorted."""
    return [
        name for name in sorted(runs.recorded) if any(fnmatchcase(name.lower(), pattern) for pattern in entry.metrics)
    ]
