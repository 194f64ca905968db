"""A contrast of arms in one quantity, as a report holds it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.statistics.intervals import Interval
from analysis.statistics.pairs import Sample


@dataclass(frozen=True)
class Effect:
    """One contrast of one quantity. interval: over seeds, of natural logarithms where ``unit`` is ratio."""

    quantity: str
    contrast: str
    unit: str
    interval: Interval
    sample: Sample

    def record(self) -> dict[str, Any]:
        """A flat row, effects in the unit: factors for ratio, percentage points for points; NaN without an interval."""
        back = np.exp if self.unit == "ratio" else float
        found = self.interval
        return {
            "quantity": self.quantity,
            "contrast": self.contrast,
            "unit": self.unit,
            **{name: float(back(getattr(found, name))) for name in ("estimate", "low", "high")},
            "p": found.p,
            "n": found.n,
            "reason": self.sample.missing
            or "; ".join(sorted({*self.sample.lost.values(), *self.sample.left_out.values()})),
        }
