"""claims.yaml: the paper's claims and the rules that decide them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from analysis.runs.load import AnalysisError
from analysis.statistics.intervals import Rule
from analysis.statistics.quantities import QUANTITIES
from harness.rundir import content_hash

CLAIMS = Path(__file__).parents[2] / "results" / "paper" / "claims.yaml"
BENCHMARKS = "benchmark_accuracy"  # the quantity that evaluations give, not the metrics of training
NEUTRAL = {"ratio": 1.0}  # no effect, in the unit; 0 in all others


@dataclass(frozen=True)
class Claim:
    """One row of claims.yaml, a test of a claim; the file's header says what the fields mean."""

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

    def natural(self, effect: float) -> float:
        """An effect in the claim's unit; runs are averaged on that scale, ratios as logarithms."""
        return math.exp(effect) if self.unit == "ratio" else effect

    def scaled(self, value: float) -> float:
        """The inverse of ``natural``."""
        return math.log(value) if self.unit == "ratio" else value

    def rule(self, setting: str) -> Rule:
        """The rule on the scale of the effects, with the delta of ``setting``: tiny or paper."""
        neutral = NEUTRAL.get(self.unit, 0.0)
        low, high = self.range or (neutral, neutral)
        return Rule(
            self.direction,
            delta=self.scaled(self.delta.get(setting, neutral)),
            than=self.scaled(neutral if self.than is None else self.than),
            region=(self.scaled(low), self.scaled(high)),
        )


@dataclass(frozen=True)
class Claims:
    """claims.yaml: level of the intervals, rules (n_min and windows) by name, experiments, rows in the file's order.

    hash: of the file, as manifests hold it since their run began.
    """

    level: float
    rules: Mapping[str, Mapping[str, Any]]
    experiments: Mapping[str, Mapping[str, str]]
    rows: tuple[Claim, ...]
    hash: str = ""


def load_claims(path: Path = CLAIMS) -> Claims:
    """Read claims.yaml; raises ``AnalysisError`` naming a claim with unknown or missing fields."""
    content = yaml.safe_load(path.read_text())
    rows = []
    for entry in content["claims"]:
        shared = {key: value for key, value in entry.items() if key != "rows"}
        for row in entry.get("rows", [{}]):
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in {**shared, **row}.items()}
            try:
                claim = Claim(**given)
            except TypeError as error:
                raise AnalysisError(f"{path}: claim {entry.get('id')}: {error}") from None
            if claim.quantity not in {*QUANTITIES, BENCHMARKS}:
                raise AnalysisError(f"{path}: claim {claim.id}: unknown quantity {claim.quantity!r}")
            rows.append(claim)
    return Claims(content["level"], content["rules"], content["experiments"], tuple(rows), content_hash(path))
