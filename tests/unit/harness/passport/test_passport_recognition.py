"""Every published loss is recognised as itself, by its formula here and by verl's implementation of it."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from harness.passport.adapters import LocalLoss, find, of_actor
from harness.passport.formulas import FORMULAS, Parameters
from harness.passport.measure import measure, parameters_of
from harness.passport.naming import judge, nearest


@pytest.mark.parametrize("key", FORMULAS)
@pytest.mark.parametrize(
    "parameters", [Parameters(), Parameters(0.99, 1.004, 0.7, 2.0, 0.05, 0.03)], ids=["wide", "narrow"]
)
def test_a_formula_is_itself_whatever_its_range(key: str, parameters: Parameters) -> None:
    loss = FORMULAS[key].at(parameters)
    verdict = nearest(loss, measure(loss))
    assert (verdict.formula.key, verdict.differences) == (key, ())
    assert verdict.sentence == f"It is {FORMULAS[key].title}."


def test_no_formula_is_taken_for_another() -> None:
    for key, loss in FORMULAS.items():
        passport = measure(loss)
        assert [other for other in FORMULAS if judge(loss, passport, other).is_it] == [key]


ALGOS = {  # conf/algo -> the formula, and the one term in which verl's implementation is known to differ
    "grpo": ("grpo", ""), "grpo_sum": ("dr_grpo", ""), "gspo": ("gspo", ""), "luspo": ("luspo", ""),
    "luspo_norm": ("luspo", "scale"), "dr_grpo": ("dr_grpo", ""), "dapo_loss": ("dapo", ""), "gmpo": ("gmpo", "micro"),
    "sapo": ("sapo", ""), "cispo": ("cispo", ""), "fspo": ("fspo", ""),
    "vl_norm": ("vl_norm", ""), "balanced": ("balanced", ""), "vespo": ("vespo", ""), "dro": ("dro", ""),
    "dppo_tv": ("dppo_tv", ""), "dppo_kl": ("dppo_kl", ""), "kl_cov": ("kl_cov", ""), "gpg": ("reinforce", ""),
}  # fmt: skip


@pytest.mark.parametrize("algo", ALGOS)
def test_this_projects_losses_are_the_papers(actor: Callable[..., Any], algo: str) -> None:
    key, term = ALGOS[algo]
    loss = LocalLoss(algo, of_actor(actor(f"algo={algo}")))
    verdict = nearest(loss, measure(loss))
    assert (verdict.formula.key, [difference.term for difference in verdict.differences]) == (
        key,
        [term] if term else [],
    )


def test_verls_default_gspo_is_luspo_over_the_tokens_of_the_update() -> None:
    loss = find("verl:gspo")
    passport = measure(loss)
    verdict = nearest(loss, passport)
    assert passport.weighting.power == 1
    assert passport.weighting.divisor == "tokens"
    assert verdict.formula.key == "luspo"
    assert "tokens of the whole update" in verdict.sentence
    assert "|y|^1" in judge(loss, passport, "gspo").sentence


def test_settings_reach_verl() -> None:
    passport = measure(find("verl:gspo,loss_agg_mode=seq-mean-token-mean,clip_ratio_low=3e-4,clip_ratio_high=4e-4"))
    sides = passport.clipping.sides
    assert passport.weighting.power == 0
    assert sides["positive", "up"].bound == pytest.approx(1.0004, rel=1e-8)
    assert sides["negative", "down"].bound == pytest.approx(0.9997, rel=1e-8)


def test_constants_of_a_formula_are_measured() -> None:
    """SAPO's temperatures, CISPO's bound, FSPO's band and a range, put in and found again."""
    put = Parameters(0.9, 1.3, 0.8, 1.6, 0.1, 0.15)
    found = {key: parameters_of(measure(FORMULAS[key].at(put))) for key in ("gspo", "sapo", "cispo", "fspo")}
    assert (found["gspo"].lower, found["gspo"].upper) == pytest.approx((0.9, 1.3), rel=1e-6)
    assert (found["sapo"].tau_positive, found["sapo"].tau_negative) == pytest.approx((0.8, 1.6), rel=1e-6)
    assert found["cispo"].upper == pytest.approx(1.3, rel=1e-9)
    assert (found["fspo"].c_lower, found["fspo"].c_upper) == pytest.approx((0.1, 0.15), rel=1e-5)


def test_gspo_clips_a_share_that_the_normal_distribution_gives() -> None:
    """For |y| tokens the mean log-ratio is normal; a positive response is clipped above, a negative one below."""
    from scipy.stats import norm

    from harness.passport import clipping

    loss = FORMULAS["gspo"].at(Parameters(0.997, 1.004))
    batch = clipping.synthetic()
    expected = []
    for length, advantage in zip(batch.lengths, batch.advantages, strict=True):
        spread = math.hypot(clipping.TOKEN_SPREAD / math.sqrt(length), clipping.RESPONSE_SPREAD)
        beyond = norm.sf(math.log(1.004) / spread) if advantage > 0 else norm.cdf(math.log(0.997) / spread)
        expected.append(float(beyond))
    share = sum(expected) / len(expected)
    error = math.sqrt(sum(p * (1 - p) for p in expected)) / len(expected)
    _, sequences = clipping.fractions(loss)
    assert abs(sequences - share) < 4 * error
    ratios = batch.log_ratio
    assert ratios is not None
    exact = sum(
        (a > 0 and float(row[:n].mean()) > math.log(1.004)) or (a < 0 and float(row[:n].mean()) < math.log(0.997))
        for row, n, a in zip(ratios, batch.lengths, batch.advantages, strict=True)
    )
    assert sequences == exact / len(batch.lengths)
