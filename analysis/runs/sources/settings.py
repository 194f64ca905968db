"""What another framework's configuration states, under verl's names: what can be compared between two runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.runs.load import AnalysisError
from harness.rundir import flattened

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
Plain = int | float | bool | str


@dataclass(frozen=True)
class Setting:
    """verl's name, TRL's, and what makes TRL's value verl's. treatment: it belongs to the loss."""

    key: str
    trl: str
    convert: Callable[[Any], Any] = lambda value: value
    treatment: bool = False


STATED = (
    Setting(f"{ACTOR}.optim.lr", "learning_rate"),
    Setting(f"{ACTOR}.optim.weight_decay", "weight_decay"),
    Setting(f"{ACTOR}.optim.clip_grad", "max_grad_norm"),
    Setting(f"{ACTOR}.ppo_epochs", "num_iterations"),
    Setting(f"{ACTOR}.use_kl_loss", "beta", lambda beta: beta > 0),
    Setting(f"{ROLLOUT}.n", "num_generations"),
    Setting(f"{ROLLOUT}.temperature", "temperature"),
    Setting(f"{ROLLOUT}.top_p", "top_p"),
    Setting(f"{ROLLOUT}.top_k", "top_k", lambda k: k or -1),  # both mean all tokens
    Setting("data.max_response_length", "max_completion_length"),
    Setting("data.max_prompt_length", "max_prompt_length"),
    Setting("seed", "seed"),
    Setting(f"{ACTOR}.clip_ratio_low", "epsilon", treatment=True),
    Setting(f"{ACTOR}.clip_ratio_high", "epsilon_high", treatment=True),
    Setting("trl.loss_type", "loss_type", treatment=True),  # no value of verl's means just the same
    Setting("trl.importance_sampling_level", "importance_sampling_level", treatment=True),
    Setting("trl.scale_rewards", "scale_rewards", treatment=True),
    Setting(f"{ACTOR}.loss_agg_mode", "", treatment=True),
    Setting(f"{ACTOR}.policy_loss.loss_mode", "", treatment=True),
)
TREATMENT = frozenset(setting.key for setting in STATED if setting.treatment)
NO_SETTING = frozenset({"seed"})  # it tells runs apart, and is no setting of theirs
PLANNED = ("trainer.total_training_steps", "max_steps")


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``STATED`` that a configuration, nested or flat, of verl or TRL has a value for."""
    flat = flattened(dict(config))
    found: dict[str, Any] = {}
    for setting in STATED:
        value = flat.get(setting.key)
        if setting.key not in flat and setting.trl in flat:
            given = flat[setting.trl]
            value = given if given is None and setting.trl != "top_k" else setting.convert(given)
        if isinstance(value, Plain):
            found[setting.key] = value
    high = f"{ACTOR}.clip_ratio_high"
    if "epsilon" in flat and high not in found and isinstance(flat["epsilon"], Plain):
        found[high] = flat["epsilon"]  # TRL's epsilon_high is epsilon where it is not set
    return found


def planned_steps(config: Mapping[str, Any]) -> int | None:
    """Training steps that a configuration plans, None where it does not say."""
    flat = flattened(dict(config))
    found = [flat[key] for key in PLANNED if isinstance(flat.get(key), int) and flat[key] > 0]
    return found[0] if found else None


def read_config(file: Path) -> dict[str, Any]:
    """A configuration in YAML or JSON, such as verl's ``.hydra/config.yaml``; raises ``AnalysisError`` for none."""
    try:
        content = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AnalysisError(f"{file}: not readable as YAML or JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise AnalysisError(f"{file}: not a configuration, which is a mapping of names to values")
    return content
