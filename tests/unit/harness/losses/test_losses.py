"""The installed losses against their formulas, written out by hand with loops over Python floats (float64).

Ratios: w_t = exp(lp_t - old_t) for token-level losses, s = exp(mean over t of (lp_t - old_t)) for sequence-level ones.
Term of a token: -min(r A, clip(r, 1 - low, 1 + high) A); a sequence sums or averages its tokens' terms, a batch divides
the sum over sequences by the global batch size. Derivative of a sequence's term in lp_t: -A w_t (vanilla, sum) or
-A s (luspo), over |y| for the averaging ones, and 0 where clipped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from loss_batches import ADVANTAGES, LENGTHS, RANGES, WIDTH, Batch, installed, ragged_batch


@dataclass(frozen=True)
class Form:
    """What an algorithm is, from the design's table and not from its configuration."""

    ratio: str
    average: bool  # over a sequence's tokens, else their sum
    divisor: float = 1.0
    own_range: tuple[float, float] | None = None  # where it is not that of RANGES

    @property
    def range(self) -> tuple[float, float]:
        return self.own_range or RANGES[self.ratio]


FORMS = {
    "grpo": Form("token", average=True),
    "grpo_sum": Form("token", average=False),
    "gspo": Form("sequence", average=True),
    "luspo": Form("sequence", average=False),
    "luspo_norm": Form("sequence", average=False, divisor=16.0),  # tiny: the base model's mean length
    "dr_grpo": Form("token", average=False, divisor=70.0, own_range=(0.2, 0.2)),  # tiny: the longest response
}
# verl averages over |y| + 1e-8.
TOLERANCE = {algo: 2e-8 if form.average else 1e-12 for algo, form in FORMS.items()}


@dataclass(frozen=True)
class Expected:
    value: float
    gradient: list[list[float]]
    clipped: list[list[bool]]
    sides: dict[str, int]  # clipped tokens below and above the range


def by_hand(form: Form, batch: Batch, global_batch_size: int, dp_size: int = 1) -> Expected:
    """Value, derivative in every log-probability and clipped tokens, with plain loops."""
    low, high = form.range
    value, sides = 0.0, {"low": 0, "high": 0}
    gradient = [[0.0] * WIDTH for _ in batch.old]
    clipped = [[False] * WIDTH for _ in batch.old]
    for i in range(len(batch.old)):
        tokens = [t for t in range(WIDTH) if bool(batch.mask[i, t])]
        if not tokens:
            continue
        log_ratios = {t: float(batch.new[i, t]) - float(batch.old[i, t]) for t in tokens}
        mean = sum(log_ratios.values()) / len(tokens)
        weight = dp_size / global_batch_size / form.divisor / (len(tokens) if form.average else 1)
        for t in tokens:
            a = float(batch.advantages[i, t])
            r = math.exp(log_ratios[t] if form.ratio == "token" else mean)
            value -= weight * min(r * a, min(max(r, 1 - low), 1 + high) * a)
            below, above = a < 0 and r < 1 - low, a > 0 and r > 1 + high
            clipped[i][t] = below or above
            gradient[i][t] = 0.0 if clipped[i][t] else -weight * a * r
            sides["low"] += below
            sides["high"] += above
    return Expected(value, gradient, clipped, sides)


def case(algo: str) -> tuple[Form, Batch]:
    return FORMS[algo], ragged_batch(FORMS[algo].ratio)


@pytest.mark.parametrize("algo", FORMS)
def test_hand_case_has_clipped_tokens_on_both_sides_and_kept_ones(algo: str) -> None:
    form, batch = case(algo)
    expected = by_hand(form, batch, len(LENGTHS))
    assert min(expected.sides.values()) > 0
    assert 0 < sum(map(sum, expected.clipped)) < sum(LENGTHS) - 10


