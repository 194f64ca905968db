"""The paper's experiments as presets: every value beside the paper's (arXiv 2602.05261), and why where it states none.

    python -m harness.paper_settings
    python -m harness.paper_settings text_dense

The paper's side is results/paper/settings.yaml, ours the resolved configuration; the reasons are ``harness.choices``
of the preset's files, a mapping from a key to one sentence. Prints Markdown.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from harness.config import ConfigError, compose, say_error
from harness.paths import ROOT

SETTINGS = ROOT / "results" / "paper" / "settings.yaml"
PRESETS = ("text_dense", "text_moe", "multimodal", "multimodal_mix", "text_dense_1gpu")
AS_STATED = "as stated"
NOT_STATED = "not stated"
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Row:
    """One line of the table. key: of the resolved configuration, ``ours`` its value; ``paper`` in the paper's words."""

    key: str
    paper: str
    ours: str
    why: str


@dataclass(frozen=True)
class Statement:
    """A fact of settings.yaml and the key that holds it here.

    name: in ``common`` or in the setting; keys: the first that the configuration has (engines differ in names);
    meaning: the value of the key at which the statement holds; ``text``: said of the text settings only; ``unit``: of
    the paper's number, where the key's is another.
    """

    name: str
    keys: tuple[str, ...]
    meaning: Callable[[Any], Any] = lambda stated: stated
    text: bool = False
    unit: str = ""


def _integer(pattern: str) -> Callable[[str], int]:
    """The first number of a sentence that matches."""

    def read(sentence: str) -> int:
        found = re.search(pattern, sentence)
        if found is None:
            raise ConfigError(f"{SETTINGS.name}: {sentence!r} does not match {pattern!r}")
        return int(found.group(1))

    return read


