"""What the runs of an experiment were made with: treatment, what was held equal, versions, hardware.

Read from the manifests, which hold the resolved configuration of a run, flat and sorted by kind.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from analysis.runs.load import AnalysisError, Runs
from analysis.tables.table import Entry, Table

KINDS = ("treatment", "controlled", "execution")
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
# Keys that tell a reader what was trained, in the order of the table; the others are counted.
SHOWN = (
    "actor_rollout_ref.model.path",
    "hash.model",
    "data.train_files",
    "hash.train_data",
    "data.val_files",
    "hash.heldout_data",
    "reward.reward_kwargs.grader",
    "reward.reward_kwargs.parts",
    "reward.reward_kwargs.overlong.limit",
    "reward.reward_kwargs.overlong.buffer",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.train_batch_size",
    f"{_ACTOR}.ppo_mini_batch_size",
    f"{_ACTOR}.ppo_epochs",
    f"{_ROLLOUT}.n",
    f"{_ROLLOUT}.temperature",
    f"{_ROLLOUT}.top_p",
    f"{_ROLLOUT}.top_k",
    f"{_ROLLOUT}.val_kwargs.n",
    f"{_ROLLOUT}.val_kwargs.temperature",
    f"{_ROLLOUT}.val_kwargs.top_p",
    f"{_ACTOR}.optim.optimizer",
    f"{_ACTOR}.optim.lr",
    f"{_ACTOR}.optim.lr_scheduler_type",
    f"{_ACTOR}.optim.lr_warmup_steps",
    f"{_ACTOR}.optim.lr_warmup_steps_ratio",
    f"{_ACTOR}.optim.weight_decay",
    f"{_ACTOR}.optim.betas",
    f"{_ACTOR}.optim.clip_grad",
    f"{_ACTOR}.entropy_coeff",
    f"{_ACTOR}.use_kl_loss",
    "algorithm.use_kl_in_reward",
    f"{_ACTOR}.strategy",
    f"{_ACTOR}.fsdp_config.model_dtype",
    f"{_ACTOR}.fsdp_config.mixed_precision.param_dtype",
    f"{_ROLLOUT}.name",
    f"{_ROLLOUT}.dtype",
    "trainer.total_training_steps",
    "trainer.test_freq",
    "trainer.save_freq",
    "trainer.device",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
)
ABSENT = "absent"
Manifest = dict[str, Any]


def settings_table(runs: Runs) -> Table:
    """One row per setting, one column per arm, of all runs of one experiment, finished or not.

    Treatment: the keys that differ between runs, all of them where there is one arm. Controlled and execution:
    ``SHOWN`` and every controlled key that differs. Where the runs of an arm differ, every value stands with its
    number of runs; rows in which runs differ are bold. Raises ``AnalysisError`` for runs of none or of several
    experiments.
    """
    experiments = sorted(set(runs.runs["experiment"]))
    if len(experiments) != 1:
        raise AnalysisError(
            f"a table of settings is of one experiment; the runs are of {', '.join(experiments) or 'none'}"
        )
    arms = list(dict.fromkeys(runs.runs["arm"]))
    by_arm = [[runs.manifests[run] for run in runs.runs.loc[runs.runs["arm"] == arm, "run"]] for arm in arms]
    every = [manifest for manifests in by_arm for manifest in manifests]

    def row(kind: str, name: str, read: Callable[[Manifest], Any]) -> tuple[str | Entry, ...]:
        bold = _varies(every, read)
        return (kind, name, *(Entry(_values(map(read, manifests)), bold=bold) for manifests in by_arm))

    treatment = [key for key in _keys(every, "treatment") if len(arms) == 1 or _varies(every, _reader(key))]
    # A key may be of two kinds in two runs (the planned steps); the stricter counts.
    kind_of = {key: kind for kind in reversed(KINDS) for key in _keys(every, kind)}
    shown = [key for key in SHOWN if key in kind_of]
    shown += [
        key
        for key, kind in kind_of.items()
        if kind == "controlled" and key not in shown and _varies(every, _reader(key))
    ]

    seeds = [", ".join(map(str, sorted(runs.runs.loc[runs.runs["arm"] == arm, "seed"]))) for arm in arms]
    rows: list[tuple[str | Entry, ...]] = [("runs", "seeds", *seeds)]
    rows += [row("runs", name, lambda m, name=name: m.get(name, ABSENT)) for name in ("fingerprint", "planned_steps")]
    rows += [row("treatment", key, _reader(key)) for key in treatment]
    for kind in ("controlled", "execution"):
        rows += [row(kind, key, _reader(key)) for key in shown if kind_of[key] == kind]
    rows.append(row("code", "commit", lambda m: m.get("commit", ABSENT)))
    for kind in ("versions", "hardware"):
        rows += [row(kind, name, _reader(name, (kind,))) for name in _keys(every, kind)]

    left = {kind: sum(k == kind for key, k in kind_of.items() if key not in (*shown, *treatment)) for kind in KINDS}
    notes = (
        f"Not shown: {left['treatment']} treatment keys and {left['controlled']} controlled keys, equal in all runs; "
        f"{left['execution']} execution keys, which cannot change what is learnt.",
        f"{_matched(set(runs.runs['fingerprint']))} Bold: runs differ. In brackets: runs with that value, where an arm "
        "has several.",
    )
    (experiment,) = experiments
    title = f"Settings of {experiment}"
    return Table(f"settings_{experiment}", title, ("kind", "setting", *arms), tuple(rows), notes, labels=2)


def _matched(fingerprints: set[str]) -> str:
    if "" in fingerprints:
        return "Whether the runs are matched is not recorded."
    return "Matched: one fingerprint." if len(fingerprints) == 1 else f"NOT matched: {len(fingerprints)} fingerprints."


def _keys(manifests: Sequence[Manifest], kind: str) -> list[str]:
    """The keys of one kind in any of the manifests, sorted."""
    return sorted({key for manifest in manifests for key in manifest.get(kind, {})})


def _reader(key: str, kinds: Sequence[str] = KINDS) -> Callable[[Manifest], Any]:
    """Reads a key of a manifest, whichever of the kinds it is of in that run."""
    return lambda manifest: next((manifest[kind][key] for kind in kinds if key in manifest.get(kind, {})), ABSENT)


def _varies(manifests: Sequence[Manifest], read: Callable[[Manifest], Any]) -> bool:
    return len({_text(read(manifest)) for manifest in manifests}) > 1


def _values(values: Iterable[Any]) -> str:
    """One value where all agree, else every value with how often it is there."""
    counts = Counter(map(_text, values))
    return next(iter(counts)) if len(counts) == 1 else ", ".join(f"{value} ({n})" for value, n in counts.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
