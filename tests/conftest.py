"""Shared fixtures, and the environment that must be there before torch and verl are imported."""

import copy
import gc
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from composing import remembering

# The CPU platform is chosen when verl is imported; torch reads its number of threads when it is imported.
os.environ.update(
    VERL_PLATFORM="cpu",
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TQ_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    # Commands that are shown name this Python as its user would have to.
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
)

Flat = dict[str, Any]


CONF = Path(__file__).resolve().parents[1] / "conf"


@cache
def _defaults() -> frozenset[str]:
    """``group=option`` of train.yaml's own choices that no experiment overrides: asking for them changes nothing."""
    entries = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    choices = (pair for one in entries if isinstance(one, dict) for pair in one.items())
    return frozenset(f"{group}={option}" for group, option in choices if group != "clip")


def _compose(*overrides: str) -> Any:
    return _composed(*(override for override in overrides if override not in _defaults()))


@cache
def _composed(*overrides: str) -> Any:
    from harness.config import compose

    return compose(overrides)


@cache
def _flat(*overrides: str) -> Flat:
    from harness.config import compose, flatten

    return flatten(compose(overrides))  # the tree itself is not kept: hundreds of them slow the garbage collector


@cache
def _actor(*overrides: str) -> Any:
    from verl.utils.config import omega_conf_to_dataclass

    from harness.losses.registry import register_losses

    register_losses()

    return omega_conf_to_dataclass(_compose(*overrides).actor_rollout_ref.actor)


@pytest.fixture(scope="session", autouse=True)
def _remembering() -> Iterator[None]:
    """Some 600 tests compose in this process; see ``composing``."""
    with remembering():
        yield


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """What is there before a module's tests, torch and its like above all, is nothing that the garbage collector need
    look through again: that was a third of the time of tests that make many small objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def composed() -> Callable[..., Any]:
    """``composed(*overrides)``: the DictConfig of ``python -m harness.train OVERRIDES``, composed once. Read only."""
    return _compose


@pytest.fixture(scope="session")
def flat() -> Callable[..., Flat]:
    """``flat(*overrides)``: the flat resolved configuration, composed once; the dict is the caller's own."""
    return lambda *overrides: dict(_flat(*(word for word in overrides if word not in _defaults())))


@pytest.fixture(scope="session")
def actor() -> Callable[..., Any]:
    """``actor(*overrides)``: verl's own actor dataclass as a worker builds it; every call returns a new object."""
    return lambda *overrides: copy.deepcopy(_actor(*overrides))
