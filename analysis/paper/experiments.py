"""The experiments that stand beside the paper's settings in its tables: ``results/paper/experiments.yaml``."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import yaml

from analysis.runs.errors import AnalysisError

FILE = Path(__file__).parents[2] / "results" / "paper" / "experiments.yaml"


@dataclass(frozen=True)
class Beside:
    """What stands beside one setting of the paper; the file's header says what the fields mean."""

    experiments: tuple[str, ...]
    miniature: str = ""
    benchmarks: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=4)
def beside_settings(file: Path = FILE) -> Mapping[str, Beside]:
    """Setting -> what stands beside it.

    Raises ``AnalysisError`` for a file that cannot be read, an unknown field, or one of our benchmarks in two columns.
    """
    try:
        content = yaml.safe_load(file.read_text())
        found = {
            str(setting): Beside(**{**fields, "experiments": tuple(fields["experiments"])})
            for setting, fields in content.items()
        }
    except OSError as error:
        raise AnalysisError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise AnalysisError(f"{file}: not a table of settings ({' '.join(str(error).split())})") from None
    for setting, beside in found.items():
        if len(set(beside.benchmarks.values())) < len(beside.benchmarks):
            raise AnalysisError(f"{file}: {setting}: one benchmark stands in two columns")
    return found


def repeating(setting: str, ran: Collection[str]) -> list[str]:
    """The experiment that repeats the setting as published, run or not, and its variants that were ``ran``."""
    first, *variants = _beside(setting).experiments
    return [first, *(name for name in variants if name in ran)]


def in_miniature(setting: str, ran: Collection[str]) -> Mapping[str, Mapping[str, str]]:
    """The setting's experiment in miniature, if it was ``ran``: name -> the paper's benchmark -> ours in its column."""
    beside = _beside(setting)
    return {beside.miniature: beside.benchmarks} if beside.miniature in ran else {}


def miniature_label(experiment: str) -> str:
    """How a table calls it, so that nobody takes it for the setting itself."""
    return f"{experiment} (miniature)"


def miniature_notes(settings: Collection[str], ran: Collection[str]) -> list[str]:
    """What a table of these settings says of those in miniature, if there are any."""
    labels = [miniature_label(name) for setting in settings for name in in_miniature(setting, ran)]
    if not labels:
        return []
    return [
        f"{', '.join(labels)}: the setting at the size of a laptop, on a task of this project (docs/miniature.md). Its "
        "benchmarks are other ones, in the columns of the paper's by their rank from easy to hard, and its lengths are "
        "of other responses; so nothing is subtracted."
    ]


def _beside(setting: str) -> Beside:
    return beside_settings().get(setting) or Beside((setting.replace("-", "_"),))
