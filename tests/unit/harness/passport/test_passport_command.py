"""The command: output, exit status, and one clear line for whatever is wrong."""

import json
import re
from pathlib import Path

import pytest

from harness.passport.__main__ import main
from harness.passport.adapters import find
from harness.passport.measure import measure
from harness.passport.naming import nearest
from harness.passport.page import text
from harness.passport.remote import RemoteLoss
from harness.passport.render import COLUMNS, Entry
from harness.passport.update import LossError

GOOD = """
def gspo(log_prob, old_log_prob, advantages, response_mask, clip=0.2):
    import torch
    n = response_mask.sum(-1)
    s = (((log_prob - old_log_prob) * response_mask).sum(-1) / n).exp()
    a = advantages[:, 0]
    return -torch.minimum(s * a, s.clamp(1 - clip, 1 + clip) * a).mean()
"""
BAD = """
def nan(log_prob, old_log_prob, advantages, response_mask):
    return log_prob.sum() * float("nan")
def flat(log_prob, old_log_prob, advantages, response_mask):
    return log_prob.detach().sum()
def shape(log_prob, old_log_prob, advantages, response_mask):
    return log_prob
def number(log_prob, old_log_prob, advantages, response_mask):
    return 3.0
def zero(log_prob, old_log_prob, advantages, response_mask):
    return (log_prob * 0).sum()
def few(log_prob, advantages):
    return log_prob.sum()
def more(log_prob, old_log_prob, advantages, response_mask, epsilon):
    return log_prob.sum()
def raises(log_prob, old_log_prob, advantages, response_mask):
    raise RuntimeError("first line\\nsecond line")
"""


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good.py").write_text(GOOD)
    return f"{tmp_path / 'good.py'}:gspo"


def test_an_expectation_that_is_met_and_one_that_is_not(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([good, "--expect", "gspo"]) == 0
    assert "It is GSPO." in capsys.readouterr().out
    assert main([good, f"{good},clip=0.1", "--expect", "luspo"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("is not LUSPO: a response weighs as |y|^0, LUSPO's as |y|^1" in line for line in lines)


def test_json_holds_every_number(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{good},clip=0.1", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["nearest"], found["is_it"], found["weighting"]["power"]) == ("gspo", True, 0)
    assert found["clipping"]["sides"]["advantage positive, ratio up"]["bound"] == pytest.approx(1.1)


def test_markdown_is_one_row_a_loss(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([good, "formula:luspo", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert {line.replace(r"\|", "").count("|") for line in lines} == {len(COLUMNS) + 1}
    assert "LUSPO" in lines[3]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nothing", "is no loss"),
        ("trll:grpo", r"no framework trll \(did you mean trl\?\)"),
        ("verl:gspoo", "verl has no policy loss gspoo"),
        ("verl:gspo,nonsense=1", "verl refuses a setting"),
        ("verl:gspo,clip_ratio", "is no setting"),
        ("algo:gspoo", r"there is no conf/algo/gspoo.yaml \(did you mean gspo\?\)"),
        ("formula:x", "there is no such formula"),
        ("trl:grpo", "which trl.*--install"),
        ("trl@0.0.0:grpo", "is not here; add --install"),
        ("nowhere.py:loss", "there is no file"),
        ("BAD:absent", "has no function absent"),
        ("BAD:nan", "it returned nan"),
        ("BAD:flat", "it has no gradient"),
        ("BAD:shape", "not one number"),
        ("BAD:number", "returned float, not a tensor"),
        ("BAD:zero", "gradient is 0 for every response"),
        ("BAD:few", "it lacks old_log_prob, response_mask"),
        ("BAD:more", "give a value for epsilon"),
        ("BAD:nan,x=1", "has no argument x"),
        ("BAD:raises", "RuntimeError: first line$"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    word = word.replace("BAD", str(tmp_path / "bad.py"))
    assert main([word]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    (line,) = err.splitlines()
    assert re.search(said, line)


@pytest.mark.parametrize(
    ("words", "said"), [([], "name a loss"), (["formula:gspo", "--expect", "gsp"], "did you mean gspo"),
                        (["formula:gspo", "--python", "trl"], "write --python trl=PATH")],
)  # fmt: skip
def test_wrong_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_one_loss_that_fails_hides_no_other(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.py:loss", good]) == 2
    assert "It is GSPO." in capsys.readouterr().out


def test_another_python_measures_the_same(tmp_path: Path) -> None:
    """verl in a process of its own and verl here; and what it says of a wrong name arrives."""
    import verl

    folder = {"verl": Path(verl.__path__[0]).parent}
    there, here = find("verl:gspo", folder), find("verl:gspo")
    assert isinstance(there, RemoteLoss)
    try:
        assert measure(there) == measure(here)
    finally:
        there.close()
    assert there.process.returncode == 0
    with pytest.raises(LossError, match="verl has no policy loss nope"):
        find("verl:nope", folder)
    with pytest.raises(LossError, match="no such Python"):
        find("verl:gspo", {"verl": tmp_path / "absent"})


def test_a_checkout_without_its_packages_is_measured(tmp_path: Path) -> None:
    """A framework's function runs from its source text though the module's own imports would fail."""
    models = tmp_path / "openrlhf" / "models"
    models.mkdir(parents=True)
    (models / "utils.py").write_text(
        "import a_package_that_is_not_there\ndef masked_mean(x, mask, dim=None):\n"
        "    return (x * mask).sum(dim) / mask.sum(dim)\n"
    )
    (models / "loss.py").write_text(
        "import another\ndef aggregate_loss(x): ...\nclass PolicyLoss(nn.Module):\n"
        "    def __init__(self, policy_loss_type, token_level_loss, **rest):\n"
        "        super().__init__()\n        self.token_level_loss = token_level_loss\n"
        "    def forward(self, new, old, a, mask, dp_size=1, batch_num_tokens=1, global_batch_size=1):\n"
        "        return (-(new - old).exp() * a * mask).sum() / batch_num_tokens * dp_size,\n"
    )
    loss = find("openrlhf:ppo", {"openrlhf": tmp_path})
    assert isinstance(loss, RemoteLoss)
    try:
        passport = measure(loss)
    finally:
        loss.close()
    assert (passport.weighting.divisor, passport.weighting.micro) == ("tokens", pytest.approx(1))
    assert passport.version == "openrlhf, a checkout"


def test_the_page_holds_what_was_measured(good: str) -> None:
    entries = []
    for word in (good, "formula:luspo"):
        loss = find(word)
        passport = measure(loss)
        entries.append(Entry(word, passport, nearest(loss, passport)))
    page = text(entries)
    assert f"p = 0: `{good}`" in page
    assert "p = 1: `formula:luspo`" in page
    assert page.startswith("# Passports")
