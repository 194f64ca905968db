"""Length pressure: which way a loss pushes response length, and how hard, on the responses that a run recorded.

A loss ascends along g = mean over i of c_i grad log pi(y_i | x). One natural-gradient step along g changes the expected
length by P = mean over i of c_i (L_i - mu_x), mu_x the mean length of the prompt's group: the derivative of E[L] under
pi exp(eta c) at eta = 0. Neither Adam nor the plain gradient takes that step. The losses:

    reference  c = A               what the reward itself asks for
    gspo       c = A u s / L       u = 1 if not clipped, s the sequence's ratio; arXiv 2507.18071
    luspo      c = A u s           arXiv 2602.05261, equation 8; a constant factor (luspo_norm) changes nothing
    grpo       c = A m / L         m = mean over tokens of the kept ratios; approximate: it takes clipping to be
    grpo_sum   c = A m             independent of a token's score

**Normalised** pressure is P over the spread of c, sqrt(mean of (c_i - mean c_x)^2): tokens per sqrt(2 KL) of the step,
which alone compares losses. P is of a batch, an update of a step; the spread is pooled over the run's batches. The
batch's own would not do: with few prompts it goes with the sign of P, and P over it has mean -0.08 standard deviations
of length at an accuracy of 0.9, +0.08 at 0.1, for a GSPO whose P has mean 0 (4 prompts x 8 responses).

Means of a group (mu_x, mean c_x) are over all responses to the prompt in the step, also where ranks or micro-batches
spread them over several updates; each response's c is that of its own update. The divisor of these means is G, so P of
a c that does not add up to 0 is 1 - 1/G of its value under the true mean; in units of the standard deviation of length,
which has the same divisor, that cancels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import KEYS, AnalysisError, Runs
from analysis.statistics.intervals import t_interval

COLUMNS = ("step", "update", "prompt_id", "tokens", "advantage", "log_ratio", "clipped", "effective_ratio")
STAGES = ("reference", "1/L", "clipping", "s")  # in this order, each multiplies c by one factor more
TERMS = (*STAGES, "total", "bias")
Clip = tuple[float, float]  # low, high: the ratio's range is [1 - low, 1 + high]


@dataclass(frozen=True)
class Loss:
    """What has a ratio and is clipped, a token or a sequence, and whether a response's terms are averaged (1/L)."""

    unit: str
    averages: bool


LOSSES = {  # the four that there can be, by the name of the best known one
    "grpo": Loss("token", averages=True),
    "grpo_sum": Loss("token", averages=False),
    "gspo": Loss("sequence", averages=True),
    "luspo": Loss("sequence", averages=False),
}
UNITS = {"token": "token", "sequence_mean": "sequence"}  # of the manifest's ``loss.level``


def loss_of(manifest: Mapping[str, Any]) -> str:
    """The entry of ``LOSSES`` that a run trained with, by the manifest's description of its loss.

    Raises ``AnalysisError`` for a loss that is none of them: its derivative is not the ratio, or its ratio is another.
    """
    loss = manifest.get("loss") or {}
    unit, power = UNITS.get(loss.get("level", "")), loss.get("length_exponent")
    if not loss.get("derivative_is_ratio") or unit is None or power not in (0, 1):
        name = f"{loss['loss_mode']} with {loss['loss_agg_mode']}" if loss else manifest.get("algo", "an unknown loss")
        raise AnalysisError(f"length pressure is not defined for {name}; it is for {', '.join(LOSSES)}")
    return next(name for name, entry in LOSSES.items() if entry == Loss(unit, averages=power == 0))


def undefined(runs: Runs) -> dict[str, str]:
    """Arms for whose loss length pressure is not defined -> why, in one line."""
    found = {}
    for row in runs.runs.to_dict("records"):
        try:
            loss_of(runs.manifests[row["run"]])
        except AnalysisError as error:
            found[str(row["arm"])] = str(error)
    return found


def stages(rows: pd.DataFrame, loss: str, clip: Clip | None = None) -> dict[str, np.ndarray]:
    """c of every response after each of ``STAGES``, float64; the last is the loss's own.

    rows: ``COLUMNS``, recorded under a loss of the same unit. With ``clip`` of any, and sequences are clipped again:
    where exp(log_ratio) is out of the range on the side to which the advantage pushes it. Of token-level losses u is
    the share of kept tokens and s their mean ratio, so that u s = effective_ratio.
    """
    advantage, length = (rows[name].to_numpy(float) for name in ("advantage", "tokens"))
    ratio = np.exp(rows["log_ratio"].to_numpy(float))
    if clip is None:
        kept = 1 - rows["clipped"].to_numpy(float) / length
    else:
        low, high = clip
        kept = ~(((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low)))
    effective_ratio = kept * ratio if LOSSES[loss].unit == "sequence" else rows["effective_ratio"].to_numpy(float)
    weighted = advantage / length if LOSSES[loss].averages else advantage
    return dict(zip(STAGES, (advantage, weighted, weighted * kept, weighted * effective_ratio), strict=True))


