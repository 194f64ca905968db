"""Mistakes planted in a loss are found, and the sentence names them. Each loss is a file, as a user would give it."""

import re
from pathlib import Path

import pytest

from harness.passport.adapters import find
from harness.passport.measure import Passport, measure
from harness.passport.naming import Verdict, judge, nearest

HEAD = """import torch
def loss(log_prob, old_log_prob, advantages, response_mask, global_batch_size, batch_num_tokens, dp_size"""
SEQUENCE = """):
    mask, n = response_mask, response_mask.sum(-1, keepdim=True)
    mean = ((log_prob - old_log_prob) * mask).sum(-1, keepdim=True) / n
    s = (log_prob - log_prob.detach() + mean.detach()).exp()
    terms = torch.minimum(s * advantages, s.clamp(0.9, 1.2) * advantages)
    return -(terms * mask / n).sum() / global_batch_size * dp_size
"""
TOKEN = """):
    mask, n = response_mask, response_mask.sum(-1, keepdim=True)
    r = (log_prob - old_log_prob).exp()
    terms = torch.minimum(r * advantages, r.clamp(0.9, 1.2) * advantages)
    return -(terms * mask / n).sum() / global_batch_size * dp_size
"""
CISPO = """):
    r = (log_prob - old_log_prob).exp().clamp(max=1.2).detach()
    return -(r * advantages * log_prob * response_mask).sum() / batch_num_tokens * dp_size
"""
# name -> (loss, what is replaced, by what, the published loss it should be, first term, words of the sentence)
FAULTS = {
    "mean over the padded width": (
        TOKEN,
        "* mask / n",
        "* mask / mask.shape[1]",
        "grpo",
        "padding",
        "averages over the padded width",
    ),
    "mask missing": (TOKEN, "(terms * mask / n)", "(terms / n)", "grpo", "padding", "gradient on padding"),
    "mask missing in the mean": (
        SEQUENCE,
        "old_log_prob) * mask)",
        "old_log_prob))",
        "gspo",
        "padding",
        "what stands under the padding",
    ),
    "detach missing, sequence": (SEQUENCE, "mean.detach()", "mean", "gspo", "scale", "2 times its.*not detached"),
    "detach missing, weight": (CISPO, ".detach()", "", "cispo", "level", "should be detached is not"),
    "divisor by micro-batch": (
        TOKEN,
        "/ global_batch_size",
        "/ len(mask)",
        "grpo",
        "micro",
        "2 times as large.*micro-batch",
    ),
    "tokens of the micro-batch": (
        CISPO,
        "/ batch_num_tokens",
        "/ response_mask.sum()",
        "cispo",
        "micro",
        "divisor is the tokens of the micro-batch",
    ),
    "sign": (SEQUENCE, "return -", "return ", "gspo", "sign", "less likely"),
    "clip on the wrong side": (TOKEN, "torch.minimum", "torch.maximum", "grpo", "clip", "never vanishes"),
    "length power too high": (SEQUENCE, "* mask / n", "* mask", "gspo", "power", r"as \|y\|\^1, GSPO's as \|y\|\^0"),
    "length power too low": (TOKEN, "/ n)", "/ n**2)", "grpo", "power", r"as \|y\|\^-1, GRPO's as \|y\|\^0"),
    "advantages along the wrong axis": (
        TOKEN,
        "mask, n =",
        "advantages = transposed(advantages); mask, n =",
        "grpo",
        "advantage",
        "other responses",
    ),
    "advantages averaged": (
        SEQUENCE,
        "mask, n =",
        "advantages = advantages.mean().expand_as(advantages); mask, n =",
        "gspo",
        "advantage",
        "other responses",
    ),
    "absolute advantage": (
        TOKEN,
        "mask, n =",
        "advantages = advantages.abs(); mask, n =",
        "grpo",
        "advantage",
        "differently for each sign",
    ),
    "ranks forgotten": (SEQUENCE, "* dp_size", "", "gspo", "ranks", "two ranks the gradient is 0.5 times"),
    "ratio of tokens": (
        SEQUENCE,
        "mean.detach()",
        "(log_prob - old_log_prob).detach()",
        "gspo",
        "ratio",
        "ratio is over the token",
    ),
    "clip by token": (
        SEQUENCE,
        "s.clamp(0.9, 1.2) * advantages)",
        "s.clamp(0.9, 1.2) * advantages) * inside(log_prob - old_log_prob)",
        "gspo",
        "",
        "clip",
    ),
    "dual clip": (
        TOKEN,
        "return",
        "terms = torch.where(advantages < 0, terms.maximum(3 * advantages), terms)\n    return",
        "grpo",
        "dual clip",
        "dual clip.*vanishes at 3",
    ),
    "first token twice": (
        TOKEN,
        "terms * mask",
        "terms * mask * (1 + (torch.arange(mask.shape[1]) == 0))",
        "grpo",
        "",
        ".",
    ),
    "whole sequence": (
        SEQUENCE,
        ".sum(-1, keepdim=True) / n\n",
        ".sum(-1, keepdim=True)\n",
        "gspo",
        "ratio",
        "whole sequence|none that is known",
    ),
}
TOOLS = """
def transposed(x):
    return x.mT if x.shape[0] == x.shape[1] else x
def inside(log_ratio):
    return log_ratio.abs() < 0.7
"""