MODELS = {
    "Qwen2.5-7B-Base": "Qwen/Qwen2.5-7B",
    "Qwen2.5-VL-7B-Instruct": "Qwen/Qwen2.5-VL-7B-Instruct",
}
DATA = {
    ("DAPO-MATH-17K",): "asset:dapo_math_17k/train.parquet",
    ("ViRL39K",): "asset:virl39k/train.parquet",
    ("ViRL39K", "DAPO-MATH-17K"): "asset:virl39k_dapo/train.parquet",
}
STATEMENTS = (
    Statement("model", ("actor_rollout_ref.model.path",), lambda name: MODELS.get(name, name)),
    Statement("data", ("data.train_files",), lambda names: DATA[tuple(names)]),
    Statement("gpus", ("trainer.nnodes",), lambda gpus: gpus // GPUS_PER_NODE, unit=" GPUs"),
    Statement("gpus", ("trainer.n_gpus_per_node",), lambda _: GPUS_PER_NODE, unit=" GPUs"),
    Statement("prompts_per_batch", ("data.train_batch_size",)),
    Statement("responses_per_prompt", (f"{ROLLOUT}.n",)),
    Statement("mini_batch_size", (f"{ACTOR}.ppo_mini_batch_size",)),
    Statement("max_response_tokens", ("data.max_response_length",)),
    Statement("rollout_temperature", (f"{ROLLOUT}.temperature",)),
    Statement("rollout_top_p", (f"{ROLLOUT}.top_p",)),
    # Megatron's adam decouples the weight decay, as AdamW does.
    Statement("optimizer", (f"{ACTOR}.optim.optimizer",), lambda _: ("AdamW", "adam")),
    Statement("lr", (f"{ACTOR}.optim.lr",)),
    Statement("lr_warmup", (f"{ACTOR}.optim.lr_warmup_steps",), _integer(r"(\d+) rollout steps, linear")),
    Statement("lr_warmup", (f"{ACTOR}.optim.lr_scheduler_type", f"{ACTOR}.optim.lr_decay_style"), lambda _: "constant"),
    Statement("clip_ratio_low", ("harness.sequence_clip.low",)),
    Statement("clip_ratio_high", ("harness.sequence_clip.high",)),
    Statement("kl", (f"{ACTOR}.use_kl_loss",), lambda _: False),
    Statement("kl", ("algorithm.use_kl_in_reward",), lambda _: False),
    Statement("reward", ("reward.reward_kwargs.parts",), lambda _: ["accuracy", "format", "overlong"]),
    Statement("overlong_buffer", ("reward.reward_kwargs.overlong.buffer",)),
    Statement("validation", ("data.val_files",), lambda _: "asset:aime24/test.parquet", text=True),
    Statement("validation", (f"{ROLLOUT}.val_kwargs.n",), _integer(r"avg@(\d+)"), text=True),
    Statement("validation", ("trainer.test_freq",), _integer(r"every (\d+) steps"), text=True),
)
# What settings.yaml has as null, or states nothing about, and where a preset says why it chose what it chose.
UNSTATED = {
    "grad_clip": f"{ACTOR}.optim.clip_grad",
    "weight_decay": f"{ACTOR}.optim.weight_decay",
    "entropy_coefficient": f"{ACTOR}.entropy_coeff",
    "steps": "trainer.total_training_steps",
    "seeds": "seed",
}


def load_settings() -> dict[str, Any]:
    """results/paper/settings.yaml."""
    return yaml.safe_load(SETTINGS.read_text())


def table(config: DictConfig, settings: Mapping[str, Any]) -> list[Row]:
    """Every statement and every choice of a preset; raises ``ConfigError`` for a value that has neither.

    A value that differs from the paper's needs a reason in ``harness.choices``; a reason needs a key that is there.
    """
    name = config.harness.get("setting")
    if name not in settings["settings"]:
        known = ", ".join(settings["settings"])
        raise ConfigError(f"harness.setting={name} of {config.harness.experiment}: no setting of the paper ({known})")
    reasons = choices(config)
    rows = list(_stated(config, {**settings["common"], **settings["settings"][name]}, name, reasons))
    shown = {row.key for row in rows}
    for fact, key in UNSTATED.items():
        if settings["common"][fact] is None and key not in reasons:
            raise ConfigError(f"{key}: the paper states no {fact}, so harness.choices must say why this value")
    rows += [
        Row(key, NOT_STATED, _text(_value(config, key)), reason) for key, reason in reasons.items() if key not in shown
    ]
    return rows


def choices(config: DictConfig) -> dict[str, str]:
    """``{key: reason}`` of the values that are ours; a preset drops an inherited reason by setting it to null."""
    content: Any = OmegaConf.to_container(config.harness.get("choices", OmegaConf.create({})))
    return {key: reason for key, reason in content.items() if reason is not None}


def _stated(config: DictConfig, stated: Mapping[str, Any], setting: str, reasons: Mapping[str, str]) -> Iterator[Row]:
    for one in STATEMENTS:
        if one.text and not setting.startswith("text"):
            continue
        key = next((key for key in one.keys if OmegaConf.select(config, key) is not None), one.keys[0])
        value, meant = _value(config, key), one.meaning(stated[one.name])
        holds = value in meant if isinstance(meant, tuple) else value == meant
        if not holds and key not in reasons:
            raise ConfigError(f"{key}={value}, the paper has {stated[one.name]}, and harness.choices does not say why")
        yield Row(key, _text(stated[one.name]) + one.unit, _text(value), reasons.get(key, AS_STATED))


def _value(config: DictConfig, key: str) -> Any:
    missing = object()
    value = OmegaConf.select(config, key, default=missing)
    if value is missing:
        raise ConfigError(f"{key}: no such key in {config.harness.experiment}, though harness.choices gives a reason")
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _text(value: Any) -> str:
    """A value in one line: mappings without what is null, dotted class names or empty."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k != "_target_" and v not in (None, {}, [], "")}
        return ", ".join(f"{k} {_text(v)}" if not isinstance(v, dict) else f"{k} ({_text(v)})" for k, v in kept.items())
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| key | paper | ours | why |", "|---|---|---|---|"]
    for row in rows:
        cells = (f"`{row.key}`", row.paper, row.ours, row.why)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def main(names: Sequence[str]) -> int:
    """Print the table of each preset named, of all without a name; what is wrong ends in one line."""
    if {"-h", "--help"} & set(names):
        print(__doc__)
        return 0
    try:
        for name in names or PRESETS:
            print(f"## {name}\n\n{markdown(table(compose([f'experiment={name}']), load_settings()))}\n")
    except ConfigError as error:
        say_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
