"""The paper's experiments as presets: every value beside the paper's (arXiv 2602.05261) and beside that of verl's own
example for the model, and why where it is another.

    python -m harness.paper_settings
    python -m harness.paper_settings text_dense

The paper's side is results/paper/settings.yaml, verl's results/paper/verl_examples.yaml, ours the resolved
configuration; the reasons are ``harness.choices`` of the preset's files, a mapping from a key, or from a block of keys,
to one sentence. Prints Markdown, which docs/presets.md keeps.
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
from harness.verl_examples import EXAMPLES, Example, load_examples

SETTINGS = ROOT / "results" / "paper" / "settings.yaml"
PRESETS = ("text_dense", "text_moe", "multimodal", "multimodal_mix", "text_dense_1gpu")
AS_STATED, AS_IN_VERL = "as stated", "as in verl's example"
NOTHING = "-"
ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Row:
    """One line of the table. key: of the resolved configuration, ``ours`` its value; ``paper`` in the paper's words,
    ``verl`` in verl's example; ``NOTHING`` where there is none."""

    key: str
    paper: str
    verl: str
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


def table(config: DictConfig, settings: Mapping[str, Any], example: Example) -> list[Row]:
    """Every statement of the paper, every setting of verl's example and every choice of a preset.

    A value that differs from the paper's, or from verl's where the paper says nothing, needs a reason in
    ``harness.choices``; a reason needs a key that is there. Raises ``ConfigError`` for what lacks either.
    """
    name = config.harness.get("setting")
    if name not in settings["settings"]:
        known = ", ".join(settings["settings"])
        raise ConfigError(f"harness.setting={name} of {config.harness.experiment}: no setting of the paper ({known})")
    reasons = choices(config)
    for fact, key in UNSTATED.items():
        if settings["common"][fact] is None and key not in reasons:
            raise ConfigError(f"{key}: the paper states no {fact}, so harness.choices must say why this value")
    stated = {**settings["common"], **settings["settings"][name]}
    rows = {row.key: row for row in _stated(config, stated, name, example)}
    rows |= {key: _of_verl(config, key, example) for key in example.values if key not in rows}
    for key, reason in reasons.items():
        if not any(f"{one}.".startswith(f"{key}.") for one in rows):
            rows[key] = Row(key, NOTHING, NOTHING, _text(_value(config, key)), reason)
    return list(rows.values())


def choices(config: DictConfig) -> dict[str, str]:
    """``{key: reason}`` of the values that are ours; a preset drops an inherited reason by setting it to null."""
    content: Any = OmegaConf.to_container(config.harness.get("choices", OmegaConf.create({})))
    return {key: reason for key, reason in content.items() if reason is not None}


def _reason(config: DictConfig, key: str) -> str | None:
    """The reason of a key, or of the smallest block of keys that it is in."""
    reasons = choices(config)
    while key and key not in reasons:
        key = key.rpartition(".")[0]
    return reasons.get(key)


def _stated(config: DictConfig, stated: Mapping[str, Any], setting: str, example: Example) -> Iterator[Row]:
    for one in STATEMENTS:
        if one.text and not setting.startswith("text"):
            continue
        key = next((key for key in one.keys if OmegaConf.select(config, key) is not None), one.keys[0])
        value, meant, reason = _value(config, key), one.meaning(stated[one.name]), _reason(config, key)
        holds = value in meant if isinstance(meant, tuple) else value == meant
        if not holds and reason is None:
            raise ConfigError(f"{key}={value}, the paper has {stated[one.name]}, and harness.choices does not say why")
        verl = _text(example.values[key]) if key in example.values else NOTHING
        yield Row(key, _text(stated[one.name]) + one.unit, verl, _text(value), reason or AS_STATED)


def _of_verl(config: DictConfig, key: str, example: Example) -> Row:
    verl = example.values[key]
    if key in example.absent:
        if OmegaConf.select(config, key) is not None:
            raise ConfigError(f"{key}: {EXAMPLES.name} says that it is absent, and {config.harness.experiment} has it")
        return Row(key, NOTHING, _text(verl), NOTHING, example.absent[key])
    value, reason = _value(config, key), _reason(config, key)
    if value != verl and reason is None:
        raise ConfigError(f"{key}={value}, verl's example has {verl}, and harness.choices does not say why")
    return Row(key, NOTHING, _text(verl), _text(value), reason or AS_IN_VERL)


def _value(config: DictConfig, key: str) -> Any:
    missing = object()
    value = OmegaConf.select(config, key, default=missing)
    if value is missing:
        raise ConfigError(
            f"{key}: no such key in {config.harness.experiment}, though harness.choices or {EXAMPLES.name} has it"
        )
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
    lines = ["| key | paper | verl's example | ours | why |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (f"`{row.key}`", row.paper, row.verl, row.ours, row.why)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def section(name: str) -> str:
    """The table of a preset under its heading, with the source of verl's column."""
    example = load_examples().get(name)
    if example is None:
        raise ConfigError(f"experiment={name}: no preset; these are: {', '.join(PRESETS)}")
    rows = table(compose([f"experiment={name}", f"algo={example.algo}"]), load_settings(), example)
    source = f"verl's example: {example.source}, {example.trains}. Ours: `algo={example.algo}`."
    return f"## {name}\n\n{source}\n\n{markdown(rows)}\n"


def main(names: Sequence[str]) -> int:
    """Print the table of each preset named, of all without a name; what is wrong ends in one line."""
    if {"-h", "--help"} & set(names):
        print(__doc__)
        return 0
    try:
        for name in names or PRESETS:
            print(section(name))
    except ConfigError as error:
        say_error(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