def probe(tmp_path: Path, body: str, more: str = "") -> tuple[Passport, dict[str, Verdict]]:
    """The passport of the loss in a file, and its verdict against each formula of this module, "" for the nearest."""
    file = tmp_path / "mine.py"
    file.write_text(HEAD + more + body + TOOLS)
    loss = find(f"{file}:loss")
    passport = measure(loss)
    verdicts = {key: judge(loss, passport, key) for key in ("grpo", "gspo", "cispo")}
    return passport, {"": nearest(loss, passport), **verdicts}


@pytest.mark.parametrize(("body", "key"), [(TOKEN, "grpo"), (SEQUENCE, "gspo"), (CISPO, "cispo")])
def test_without_a_fault_they_are_the_papers(tmp_path: Path, body: str, key: str) -> None:
    _, verdicts = probe(tmp_path, body)
    assert verdicts[""].formula.key == key
    assert verdicts[""].is_it


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_named(tmp_path: Path, fault: str) -> None:
    body, old, new, key, term, words = FAULTS[fault]
    assert old in body
    _, verdicts = probe(tmp_path, body.replace(old, new))
    verdict = verdicts[key]
    assert not verdict.is_it
    assert not verdicts[""].is_it or verdicts[""].formula.key != key
    assert verdict.differences[0].term == (term or verdict.differences[0].term)
    assert re.search(words, "; ".join(difference.sentence for difference in verdict.differences[:1]))


def test_a_kl_term_is_found_with_its_estimator_and_coefficient(tmp_path: Path) -> None:
    x = "(log_prob - ref_log_prob)"
    for kl, name in ((f"(-{x}).exp() - 1 + {x}", "k3"), (f"{x}**2 / 2", "k2"), (x, "k1"), (f"{x}.abs()", "abs")):
        body = TOKEN.replace("(terms * mask", f"((terms - 0.04 * ({kl})) * mask")
        passport, verdicts = probe(tmp_path, body, ", ref_log_prob")
        assert passport.terms.kl == name
        assert passport.terms.coefficient == pytest.approx(0.04, rel=1e-6)
        assert verdicts["grpo"].is_it == (name == "k3"), "the paper of GRPO has that estimator"
        assert [difference.term for difference in verdicts["gspo"].differences][-1] == "kl"


def test_a_kl_term_summed_over_tokens_is_no_coefficient(tmp_path: Path) -> None:
    body = TOKEN.replace(
        "return -(terms * mask / n)", "return -(terms * mask / n - (log_prob - ref_log_prob)**2 * mask)"
    )
    passport, verdicts = probe(tmp_path, body, ", ref_log_prob")
    assert (passport.terms.kl, passport.terms.coefficient) == ("k2", None)
    assert "weighs lengths otherwise" in verdicts["grpo"].sentence


def test_importance_weights_are_found(tmp_path: Path) -> None:
    said = {}
    for name, power in {"multiply": 1, "ignored": 0, "other": 2}.items():
        body = TOKEN.replace("(terms", f"(rollout_is_weights**{power} * terms")
        said[name] = probe(tmp_path, body, ", rollout_is_weights=None")[0].terms.weights
    assert said == {name: name for name in said}
    assert probe(tmp_path, TOKEN)[0].terms.weights == ""


def test_a_loss_without_the_sizes_of_the_update_is_averaged_over_micro_batches(tmp_path: Path) -> None:
    """A mean over responses is then right, one over tokens is not: its micro-batches have unequal numbers of them."""
    file = tmp_path / "mine.py"
    text = """def loss(log_prob, old_log_prob, advantages, response_mask):
    r = (log_prob - old_log_prob).exp() * advantages
    return"""
    file.write_text(f"{text} -((r * response_mask).sum(-1) / response_mask.sum(-1)).mean()\n")
    assert measure(find(f"{file}:loss")).weighting.micro == pytest.approx(1)
    file.write_text(f"{text} -(r * response_mask).sum() / response_mask.sum()\n")
    assert measure(find(f"{file}:loss")).weighting.micro is None
