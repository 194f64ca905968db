"""What a name on the command line means: a framework's loss, here or in another Python, or a function in a file."""

import ast
import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from harness.config import ConfigError, compose
from harness.config.errors import did_you_mean
from harness.losses.registry import register_losses, spec_of
from harness.losses.weighting import WeightedSpec
from harness.passport.formulas import FORMULAS
from harness.passport.frameworks import verl as verl_losses
from harness.passport.remote import REMOTE, RemoteLoss
from harness.passport.update import Call, Loss, LossError
from harness.passport.worker import differentiate, load_file, one_line
from harness.paths import CONF

WORD = re.compile(r"(?:(?P<framework>[\w-]+)(?:@(?P<version>[\w.]+))?|(?P<file>.+\.py)):(?P<name>[\w.-]+)")
COMMA = re.compile(r",(?![^\[]*\])")  # not within brackets
REQUIRED = ("log_prob", "old_log_prob", "advantages", "response_mask")
# What a function in a file is given if its signature names it.
OPTIONAL = {
    "ref_log_prob": "ref_log_prob",
    "rollout_is_weights": "weights",
    "global_batch_size": "responses",
    "batch_num_tokens": "tokens",
    "micro_batches": "micro_batches",
    "dp_size": "ranks",
}
SIZES = ("global_batch_size", "batch_num_tokens", "micro_batches")


@dataclass(frozen=True, eq=False)
class LocalLoss:
    """A loss of this process."""

    title: str
    loaded: SimpleNamespace = field(repr=False)

    @property
    def version(self) -> str:
        return self.loaded.version

    @property
    def takes_weights(self) -> bool:
        return self.loaded.takes_weights

    @property
    def equal_rows(self) -> bool:
        return self.loaded.equal_rows

    @property
    def note(self) -> str:
        return self.loaded.note

    def gradient(self, call: Call) -> Tensor:
        try:
            return differentiate(self.loaded.function, call)
        except Exception as error:  # a stranger's function may raise anything
            raise LossError(one_line(error)) from error


def find(word: str, pythons: dict[str, Path] | None = None, install: bool = False) -> Loss:
    """The loss that ``FRAMEWORK[@VERSION]:NAME[,KEY=VALUE]...`` or ``FILE.py:FUNCTION[,KEY=VALUE]...`` names.

    pythons: for a framework, or framework@version, the Python that has it or a folder that pip filled with it.
    install: put a framework's version that is not there into a folder of its own. Raises ``LossError``.
    """
    head, *rest = COMMA.split(word)
    found = WORD.fullmatch(head)
    if not found:
        raise LossError(f"{word} is no loss; write FRAMEWORK:NAME as verl:gspo, or FILE.py:FUNCTION")
    settings = {}
    for pair in rest:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise LossError(f"{word}: {pair!r} is no setting; write KEY=VALUE")
        settings[key] = value
    framework, version, name = found["framework"], found["version"], found["name"]
    try:
        if found["file"]:
            return LocalLoss(word, of_file(Path(found["file"]), name, settings))
        if framework == "formula":
            return _formula(name, settings)
        if framework == "algo":
            return LocalLoss(word, of_algo(name, settings))
        if framework == "verl" and not version and "verl" not in (pythons or {}):
            return LocalLoss(word, verl_losses.load(name, settings))
    except (ConfigError, ValueError) as error:
        raise LossError(f"{word}: {one_line(ValueError(str(error)))}") from error
    if framework in REMOTE:
        return RemoteLoss.start(word, framework, version, name, settings, pythons or {}, install)
    names = ["algo", "formula", *REMOTE]
    raise LossError(
        f"{word}: no framework {framework}{did_you_mean(framework, names)}; there are {', '.join(names)}, "
        "and FILE.py:FUNCTION"
    )