@dataclass(frozen=True)
class Batches:
    """Responses of one run and how they belong together; ``of`` makes one. n responses, B batches, M groups.

    batch, group: (n,), indices of each response's update of a step, and of its prompt in the step. keys: B rows, the
    batches' step and update. length: (n,), tokens minus the mean of the group.
    """

    batch: np.ndarray
    group: np.ndarray
    keys: pd.DataFrame
    length: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Batches":
        """From rows with step, update, prompt_id and tokens."""
        batches = rows.groupby(["step", "update"])
        group = rows.groupby(["step", "prompt_id"]).ngroup().to_numpy()
        keys = batches.size().index.to_frame(index=False)
        return cls(batches.ngroup().to_numpy(), group, keys, _centred(rows["tokens"].to_numpy(float), group))

    def pressure(self, c: np.ndarray) -> np.ndarray:
        """(B,): P of each batch, in tokens per unit of eta; c: (n,)."""
        return _means(c * self.length, self.batch)

    def normalised(self, c: np.ndarray) -> np.ndarray:
        """(B,): P of each batch over the spread of c, tokens per sqrt(2 KL); NaN where there is no spread."""
        return _over(self.pressure(c), self.spread(c))

    def group_pressure(self, c: np.ndarray) -> np.ndarray:
        """(M,): P of each group by itself."""
        return _means(c * self.length, self.group)

    def spread(self, c: np.ndarray) -> float:
        """Root of the mean over batches of the mean squared deviation of c from its group's mean."""
        return float(np.sqrt(_means(_centred(c, self.group) ** 2, self.batch).mean()))

    def length_sd(self) -> np.ndarray:
        """(B,): standard deviation of length within prompts, in tokens."""
        return np.sqrt(_means(self.length**2, self.batch))

    def pooled_length_sd(self) -> float:
        """Root mean square of ``length_sd``."""
        return float(np.sqrt((self.length_sd() ** 2).mean()))


def batch_pressure(rows: pd.DataFrame, loss: str, clip: Clip | None = None) -> pd.DataFrame:
    """Normalised pressure of ``loss`` on each batch of one run: step, update, term, value, length_sd.

    rows, clip: see ``stages``. term: the reference's value, what each further stage adds to it, the total, and its
    bias, total minus reference. value: tokens per sqrt(2 KL), P of the batch over the spread pooled over ``rows``; NaN
    where that is 0: no response has an advantage, or all are clipped. length_sd: of the batch, within prompts, tokens.
    """
    batches = Batches.of(rows)
    values = np.array([batches.normalised(c) for c in stages(rows, loss, clip).values()])
    terms = [values[0], *np.diff(values, axis=0), values[-1], values[-1] - values[0]]
    keys, length_sd = batches.keys, batches.length_sd()
    parts = [keys.assign(term=term, value=value, length_sd=length_sd) for term, value in zip(TERMS, terms, strict=True)]
    return pd.concat(parts, ignore_index=True)


def loss_bias(rows: pd.DataFrame, loss: str, clip: Clip | None = None, batches: Batches | None = None) -> float:
    """Mean over the batches of one run of the bias of ``loss``, in standard deviations of length (pooled like spreads).

    It is the difference of two correlations with length within prompts, that of c and that of A; NaN where one of them
    is not defined. rows, clip: see ``stages``. batches: of the same rows, if they are at hand.
    """
    batches = batches or Batches.of(rows)
    c = stages(rows, loss, clip)
    bias = batches.normalised(c["s"]) - batches.normalised(c["reference"])
    return float(_over(bias.mean(), batches.pooled_length_sd()))


def prompt_pressure(rows: pd.DataFrame, loss: str) -> pd.DataFrame:
    """Pressure of ``loss`` on each group of one run that has an advantage: step, prompt_id, accuracy, value.

    rows: ``COLUMNS`` and accuracy. accuracy: the group's. value: P of the group over the spread of c and over the
    standard deviation of length, both pooled over ``rows``. Over the group's own spread it would fall with accuracy
    even where P does not, for the reason that the module gives.
    """
    batches = Batches.of(rows)
    c = stages(rows, loss)["s"]
    unit = batches.spread(c) * batches.pooled_length_sd()
    groups = rows.assign(has=rows["advantage"] != 0).groupby(["step", "prompt_id"])
    frame = groups.agg(accuracy=("accuracy", "mean"), has=("has", "any")).reset_index()
    frame["value"] = _over(batches.group_pressure(c), unit)
    return frame[frame.pop("has")].reset_index(drop=True)


