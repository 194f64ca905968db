"""DPPO, DRO, GPG, KL-Cov and VESPO: losses whose gradient is not limited by a range of the ratio.

Each against its source's formula in Python floats: DPPO, arXiv 2602.04879 and verl's documentation of it; DRO, Tinker's
documentation; GPG, arXiv 2504.02546; KL-Cov, arXiv 2505.22617; VESPO, the docstring of its authors' code.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from loss_batches import ADVANTAGES, LENGTHS, Batch, Floats, by_differences, installed, ragged_batch, widened
from recorded_rows import GLOBAL_BATCH, make_rows, record

ACTOR = "actor_rollout_ref.actor"
LONGEST, TOKENS = 70.0, sum(LENGTHS)
ALGOS = ("dppo_tv", "dppo_kl", "dro", "gpg", "vespo")
NEVER_CLIP = ("dro", "gpg", "kl_cov", "vespo")


def tv(new: float, old: float) -> tuple[float, float]:
    """(distance, limit) of "this token or another one"."""
    return abs(math.exp(new) - math.exp(old)), 0.15


def binary_kl(new: float, old: float) -> tuple[float, float]:
    p, q = math.exp(old), math.exp(new)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)), 0.05


def masked(distance: Callable[[float, float], tuple[float, float]], new: float, old: float, a: float) -> bool:
    """Too far, on the side to which the advantage pushes."""
    far, limit = distance(new, old)
    return far > limit and (new > old) == (a > 0)


def dppo(distance: Callable[[float, float], tuple[float, float]]) -> Any:
    def objective(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
        return sum(
            0.0 if masked(distance, f, o, a) else math.exp(f - o) * a * n
            for n, o, f in zip(new, old, fixed, strict=True)
        )

    return objective


def dro(new: Floats, old: Floats, a: float, fixed: Floats, beta: float = 0.05) -> float:
    return sum(a * n - beta / 2 * (n - o) ** 2 for n, o in zip(new, old, strict=True))


def gpg(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
    return a * sum(new)


def kernel(w: float, a: float) -> float:
    k, rate = (2.0, 3.0) if a >= 0 else (3.0, 2.0)
    return w**k * math.exp(rate * (1 - w))


def vespo(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
    return kernel(math.exp(sum(fixed) - sum(old)), a) * a * sum(new)


OBJECTIVES = {"dppo_tv": dppo(tv), "dppo_kl": dppo(binary_kl), "dro": dro, "gpg": gpg, "vespo": vespo}


def weight(algo: str, responses: int, dp_size: int = 1) -> float:
    return dp_size / (responses * LONGEST if algo.startswith("dppo") else TOKENS)


def batch_of(algo: str) -> Batch:
    """Probabilities on both sides of DPPO's limits; ratios of sequences around 1 for VESPO's kernel."""
    if algo == "vespo":
        batch = ragged_batch("sequence")
        return Batch(batch.old, batch.old + 10 * (batch.new - batch.old), batch.advantages, batch.mask)
    batch = ragged_batch("token")
    return Batch(batch.old, (batch.old + 3 * (batch.new - batch.old)).clamp(max=-0.01), batch.advantages, batch.mask)


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("algo", ALGOS)
def test_value_and_gradient_are_the_sources(actor: Callable[..., Any], algo: str, dp_size: int) -> None:
    batch = batch_of(algo)
    value, gradient, metrics = installed(actor(f"algo={algo}"), batch, 40, dp_size)
    expected = by_differences(OBJECTIVES[algo], batch, [weight(algo, 40, dp_size)] * len(LENGTHS))
    assert value.item() == pytest.approx(expected[0], rel=1e-7)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-6, atol=1e-9)
    assert all(math.isfinite(metric) for metric in metrics.values())


@pytest.mark.parametrize("algo", ALGOS)
def test_clipped_tokens_are_dppos_masked_ones_and_no_others(actor: Callable[..., Any], algo: str) -> None:
    batch = batch_of(algo)
    _, gradient, _ = installed(actor(f"algo={algo}"), batch, 12)
    distance = {"dppo_tv": tv, "dppo_kl": binary_kl}.get(algo)
    expected = [
        [
            bool(distance and a and t < length and masked(distance, float(batch.new[i, t]), float(batch.old[i, t]), a))
            for t in range(batch.mask.shape[1])
        ]
        for i, (length, a) in enumerate(zip(LENGTHS, ADVANTAGES, strict=True))
    ]
    assert (batch.mask & (gradient == 0) & (batch.advantages != 0)).tolist() == expected
    for sign in (1, -1):
        part = torch.tensor(expected)[(batch.advantages * sign > 0) & batch.mask]
        assert set(part.tolist()) == ({True, False} if distance else {False}), "the batch must test both"


@pytest.mark.parametrize("algo", ALGOS)
def test_micro_batches_ranks_and_padding_change_nothing(actor: Callable[..., Any], algo: str) -> None:
    batch, config = batch_of(algo), actor(f"algo={algo}")
    value, gradient, _ = installed(config, batch, 12)
    for bounds, dp_size in (((0, 4, 5, 12), 1), ((0, 6, 12), 2)):  # the second micro-batch is padding alone
        parts = [installed(config, batch.rows(slice(*ends)), 12, dp_size) for ends in pairwise(bounds)]
        assert sum(part[0].item() for part in parts) / dp_size == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]) / dp_size, gradient, rtol=1e-12, atol=0)
        assert all(math.isfinite(metric) for part in parts for metric in part[2].values())
    _, wide, _ = installed(config, widened(batch), 12)
    torch.testing.assert_close(wide[:, : gradient.shape[1]], gradient, rtol=1e-12, atol=0)
    assert not wide[:, gradient.shape[1] :].any()


def kl_cov(batch: Batch, share: float, coefficient: float) -> tuple[float, torch.Tensor, set[tuple[int, int]]]:
    """(loss, gradient, picked tokens): r A, and minus coefficient |log r| where A and log p vary together most."""
    where = [(i, t) for i, length in enumerate(LENGTHS) for t in range(length)]
    a, new, old = ([float(x[i, t]) for i, t in where] for x in (batch.advantages, batch.new, batch.old))
    mean_a, mean_new = sum(a) / len(a), sum(new) / len(new)
    together = [(x - mean_a) * (n - mean_new) for x, n in zip(a, new, strict=True)]
    picked = set(sorted(range(len(where)), key=lambda j: -together[j])[: max(1, int(share * len(where)))])
    value, gradient = 0.0, torch.zeros(batch.new.shape, dtype=torch.float64)
    for j, (i, t) in enumerate(where):
        x = new[j] - old[j]
        pays = coefficient if j in picked else 0.0
        value += (-math.exp(x) * a[j] + pays * abs(x)) / len(where)
        gradient[i, t] = (-math.exp(x) * a[j] + pays * math.copysign(1, x)) / len(where)
    return value, gradient, {where[j] for j in picked}


@pytest.mark.parametrize(("share", "coefficient"), [(0.002, 1.0), (0.1, 0.3)])
def test_kl_cov_is_its_papers(actor: Callable[..., Any], share: float, coefficient: float) -> None:
    batch, loss = ragged_batch("token"), f"{ACTOR}.policy_loss"
    overrides = () if share == 0.002 else (f"{loss}.kl_cov_ratio={share}", f"{loss}.ppo_kl_coef={coefficient}")
    value, gradient, _ = installed(actor("algo=kl_cov", *overrides), batch, 12)
    expected = kl_cov(batch, share, coefficient)
    assert len(expected[2]) == (1 if share == 0.002 else 5)
    assert value.item() == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-12, atol=1e-15)


def test_kl_cov_picks_its_tokens_in_each_micro_batch(actor: Callable[..., Any]) -> None:
    """What it depends on, said in its YAML: with more micro-batches other tokens, and more of them, pay."""
    batch, config = ragged_batch("token"), actor("algo=kl_cov")
    plain = -(batch.new - batch.old).exp() * batch.advantages * batch.mask / TOKENS
    whole = installed(config, batch, 12)[1]
    parts = torch.cat([installed(config, batch.rows(slice(i, i + 4)), 12)[1] for i in (0, 4, 8)])
    paying = [int(((one - plain).abs() > 1e-9).sum()) for one in (whole, parts)]
    assert paying == [1, 3]
    _, wide, _ = installed(config, widened(batch), 12)
    torch.testing.assert_close(wide[:, : whole.shape[1]], whole, rtol=1e-12, atol=0)
    value, gradient, metrics = installed(config, batch.rows(slice(4, 5)), 12)  # padding alone
    assert value.item() == 0
    assert not gradient.any()
    assert all(map(math.isfinite, metrics.values()))


@pytest.mark.parametrize("log_ratio", [-40.0, -1.0, 0.0, 1.0, 40.0])
@pytest.mark.parametrize("advantage", [0.7, -0.7, 0.0])
def test_vespos_kernel_is_1_on_policy_and_fades_on_both_sides(
    actor: Callable[..., Any], log_ratio: float, advantage: float
) -> None:
    old = torch.full((1, 4), -2.0, dtype=torch.float64)
    batch = Batch(old, old + log_ratio / 4, torch.full_like(old, advantage), torch.ones_like(old, dtype=torch.bool))
    _, gradient, _ = installed(actor("algo=vespo"), batch, 1)
    expected = kernel(math.exp(max(-20.0, min(20.0, log_ratio))), advantage)
    assert gradient.flatten().tolist() == pytest.approx([-advantage * expected / TOKENS] * 4, rel=1e-9, abs=1e-300)


def test_weights_of_a_rollout_correction_are_factors_of_vespos_ratio(actor: Callable[..., Any]) -> None:
    batch = batch_of("vespo")
    weights = torch.rand(batch.old.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    _, gradient, _ = installed(actor("algo=vespo"), batch, 12, rollout_is_weights=weights)
    for i, (length, a) in enumerate(zip(LENGTHS, ADVANTAGES, strict=True)):
        ratio = math.exp(float((batch.new - batch.old)[i, :length].sum())) * math.prod(weights[i, :length].tolist())
        assert gradient[i, :length].tolist() == pytest.approx([-a * kernel(ratio, a) / TOKENS] * length, rel=1e-9)


def test_vespo_refuses_hyper_parameters_that_are_none(actor: Callable[..., Any]) -> None:
    from hydra.errors import InstantiationException

    from harness.losses.vespo_config import VESPOConfig

    loss = actor("algo=vespo").policy_loss
    assert isinstance(loss, VESPOConfig)
    assert (loss.k_pos, loss.lambda_pos, loss.k_neg, loss.lambda_neg) == (2.0, 3.0, 3.0, 2.0)
    with pytest.raises(InstantiationException, match="lambda_neg must be above 0, not 0"):
        actor("algo=vespo", f"{ACTOR}.policy_loss.lambda_neg=0")


@pytest.mark.parametrize(
    ("algo", "changes", "words"),
    [
        *((algo, {"harness.clip": "shared"}, f"{algo} has no clip range, so clip=shared") for algo in NEVER_CLIP),
        *((algo, {"harness.clip": "symmetric"}, f"{algo} has no clip range") for algo in NEVER_CLIP),
        ("dppo_tv", {"harness.clip": "shared"}, "dppo_tv clips by how far a token's probability has moved"),
        ("dppo_kl", {"harness.clip": "shared"}, "dppo_kl clips by how far"),
        ("dro", {f"{ACTOR}.policy_loss.dro_beta": None}, "dro needs .*dro_beta above 0, not None"),
        ("dro", {f"{ACTOR}.policy_loss.dro_beta": 0.0}, "dro needs .*dro_beta above 0, not 0.0"),
        ("vespo", {f"{ACTOR}.loss_agg_mode": "seq-mean-token-mean"}, "vespo with .* is another loss"),
    ],
)
def test_a_setting_that_a_loss_would_ignore_is_refused(
    flat: Callable[..., dict[str, Any]], algo: str, changes: dict[str, Any], words: str
) -> None:
    from harness.config import ConfigError
    from harness.doctor.rules import settings

    config = flat(f"algo={algo}")
    settings(config)
    with pytest.raises(ConfigError, match=words) as error:
        settings({**config, **changes})
    assert "\n" not in str(error.value)


def columns(algo: str, row: Any) -> dict[str, float]:
    """The recorded columns that depend on the algorithm, of a response in plain floats."""
    a, n = row.advantage, row.tokens
    r = [math.exp(x - o) for x, o in zip(row.new, row.old, strict=True)]
    clipped = [False] * n
    if algo.startswith("dppo"):
        distance = tv if algo == "dppo_tv" else binary_kl
        clipped = [a != 0 and masked(distance, x, o, a) for x, o in zip(row.new, row.old, strict=True)]
        factor = [0.0 if out else x for x, out in zip(r, clipped, strict=True)]
    elif algo == "vespo":
        factor = [kernel(math.prod(r), a)] * n if a else [math.prod(r)] * n
    elif algo == "gpg":
        factor = [1.0] * n if a else r
    else:
        factor = [1 - 0.05 / a * math.log(x) for x in r] if a else r
    pull = sum(factor) * abs(a) if a or algo != "dro" else sum(abs(0.05 * math.log(x)) for x in r)
    tokens = sum(other.tokens for other in make_rows("token"))
    return {
        "out_of_range_low": math.nan,
        "out_of_range_high": math.nan,
        "clipped": sum(clipped),
        "effective_ratio": sum(factor) / n,
        "gradient_weight": pull / (LONGEST * GLOBAL_BATCH if algo.startswith("dppo") else tokens),
    }


@pytest.mark.parametrize("algo", ALGOS)
def test_recorded_columns_mean_the_same_for_every_loss(actor: Callable[..., Any], algo: str) -> None:
    rows = make_rows("sequence" if algo == "vespo" else "token")
    for row, got in zip(rows[:-1], record(actor(f"algo={algo}"), rows)[:-1], strict=True):
        expected = columns(algo, row)
        assert {name: got[name] for name in expected} == {
            name: pytest.approx(value, rel=3e-5, abs=1e-8, nan_ok=True) for name, value in expected.items()
        }


@pytest.mark.parametrize("algo", [*ALGOS, "kl_cov"])
def test_metrics_that_do_not_exist_for_a_loss_are_missing(actor: Callable[..., Any], algo: str) -> None:
    from harness.losses.registry import spec_of
    from harness.plugin.metrics import frame, step_metrics

    rows = record(actor(f"algo={algo}"), make_rows("token"))
    metrics = step_metrics(frame(rows * 2, step=1, rows_per_update=len(rows)), spec_of(algo))
    assert ("clip_frac_token" in metrics) is algo.startswith("dppo")
    assert not [name for name in metrics if name.startswith("out_of_range_")]
