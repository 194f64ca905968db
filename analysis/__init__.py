"""From run directories to frames, figures and tables. Imports no torch, ray, verl or transformers.

Each name is imported when it is first asked for: who only loads runs does not wait for what draws them.
"""

from importlib import import_module
from typing import Any

_NAMES = {
    "figures.curves": "CURVES Curve accuracy_curve clip_curve curve draw length_curve panels reward_curve three_panels",
    "figures.distributions": "effective_weight length_quantiles",
    "figures.paths": "length_accuracy",
    "figures.style": "COLOURS save",
    "report.catalogue": "FIGURES Entry draw_figure missing",
    "runs.load": "KEYS AnalysisError Runs load_runs require_metric",
    "statistics.arms": "X_AXES arm_tables pointwise",
    "statistics.matched": "require_matched",
    "statistics.selection": "Choice choose",
    "tables.summary": "print_forks print_summary summary_frame",
}
_HOMES = {name: f"analysis.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