def pressure_frame(runs: Runs, losses: Sequence[str] | None = None, clip: Clip | None = None) -> pd.DataFrame:
    """Normalised pressure on every batch of all runs: ``KEYS``, step, update, loss, term, value, length_sd.

    The last three: see ``batch_pressure``. losses: names of ``LOSSES``, each evaluated on the responses of every run, a
    what-if where the run trained with another; None: each run's own. clip: clip sequences again, at this range. A run
    without recorded responses has no rows, nor has one of an arm for whose loss this is not ``undefined``. Raises
    ``AnalysisError`` if no run has any, and where the rows do not say what a loss would clip (``require_defined``).
    """
    without = undefined(runs)
    left = list(runs.runs["run"][~runs.runs["arm"].isin(without)])
    if not left:
        raise AnalysisError("; ".join(dict.fromkeys(without.values())))
    parts = []
    for run, rows in _recorded(runs.select(run=left)):
        own = loss_of(runs.manifests[run["run"]])
        for loss in losses or [own]:
            require_defined(loss, own, clip, run["run"])
            part = batch_pressure(rows, loss, clip)
            parts.append(part.assign(**{key: run[key] for key in KEYS}, loss=loss))
    return pd.concat(parts, ignore_index=True)[[*KEYS, "step", "update", "loss", "term", "value", "length_sd"]]


def run_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Means of ``pressure_frame`` over each run's batches, the first, on-policy updates included.

    Columns: ``KEYS``, loss, term, value (tokens per sqrt(2 KL)), length_sd (root mean square over batches, tokens),
    in_sd (value over length_sd).
    """
    squared = frame.assign(length_sd=frame["length_sd"] ** 2)
    means = squared.groupby([*KEYS, "loss", "term"], sort=False)[["value", "length_sd"]].mean().reset_index()
    means["length_sd"] **= 0.5
    return means.assign(in_sd=_over(means["value"], means["length_sd"]))


def arm_intervals(means: pd.DataFrame, value: str = "value", level: float = 0.95) -> pd.DataFrame:
    """Student-t interval over the runs of each arm: experiment, arm, algo, loss, term, estimate, low, high, n.

    means: ``run_means``; value: its column. low and high are NaN for a single run.
    """
    keys = ["experiment", "arm", "algo", "loss", "term"]
    records = []
    for key, rows in means.groupby(keys, sort=False):
        found = t_interval(rows[value].to_numpy(), level)
        interval = {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n}
        records.append({**dict(zip(keys, key, strict=True)), **interval})
    return pd.DataFrame.from_records(records)


def require_defined(loss: str, recorded: str, clip: Clip | None, run: str) -> None:
    """Raise ``AnalysisError`` unless what ``run`` recorded under one loss says what another, ``loss``, would clip."""
    if loss not in LOSSES:
        raise AnalysisError(f"length pressure is not defined for {loss}; it is for {', '.join(LOSSES)}")
    unit, other = LOSSES[loss].unit, LOSSES[recorded].unit != LOSSES[loss].unit
    if unit == "token" and clip is not None:
        raise AnalysisError(f"{run}: {loss} clips tokens, whose ratios are not recorded; a clip range is for sequences")
    if unit == "token" and other:
        raise AnalysisError(f"{run}: {loss} clips tokens, whose ratios are not recorded, and the run clipped sequences")
    if unit == "sequence" and other and clip is None:
        raise AnalysisError(f"{run}: {loss} clips sequences and the run clipped tokens; give a clip range (low, high)")


def _recorded(runs: Runs) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """``Runs.responses`` with what pressure needs; raises ``AnalysisError`` if no run has any."""
    found = False
    for run, rows in runs.responses(COLUMNS):
        found = True
        yield run, rows
    if not found:
        raise AnalysisError(f"no responses recorded in {', '.join(runs.runs['run'])}")


def _means(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Mean of the values of each index 0..max, all of which occur."""
    return np.bincount(index, values) / np.bincount(index)


def _centred(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    return values - _means(values, index)[index]


def _over(values: Any, by: Any) -> Any:
    """values / by, NaN where by is 0."""
    return values / np.where(np.asarray(by) > 0, by, np.nan)
