"""A file of claims: what is said of which arms, and the rules that decide it. docs/claims.md says how to write one."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from analysis.runs.load import AnalysisError
from analysis.statistics.claim_schema import nearest, require_valid, rows_of
from analysis.statistics.intervals import Rule
from analysis.statistics.recorded import unit_of
from analysis.statistics.windows import N_MIN, USUAL
from harness.rundir import content_hash

NEUTRAL = {"ratio": 1.0}  # no effect, in the unit; 0 in all others
ANY = ""  # the setting of a delta that is the same in all
LEVEL = 0.95  # of intervals, where no file says another
DIGITS = {"sd of length": 3, "points": 1, "runs": 1}  # decimals shown of an effect; of others three digits that count


@dataclass(frozen=True)
class Claim:
    """One row of a file of claims, a test of a claim; docs/claims.md says what the fields mean.

    experiments: () for all that the file is about. plain: the claim in words that need no other page, or "".
    """

    id: str
    claim: str
    metric: str
    unit: str
    window: str
    direction: str
    arms: tuple[str, ...]
    experiments: tuple[str, ...]
    quantity: str
    where: str = ""
    row: str = ""
    primary: bool = False
    delta: Mapping[str, float] = field(default_factory=dict)
    than: float | None = None
    range: tuple[float, float] | None = None
    against: str = ""
    n_min: int | None = None
    plain: str = ""

    @property
    def name(self) -> str:
        """Its id, and which row of it."""
        return f"{self.id}, {self.row}" if self.row else self.id

    @property
    def sentence(self) -> str:
        """The claim for a reader: ``plain``, or as the file has it."""
        return self.plain or self.claim.partition(" (")[0] + (f": {self.row}" if self.row else "")

    def natural(self, effect: float) -> float:
        """An effect in the claim's unit; runs are averaged on that scale, ratios as logarithms."""
        return math.exp(effect) if self.unit == "ratio" else effect

    def scaled(self, value: float) -> float:
        """The inverse of ``natural``."""
        return math.log(value) if self.unit == "ratio" else value

    def number(self, effect: float) -> str:
        """An effect as it is shown, without its unit: 1.58 for a ratio, with its sign for all others."""
        value = self.natural(effect)
        if self.unit == "ratio":
            return three_digits(value)
        if self.unit in DIGITS:
            digits = DIGITS[self.unit]
            return f"{round(value, digits) + 0.0:+.{digits}f}"
        return "+" * (value >= 0) + three_digits(value)

    def rule(self, setting: str = ANY) -> Rule:
        """The rule on the scale of the effects, with the delta of ``setting``, where there are several."""
        neutral = NEUTRAL.get(self.unit, 0.0)
        delta = self.scaled(self.delta.get(setting, self.delta.get(ANY, neutral)))
        low, high = map(self.scaled, self.range) if self.range else (-delta, delta)
        return Rule(
            self.direction,
            delta=delta,
            than=self.scaled(neutral if self.than is None else self.than),
            region=(low, high),
        )