@pytest.mark.parametrize("dp_size", [1, 4])
@pytest.mark.parametrize("algo", FORMS)
def test_value_and_gradient_are_the_formula(actor: Callable[..., Any], algo: str, dp_size: int) -> None:
    form, batch = case(algo)
    expected = by_hand(form, batch, global_batch_size=40, dp_size=dp_size)
    value, gradient, _ = installed(actor(f"algo={algo}"), batch, global_batch_size=40, dp_size=dp_size)
    assert value.item() == pytest.approx(expected.value, rel=TOLERANCE[algo])
    torch.testing.assert_close(
        gradient, torch.tensor(expected.gradient, dtype=torch.float64), rtol=TOLERANCE[algo], atol=1e-15
    )


@pytest.mark.parametrize("algo", FORMS)
def test_clipped_tokens_are_those_of_the_formula(actor: Callable[..., Any], algo: str) -> None:
    form, batch = case(algo)
    expected = torch.tensor(by_hand(form, batch, len(LENGTHS)).clipped)
    _, gradient, metrics = installed(actor(f"algo={algo}"), batch, len(LENGTHS))
    assert torch.equal(batch.mask & (gradient == 0) & (batch.advantages != 0), expected)
    assert metrics["actor/pg_clipfrac"] == pytest.approx(int(expected.sum()) / sum(LENGTHS), rel=1e-6)


@pytest.mark.parametrize("algo", FORMS)
def test_without_a_global_batch_size_the_rows_that_have_tokens_are_averaged(
    actor: Callable[..., Any], algo: str
) -> None:
    form, batch = case(algo)
    expected = by_hand(form, batch, sum(length > 0 for length in LENGTHS))
    value, _, _ = installed(actor(f"algo={algo}"), batch, global_batch_size=None)
    assert value.item() == pytest.approx(expected.value, rel=TOLERANCE[algo])


@pytest.mark.parametrize("bounds", [(0, 5, 8, 12), (0, 4, 5, 12)], ids=["three", "one_of_padding_alone"])
@pytest.mark.parametrize("algo", FORMS)
def test_micro_batches_add_up_to_the_batch(actor: Callable[..., Any], algo: str, bounds: tuple[int, ...]) -> None:
    _, batch = case(algo)
    config = actor(f"algo={algo}")
    value, gradient, _ = installed(config, batch, len(LENGTHS))
    parts = [installed(config, batch.rows(slice(start, end)), len(LENGTHS)) for start, end in pairwise(bounds)]
    assert sum(part[0].item() for part in parts) == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("algo", FORMS)