def _formula(name: str, settings: dict[str, str]) -> Loss:
    if name not in FORMULAS:
        raise LossError(f"formula:{name}: there is no such formula; there are {', '.join(FORMULAS)}")
    if settings:
        raise LossError(f"formula:{name} takes no settings")
    return FORMULAS[name]


def of_algo(name: str, settings: dict[str, str]) -> SimpleNamespace:
    """The loss that a run of this project with ``algo=name`` trains with; settings: any override of the run."""
    from verl.utils.config import omega_conf_to_dataclass

    there = sorted(file.stem for file in (CONF / "algo").glob("*.yaml"))
    if name not in there:
        raise ValueError(f"there is no conf/algo/{name}.yaml{did_you_mean(name, there)}")
    register_losses()
    config = compose([f"algo={name}", *(f"{key}={value}" for key, value in settings.items())])
    return of_actor(omega_conf_to_dataclass(config.actor_rollout_ref.actor))


def of_actor(actor: Any) -> SimpleNamespace:
    """The loss of verl's actor dataclass, with the weights of responses that our trainer hands to some losses."""
    loaded = verl_losses.of_config(actor)
    spec = spec_of(actor.policy_loss.loss_mode)
    if not isinstance(spec, WeightedSpec) or spec.weights is None:
        return loaded
    weights_of, unweighted = spec.weights, loaded.function

    def function(call: Any) -> Any:
        lengths, advantages = torch.tensor(call.lengths), torch.tensor(call.signed, dtype=torch.float64)
        mine = slice(call.first, call.first + len(call.log_prob))
        weights = weights_of(actor, lengths, advantages, torch.zeros(len(lengths)))[mine, None]
        weights = weights.expand(call.log_prob.shape)
        given = weights if call.weights is None else weights * call.weights
        return unweighted(SimpleNamespace(**{**vars(call), "weights": given}))

    loaded.function = function
    return loaded


def of_file(path: Path, name: str, settings: dict[str, str]) -> SimpleNamespace:
    """A plain function ``loss(log_prob, old_log_prob, advantages, response_mask, **settings) -> scalar``.

    Tensors: (responses, tokens), float64, the mask boolean. A function whose signature names the sizes of the whole
    update (``global_batch_size`` responses, ``batch_num_tokens``, ``micro_batches``) is added up over micro-batches;
    any other is averaged over them, as trainers do whose loss is a mean. ``dp_size`` is the number of ranks.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        function = getattr(load_file(path), name, None)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {one_line(error)}") from error
    if not callable(function):
        raise ValueError(f"{path} has no function {name}")
    parameters = inspect.signature(function).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    missing = [key for key in REQUIRED if key not in parameters and not anything]
    needed = [
        key for key, p in parameters.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and key not in (*REQUIRED, *OPTIONAL, *settings)
    ]  # fmt: skip
    if missing or needed:
        wrong = f"it lacks {', '.join(missing)}" if missing else f"give a value for {needed[0]}, as ,{needed[0]}=1"
        raise ValueError(f"{name} must be {name}({', '.join(REQUIRED)}, ...): {wrong}")
    if unknown := [key for key in settings if key not in parameters and not anything]:
        raise ValueError(f"{name} has no argument {unknown[0]}")
    given = {key: _value(value) for key, value in settings.items()}
    sums = any(key in parameters for key in SIZES)

    def call_it(call: Any) -> Any:
        more = {key: getattr(call, field) for key, field in OPTIONAL.items() if key in parameters}
        if "rollout_is_weights" in more and call.weights is None:
            more["rollout_is_weights"] = torch.ones_like(call.log_prob)
        loss = function(**{key: getattr(call, key) for key in REQUIRED}, **{**more, **given})
        loss = loss[0] if isinstance(loss, tuple) else loss
        return loss if sums else loss / call.micro_batches

    return SimpleNamespace(
        function=call_it,
        version=path.name,
        takes_weights="rollout_is_weights" in parameters,
        equal_rows=not sums,
        note=f"micro-batches are {'added up' if sums else 'averaged'}",
    )


def _value(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
