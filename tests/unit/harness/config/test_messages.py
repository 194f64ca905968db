"""Slips on a command line: each is refused in one line that names the word and what would be right, and in the same
words by every command, before anything is built, started or written."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_module

from harness.config import ConfigError, compose, effective, flatten, matching
from harness.config.overrides import parse
from harness.config.schema import SCHEMA
from harness.paths import ROOT

LR = "actor_rollout_ref.actor.optim.lr"
STEPS = "trainer.total_training_steps"
SLIPS = {
    # one name a group
    "algo=[gspo,luspo]": "one name, not a list; for one run of each use -m algo=gspo,luspo",
    "clip=[own]": "one name, not a list",
    "policy=[tiny,smollm2]": "-m policy=tiny,smollm2",
    "task=[tiny,chain_sum]": "-m task=tiny,chain_sum",
    "experiment=[tiny,smollm2]": "-m experiment=tiny,smollm2",
    "cluster=[cpu,gpu_1]": "-m cluster=cpu,gpu_1",
    "algo=gspo,luspo": "several values are several runs; use",
    "seed=1,2": "use -m seed=1,2",
    "seed=range(1,3)": "use -m seed=range(1,3)",
    "algo=": "a name is missing; there are balanced",
    "algo=null": "must be a name",
    "~algo": "a run needs one algo",
    "+algo=gspo": "a run has one algo already; give it without the +",
    # names and keys that there are not
    "algo=gsop": "no such algo (did you mean gspo?)",
    "experiment=tyni": "no such experiment (did you mean tiny?)",
    "hydra/launcher=slrm": "did you mean slurm?",
    "sweep=facto": "did you mean factorial?",
    "luspo": "must be key=value (did you mean algo=luspo",
    "algoo=gspo": "no such setting (did you mean algo?)",
    "lr=1e-4": f"did you mean {LR}",
    "actor.optim.lr=1e-4": f"did you mean {LR}?",
    "actor_rollout_ref.actor.optm.lr=1": f"did you mean {LR}?",
    f"{LR}=[1": "cannot be read",
    # types and ranges
    "seed=a": "must be a whole number of at least 0",
    "seed=-1": "must be a whole number of at least 0",
    "seed=1.5": "must be a whole number of at least 0",
    "seed=true": "must be a whole number of at least 0",
    f"{STEPS}=abc": "must be a whole number of at least 1",
    f"{STEPS}=null": "must be a whole number of at least 1",
    f"{STEPS}=???": "must be a whole number of at least 1",
    f"{STEPS}=0": "must be a whole number of at least 1",
    f"{STEPS}=-1": "must be a whole number of at least 1",
    f"{STEPS}=2.5": "must be a whole number of at least 1",
    f"{LR}=fast": "must be a number of at least 0",
    f"{LR}=nan": "must be a number of at least 0",
    "actor_rollout_ref.rollout.top_p=0": "must be a number above 0, at most 1",
    "trainer.val_before_train=maybe": "must be true or false (default: true)",
    "trainer.logger=3": "must be a list",
    "actor_rollout_ref.actor.optim=3": "a group of settings; set one of them",
    "harness.watch.collapse_share=2": "must be a number from 0 to 1",
}
COMMANDS = {
    "train": ("harness.train",),
    "multirun": ("harness.train", "-m"),
    "estimate": ("harness.estimate",),
    "doctor": ("harness.doctor",),
}


@pytest.mark.parametrize("word", SLIPS)
def test_a_slip_is_one_line_with_the_word_and_what_is_right(word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose([word])
    message = str(refused.value)
    assert message.startswith(f"{word}: ")
    assert SLIPS[word] in message
    assert "\n" not in message
    assert message.isascii()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("word", ["algo=[dr_grpo,grpo]", "algo=gsop", f"{STEPS}=0"])
def test_every_command_says_it_alike_and_leaves_nothing_behind(command: str, word: str, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    done = run_module(*COMMANDS[command], f"harness.root={root}", word)
    with pytest.raises(ConfigError) as refused:
        compose([word])
    said = " ".join((done.stdout if command == "doctor" else done.stderr).split())
    assert str(refused.value) in said
    if command != "doctor":
        assert done.returncode == 2
        assert done.stderr == f"error: {refused.value}\n"
    assert not root.exists()


def test_a_rule_between_settings_is_told_before_anything_is_built(tmp_path: Path) -> None:
    """In a process that may build nothing."""
    words = ["actor_rollout_ref.actor.ppo_mini_batch_size=5", f"harness.root={tmp_path / 'runs'}"]
    code = f"""
import sys
from harness import train
train.build_assets = None
sys.argv = ["train", *{words}]
sys.exit(train.main())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "ppo_mini_batch_size=5 does not divide data.train_batch_size=16 prompts" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_several_values_are_for_multiruns() -> None:
    assert [one.is_sweep_override() for one in parse(["algo=gspo,luspo", "seed=0"], multirun=True)] == [True, False]
    with pytest.raises(ConfigError, match="not a list"):
        parse(["algo=[gspo,luspo]"], multirun=True)


def test_the_schema_knows_settings_that_there_are(flat) -> None:
    every = flat("experiment=tiny") | flat("experiment=text_dense") | flat("experiment=text_moe")
    assert [key for key in SCHEMA if key not in every] == []


@pytest.mark.parametrize("experiment", ["tiny", "text_moe"])
def test_what_is_right_passes(experiment: str) -> None:
    words = [f"experiment={experiment}", f"{LR}=1e-5", f"{STEPS}=7", "trainer.max_actor_ckpt_to_keep=null"]
    flat = flatten(compose([*words, "actor_rollout_ref.rollout.top_p=1", "+data.note=[1,2]", "trainer.logger=[file]"]))
    assert (flat[LR], flat[STEPS], flat["data.note"]) == (1e-5, 7, [1, 2])


def test_an_arm_is_what_differs_and_not_what_was_typed() -> None:
    """The default learning rate, group and file by name are no arm of their own; another value is."""
    same = ["algo=luspo", f"{LR}=3e-4", "policy=tiny", "harness.mean_length=16"]
    for words, arm in ((same, "luspo"), ([*same, f"{LR}=1e-4"], "luspo,lr=0.0001"), (["task=tiny"], "grpo")):
        flat = flatten(compose(words))
        kept = effective(words, lambda word, flat=flat: matching.may_make_an_arm(word, flat))
        assert matching.arm_name(flat, kept) == arm


def test_a_folder_of_ones_own_beside_conf_goes_through_the_same_rules(tmp_path: Path) -> None:
    """Hydra's own flags work, and what is wrong is said in the same words."""
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "zspo.yaml").write_text((ROOT / "conf" / "algo" / "gspo.yaml").read_text())
    call = [sys.executable, "-m", "harness.train", "--config-dir", str(tmp_path), "algo=zspo", f"{STEPS}=0"]
    call.append(f"harness.root={tmp_path / 'runs'}")
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"error: {STEPS}=0: must be a whole number of at least 1\n")
    assert not (tmp_path / "runs").exists()


def test_a_glob_without_a_match_is_refused() -> None:
    (found,) = parse(["algo=glob(g*)"], multirun=True)
    assert found.is_sweep_override()
    with pytest.raises(ConfigError, match=r"^algo=glob\(zz\*\): no algo has such a name; there are balanced"):
        parse(["algo=glob(zz*)"], multirun=True)
