"""A loss by its name: verl's and ours, which are found by having a module in this package."""

import importlib
import pkgutil
from collections.abc import Iterator

import harness.losses
from harness.losses.of_verl import OF_VERL
from harness.losses.spec import LossSpec


def own_losses() -> Iterator[LossSpec]:
    """The ``SPEC`` of every module of this package that has one: a new loss is found by being there."""
    for module in pkgutil.iter_modules(harness.losses.__path__):
        # The configuration classes need verl, and with it torch; no loss is described there.
        if not module.name.endswith("_config"):
            spec = getattr(importlib.import_module(f"harness.losses.{module.name}"), "SPEC", None)
            if spec is not None:
                yield spec


def spec_of(loss_mode: str) -> LossSpec:
    """What is known of the loss ``loss_mode``, ours or verl's; the defaults for another."""
    known = {spec.name: spec for spec in (*OF_VERL, *own_losses())}
    return known.get(loss_mode, LossSpec(loss_mode))


def importance_sampling_level(loss_mode: str) -> str:
    """``token`` or ``sequence``: which of the experiment's clip ranges a loss takes."""
    return "token" if spec_of(loss_mode).level == "token" else "sequence"


def register_losses() -> None:
    """Tell verl our losses. Every process that trains calls it, before verl asks for a loss."""
    from verl.trainer.ppo.core_algos import register_policy_loss

    for spec in own_losses():
        if spec.function is not None:
            register_policy_loss(spec.name)(spec.function)
