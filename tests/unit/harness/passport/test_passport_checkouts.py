"""Frameworks of a checkout: what is said of one that is not as expected, and the real ones where they are here."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from harness.passport import install, weighting
from harness.passport.adapters import find
from harness.passport.remote import RemoteLoss
from harness.passport.update import Batch, LossError, gradient

# A slime of a few lines: its loss is the mean over the update's responses of a token's advantage times its ratio.
SLIME = {
    "slime/__init__.py": "",
    "slime/backends/__init__.py": "import a_kernel\n@a_kernel.jit(fast=True)\ndef kernel(): ...\n",
    "slime/backends/megatron_utils/__init__.py": "class Engine(__import__('an_engine').Base): ...\n",
    "slime/backends/megatron_utils/cp_utils.py": "from megatron.core import mpu\n",
    "slime/utils/arguments.py": (
        "def add(parser):\n"
        "    parser.add_argument('--advantage-estimator', choices=['grpo', 'gspo'], default='grpo')\n"
        "    parser.add_argument('--eps-clip', type=float, default=0.2)\n"
        "    parser.add_argument('--eps-clip-high', type=float, default=None)\n"
        "    reset_arg(parser, '--scale', dest='factor', default=1.0)\n"
    ),
    "slime/backends/megatron_utils/loss.py": (
        "import torch\nfrom megatron.core import mpu\nfrom a_kernel import fused\n"
        "try:\n    import a_better_kernel\nexcept ImportError:\n    a_better_kernel = None\n"
        "def get_log_probs_and_entropy(*a, **k): raise AssertionError\n"
        "def policy_loss_function(args, batch, logits, s):\n"
        "    assert a_better_kernel is None\n"
        "    new = get_log_probs_and_entropy(logits)['log_probs']\n"
        "    if args.factor == 2: fused(new)\n"
        "    terms = [-(n - o).exp() * a for n, o, a in zip(new, batch['log_probs'], batch['advantages'])]\n"
        "    return args.factor * sum(t.mean() for t in terms)\n"
        "def loss_function(args, batch, num_microbatches, logits):\n"
        "    scale = num_microbatches / args.global_batch_size * mpu.get_data_parallel_world_size()\n"
        "    return policy_loss_function(args, batch, logits, None) * scale, 1, {}\n"
    ),
}
LOSS = "slime/backends/megatron_utils/loss.py"
Planted = Callable[..., Path]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """Write a checkout; ``changes``: files that are others, None for one that is not there."""

    def write(**changes: str | None) -> Path:
        for name, text in {**SLIME, **changes}.items():
            if text is not None:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(text)
        return tmp_path

    return write


@pytest.fixture
def started() -> Iterator[Callable[..., RemoteLoss]]:
    """Find a loss whose process ends with the test."""
    losses: list[RemoteLoss] = []

    def start(word: str, folder: Path | None = None) -> RemoteLoss:
        framework = word.partition(":")[0].partition("@")[0]
        loss = find(word, {framework: folder} if folder else None)
        assert isinstance(loss, RemoteLoss)
        losses.append(loss)
        return loss

    yield start
    for loss in losses:
        loss.close()


def test_a_checkout_runs_as_it_is_without_the_packages_it_imports(
    planted: Planted, started: Callable[..., RemoteLoss]
) -> None:
    loss = started("slime:gspo,factor=3", planted())
    assert loss.version == "slime, a checkout"
    batch = Batch((1, 4), (1.0, -2.0), width=6)
    by_hand = torch.zeros(2, 6, dtype=torch.float64)
    by_hand[0, 0], by_hand[1, :4] = -3 / 2, 3 * 2 / 4 / 2
    assert torch.allclose(gradient(loss, batch), by_hand)
    halves = [slice(0, 1), slice(1, 2)]
    assert torch.allclose(gradient(loss, batch, [halves]), by_hand)
    assert torch.allclose(gradient(loss, batch, [[half] for half in halves]), by_hand)


def test_no_number_comes_out_of_a_stand_in(planted: Planted, started: Callable[..., RemoteLoss]) -> None:
    loss = started("slime:gspo,factor=2", planted())
    with pytest.raises(LossError, match=r"the loss calls a_kernel\.fused, which is not in this Python"):
        gradient(loss, Batch((1, 4), (1.0, 1.0)))


@pytest.mark.parametrize(
    ("word", "changes", "said"),
    [
        ("slime:gspo", {LOSS: None}, f"is no slime of a known layout: it has no {LOSS}"),
        ("slime:gspo", {LOSS: "def another(): ..."}, "this slime is of an unknown version.*has no loss_function"),
        ("slime:gspo", {LOSS: "from slime.gone import x"}, "this slime is of an unknown version: .*slime.gone"),
        ("slime:gspo", {LOSS: "1 / 0"}, "ZeroDivisionError: division by zero"),
        ("slime:gspoo", {}, "no advantage estimator gspoo; it has grpo, gspo"),
        ("slime:gspo,eps=1", {}, "slime has no setting eps; it has .*eps_clip, eps_clip_high"),
        ("roll:rlvr", {}, "there is no package roll in this folder or Python"),
        ("easyr1:default", {}, "no easyr1 of a known layout: it has no verl/workers/actor/dp_actor.py"),
        ("nemo_rl:grpo", {"nemo_rl/__init__.py": ""}, "it has no nemo_rl/algorithms/loss.*before 0.6 takes logits"),
    ],
)
def test_an_unknown_checkout_is_one_line(planted: Planted, word: str, changes: dict[str, str], said: str) -> None:
    with pytest.raises(LossError, match=said) as caught:
        find(word, {word.partition(":")[0]: planted(**changes)})
    assert "\n" not in str(caught.value)


def test_which_checkout_and_one_that_is_not_here() -> None:
    with pytest.raises(LossError, match=r"which slime\? .* --install, or give --python slime=CHECKOUT"):
        find("slime:gspo")
    with pytest.raises(LossError, match="add --install"):
        find("slime@0.0.0:gspo")


def test_install_checks_out_a_tag_or_a_commit_with_the_folders_that_are_needed(
    tmp_path: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = planted(**{"assets/large.bin": "x" * 1000})
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"], ["tag", "v1.2.3"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(install, "FOLDER", tmp_path / "build")
    monkeypatch.setitem(install.CHECKOUT, "slime", (origin.as_uri(), ("slime",)))
    for version in ("1.2.3", head):
        _, folder = install.where("a test", "slime", version, {}, install=True)
        assert folder is not None
        assert folder == tmp_path / "build" / f"slime-{version}"
        assert (folder / LOSS).is_file()
        assert not (folder / "assets").exists()
        assert install.where("a test", "slime", version, {}, install=False)[1] == folder
    with pytest.raises(LossError, match=r"git cannot get 1\.2\.4 of file:.*v1\.2\.4"):
        install.where("a test", "slime", "1.2.4", {}, install=True)
    assert not (tmp_path / "build" / "slime-1.2.4").exists()


EASYR1 = "easyr1@b44b311b669bf1fd1aa2fc36f2251482ba33cb16:gspo_token,loss_avg_mode=seq,disable_kl=true"
REAL = {  # a loss -> (the power of |y|, what it is divided by, the factor of two micro-batches)
    "nemo_rl@0.7.0:grpo-gspo-deepscaler-1.5b-8K": (0, "responses", 1),
    "slime@0.3.1:gspo": (0, "responses", 1),
    "slime@0.3.1:grpo,calculate_per_token_loss=true": (1, "tokens", 1),
    "roll@0.3.0:example_gspo": (0, "responses", 1),
    EASYR1: (0, "responses", None),
    f"{EASYR1},micro_batch_size_per_device_for_update=1": (1, "tokens", 1),
}


@pytest.mark.parametrize("word", REAL)
def test_a_real_checkout_weighs_responses_as_was_found(word: str, started: Callable[..., RemoteLoss]) -> None:
    """Where `python -m harness.passport WORD --install` put it."""
    folder = install.FOLDER / word.partition(":")[0].replace("@", "-")
    if not (folder / ".done").exists():
        pytest.skip(f"{word.partition(':')[0]} is not here; `python -m harness.passport {word} --install` gets it")
    found = weighting.measure(started(word))
    assert (found.power, found.divisor) == REAL[word][:2]
    assert found.micro == (None if REAL[word][2] is None else pytest.approx(1))