def test_mean_over_ranks_is_the_value_of_one_rank(actor: Callable[..., Any], algo: str) -> None:
    """Data-parallel training averages gradients over ranks, so each rank's loss is multiplied by their number."""
    _, batch = case(algo)
    config = actor(f"algo={algo}")
    value, gradient, _ = installed(config, batch, len(LENGTHS))
    ranks = [installed(config, batch.rows(slice(i, i + 6)), len(LENGTHS), dp_size=2) for i in (0, 6)]
    assert sum(rank[0].item() for rank in ranks) / 2 == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(torch.cat([rank[1] for rank in ranks]) / 2, gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("algo", FORMS)
def test_micro_batch_of_padding_alone_is_zero_and_finite(actor: Callable[..., Any], algo: str) -> None:
    _, batch = case(algo)
    value, gradient, metrics = installed(actor(f"algo={algo}"), batch.rows(slice(4, 5)), len(LENGTHS))
    assert value.item() == 0
    assert not gradient.any()
    assert all(math.isfinite(metric) for metric in metrics.values())


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "rollout_is_weights"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_luspo_is_verls_gspo_summed_over_tokens_bit_for_bit(
    actor: Callable[..., Any], dtype: torch.dtype, weighted: bool
) -> None:
    batch = ragged_batch("sequence")
    batch = Batch(batch.old.to(dtype), batch.new.to(dtype), batch.advantages.to(dtype), batch.mask)
    more = {"rollout_is_weights": torch.rand(batch.old.shape, generator=torch.Generator().manual_seed(1))}
    summed = actor("algo=gspo", "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum")
    ours = installed(actor("algo=luspo"), batch, 12, **(more if weighted else {}))
    verls = installed(summed, batch, 12, **(more if weighted else {}))
    assert torch.equal(ours[0], verls[0])
    assert torch.equal(ours[1], verls[1])
    assert ours[2] == verls[2]


def test_luspo_is_the_mean_of_length_times_gspos_loss_of_a_sequence(actor: Callable[..., Any]) -> None:
    batch = ragged_batch("sequence")
    sequences = [by_hand(FORMS["gspo"], batch.rows(slice(i, i + 1)), 1).value for i in range(len(LENGTHS))]
    expected = sum(length * loss for length, loss in zip(LENGTHS, sequences, strict=True)) / len(LENGTHS)
    value, _, _ = installed(actor("algo=luspo"), batch, len(LENGTHS))
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_luspo_norm_is_luspo_over_a_constant(actor: Callable[..., Any]) -> None:
    batch = ragged_batch("sequence")
    constant = actor("algo=luspo_norm").loss_scale_factor
    assert constant == FORMS["luspo_norm"].divisor
    plain, normed = (installed(actor(f"algo={algo}"), batch, 12) for algo in ("luspo", "luspo_norm"))
    assert normed[0].item() == pytest.approx(plain[0].item() / constant, rel=1e-15)
    torch.testing.assert_close(normed[1], plain[1] / constant, rtol=1e-15, atol=0)


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-mean"])
def test_luspo_refuses_an_aggregation_that_is_not_a_sum_over_the_sequence(actor: Callable[..., Any], mode: str) -> None:
    config = actor("algo=luspo", f"actor_rollout_ref.actor.loss_agg_mode={mode}")
    with pytest.raises(ValueError, match=f"luspo.*seq-mean-token-sum.*not {mode}"):
        installed(config, ragged_batch("sequence"), 12)


@pytest.mark.parametrize(("overrides", "acts"), [((), False), (("actor_rollout_ref.actor.clip_ratio_c=3",), True)])
def test_dual_clip_never_acts_unless_asked_for(
    actor: Callable[..., Any], overrides: tuple[str, ...], acts: bool
) -> None:
    """Negative advantage and a ratio far above 1: GRPO's equation keeps it, verl's default dual clip (3) does not."""
    log_ratios = torch.tensor([[0.5, 2.0, 10.0, 19.9]], dtype=torch.float64)
    old, mask = torch.full_like(log_ratios, -25.0), torch.ones_like(log_ratios, dtype=torch.bool)
    batch = Batch(old, old + log_ratios, torch.full_like(old, -0.7), mask)
    _, gradient, metrics = installed(actor("algo=grpo", *overrides), batch, 1)
    expected = 0.7 * log_ratios.exp() / 4
    kept = torch.tensor([[True, not acts, not acts, not acts]])
    torch.testing.assert_close(gradient, expected * kept, rtol=2e-8, atol=0)
    assert metrics["actor/pg_clipfrac_lower"] == pytest.approx(0.75 if acts else 0.0)


@pytest.mark.parametrize("algo", FORMS)
def test_on_policy_nothing_is_clipped_and_only_the_weight_of_length_differs(
    actor: Callable[..., Any], algo: str
) -> None:
    form, batch = case(algo)
    batch = Batch(batch.old, batch.old.clone(), batch.advantages, batch.mask)
    _, gradient, metrics = installed(actor(f"algo={algo}"), batch, len(LENGTHS))
    for row, (length, advantage) in enumerate(zip(LENGTHS, ADVANTAGES, strict=True)):
        each = -advantage / len(LENGTHS) / form.divisor / (length if form.average else 1) if length else 0.0
        assert gradient[row].tolist() == pytest.approx([each] * length + [0.0] * (WIDTH - length), rel=2e-8)
    assert metrics["actor/pg_clipfrac"] == 0
