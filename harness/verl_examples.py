"""verl's own example script for each GPU preset, as results/paper/verl_examples.yaml has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from harness.paths import ROOT

EXAMPLES = ROOT / "results" / "paper" / "verl_examples.yaml"


@dataclass(frozen=True)
class Example:
    """One script of verl's repository.

    trains: its model and data; algo: the arm of ours that it is set beside; values: its settings under verl's names;
    absent: those that the installed verl does not have, each with what became of it.
    """

    source: str
    trains: str
    algo: str
    values: Mapping[str, Any]
    absent: Mapping[str, str]


def load_examples() -> dict[str, Example]:
    """``{preset: its example}``."""
    content = yaml.safe_load(EXAMPLES.read_text())
    address = f"{content['repository']}/blob/{content['commit']}"
    return {
        preset: Example(
            source=f"[{one['script']}]({address}/{one['script']})",
            trains=one["trains"],
            algo=one["algo"],
            values=one["values"],
            absent={key: why for key, why in content["absent"].items() if key in one["values"]},
        )
        for preset, one in content["presets"].items()
    }