@dataclass(frozen=True)
class Claims:
    """A file of claims. level: of the intervals; rows: in the file's order; file, hash: "" for no claims at all.

    rules: by name, experiments: those that the file lists, with the name of their rules; none listed: it is about all.
    usual: the rules of all others. of: whose claims they are, in a title. pairs: of arms, which a report compares
    first; baselines: with the first of these that has runs it compares every other arm. forks: pairs that one update
    is compared in. notes: what a reader of any number of an experiment must know. earlier: hash of an earlier version
    of the file -> the experiments whose rules have not changed since.
    """

    level: float = LEVEL
    rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    experiments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rows: tuple[Claim, ...] = ()
    hash: str = ""
    file: str = ""
    of: str = ""
    usual: Mapping[str, Any] = field(default_factory=lambda: USUAL)
    pairs: tuple[tuple[str, str], ...] = ()
    baselines: tuple[str, ...] = ()
    forks: tuple[tuple[str, str], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    earlier: Mapping[str, Collection[str]] = field(default_factory=dict)

    def has_rules_of(self, version: str, experiment: str) -> bool:
        """Whether the experiment's rules are those of the version of the file with that hash."""
        return version == self.hash or experiment in self.earlier.get(version, ())

    def decides(self, experiment: str) -> bool:
        """Whether the file is about the experiment."""
        return bool(self.rows) and (not self.experiments or experiment in self.experiments)

    def rules_of(self, experiment: str) -> Mapping[str, Any]:
        """Windows and number of runs of an experiment, the usual ones where the file has none for it."""
        name = self.experiments.get(experiment, {}).get("rules")
        return self.rules[name] if name else self.usual

    def setting_of(self, experiment: str) -> str:
        """Which of several deltas is the experiment's."""
        return self.experiments.get(experiment, {}).get("delta", ANY)

    def note_of(self, experiment: str) -> str:
        """What a reader of any of its numbers must know, or ""."""
        return self.experiments.get(experiment, {}).get("note") or self.notes.get(experiment, "")


NO_CLAIMS = Claims()


def load_claims(path: Path, recorded: Collection[str] = ()) -> Claims:
    """Read a file of claims. recorded: metrics of the runs that it is to be decided on, () before there are any.

    Raises ``AnalysisError`` with one line, where and what is wrong, and what would be right (``claim_schema``).
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from None
    except yaml.YAMLError as error:
        raise AnalysisError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    require_valid(content, str(path), recorded)
    given = [row for _, row in rows_of(content, str(path))]
    rows = tuple(map(_claim, given))
    steps = {_name(row["window"]): row["window"] for row in given if isinstance(row["window"], list)}
    usual = {**USUAL, **content.get("windows", {}), **steps}
    usual[N_MIN] = content.get(N_MIN, usual[N_MIN])
    experiments = content.get("experiments", {})
    if not isinstance(experiments, Mapping):
        experiments = {name: {} for name in experiments}
    pairs = tuple(dict.fromkeys((claim.arms[0], claim.arms[1]) for claim in rows if len(claim.arms) == 2))
    return Claims(
        level=content.get("level", LEVEL),
        rules={name: {**usual, **rules, **steps} for name, rules in content.get("rules", {}).items()},
        experiments=experiments,
        rows=rows,
        hash=content_hash(path),
        file=str(path),
        usual=usual,
        earlier=content.get("earlier", {}),
        pairs=tuple(pair for pair in pairs if "|" not in "".join(pair)),
        baselines=(content["baseline"],) if "baseline" in content else tuple(dict.fromkeys(b for _, b in pairs)),
    )


def require_arms(claims: Claims, arms: Collection[str], algorithms: Collection[str]) -> None:
    """Raise ``AnalysisError`` for an arm of the file that neither has runs nor begins with the name of an algorithm.

    Such a name is a mistake of typing. An arm of a known algorithm may be trained later: its claims are not tested.
    """
    begins = {name.partition(",")[0] for name in (*arms, *algorithms)}
    for claim in claims.rows:
        for arm in (one for names in claim.arms for one in names.split("|")):
            if arm not in arms and arm.partition(",")[0] not in begins:
                raise AnalysisError(f"{claims.file}:{claim.id}: no run of an arm {arm!r}{nearest(arm, sorted(arms))}")


def three_digits(value: float) -> str:
    """A number with three digits that count and no exponent: 0.0312, 1.58, 27.6, 3940."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def with_tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record as YAML or JSON has it, with tuples in place of lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def _claim(row: Mapping[str, Any]) -> Claim:
    """A row that has passed the schema, with what it left out."""
    given = with_tuples(row)
    delta = given.get("delta", {})
    return Claim(
        **{
            "metric": f"{given['quantity']}, {' - '.join(given['arms'])}",
            "unit": unit_of(given["quantity"]),
            "experiments": (),
            **given,
            "delta": delta if isinstance(delta, Mapping) else {ANY: float(delta)},
            "window": _name(row["window"]),
        }
    )


def _name(window: Any) -> str:
    """Of a window, which may be given as two steps."""
    return window if isinstance(window, str) else "-".join(map(str, window))
