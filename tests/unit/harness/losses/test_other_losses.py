"""DAPO's loss, GMPO, SAPO, CISPO and FSPO against their papers' objectives, written out in Python floats (float64).

``OBJECTIVES`` are the objectives of one response, to be maximised; gradients are their central differences, with what
the paper stops the gradient of held fixed. Dr. GRPO is one more row of the table in ``test_losses``.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loss_batches import ADVANTAGES, LENGTHS, WIDTH, Batch, installed, ragged_batch
from model_files import write_data, write_model
from recorded_rows import GLOBAL_BATCH, make_rows, record
from scipy.stats import norm

ACTOR = "actor_rollout_ref.actor"
TINY = (3e-3, 4e-3)  # the experiment's range for sequence-level losses
REFERENCE, LONGEST = 16.0, 70.0  # tiny: tokens of the base model's mean response, of the longest one
RATIO = {"dapo_loss": "token", "gmpo": "token", "sapo": "token", "cispo": "token", "fspo": "sequence"}
WIDE = {"dr_grpo": "token", **RATIO}
Floats = list[float]


def clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def ratios(new: Floats, old: Floats) -> Floats:
    return [math.exp(n - o) for n, o in zip(new, old, strict=True)]


def dapo(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
    return sum(min(r * a, clip(r, 0.8, 1.28) * a) for r in ratios(new, old))


def gmpo(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
    """(prod over t of |min(r A, clip(r, e^-0.4, e^0.4) A)|)^(1/|y|) sgn A."""
    terms = [abs(min(r * a, clip(r, math.exp(-0.4), math.exp(0.4)) * a)) for r in ratios(new, old)]
    return math.copysign(math.prod(terms) ** (1 / len(terms)), a)


def sapo(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
    tau = 1.0 if a > 0 else 1.05
    return sum(4 / tau / (1 + math.exp(-tau * (r - 1))) * a for r in ratios(new, old)) / len(new)


def cispo(new: Floats, old: Floats, a: float, fixed: Floats) -> float:
    return sum(min(r, 1.2) * a * n for r, n in zip(ratios(fixed, old), new, strict=True))


def fspo(new: Floats, old: Floats, a: float, fixed: Floats, mu: float = 0.0, reference: float = REFERENCE) -> float:
    total, length = sum(new) - sum(old), len(new)
    low, high = (c * math.sqrt(reference) * math.sqrt(length) for c in TINY)
    return min(math.exp(total) * a, math.exp(clip(total, mu * length - low, mu * length + high)) * a)


OBJECTIVES = {"dapo_loss": dapo, "gmpo": gmpo, "sapo": sapo, "cispo": cispo, "fspo": fspo}
# What a response's objective is divided by, given (responses, tokens of the batch); verl's geo_mean: the micro-batch.
DIVISOR = {"dapo_loss": "tokens", "gmpo": "rows", "sapo": "responses", "cispo": "tokens", "fspo": "responses"}


def by_hand(
    algo: str, batch: Batch, responses: int, dp_size: int = 1, **hyper: float
) -> tuple[float, list[Floats], list[list[bool]]]:
    """(loss, gradient, tokens whose gradient is 0 though their advantage is not)."""
    divisor = {"tokens": sum(LENGTHS), "rows": len(batch.old), "responses": responses}[DIVISOR[algo]]
    weight = (1 if algo == "gmpo" else dp_size) / divisor
    loss, gradient = 0.0, [[0.0] * WIDTH for _ in batch.old]
    clipped = [[False] * WIDTH for _ in batch.old]
    for i in range(len(batch.old)):
        length = int(batch.mask[i].sum())
        if not length:
            continue
        new, old, a = batch.new[i, :length].tolist(), batch.old[i, :length].tolist(), float(batch.advantages[i, 0])
        loss -= weight * OBJECTIVES[algo](new, old, a, new, **hyper)
        for t in range(length):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [*new[:t], new[t] + step, *new[t + 1 :]]
                ends.append(OBJECTIVES[algo](moved, old, a, new, **hyper))
            gradient[i][t] = -weight * (ends[0] - ends[1]) / 2e-6
            clipped[i][t] = a != 0 and ends[0] == pytest.approx(ends[1], rel=1e-12)
    return loss, gradient, clipped


def assert_is(got: Any, expected: tuple[float, list[Floats], Any]) -> None:
    assert got[0].item() == pytest.approx(expected[0], rel=2e-8)
    torch.testing.assert_close(got[1], torch.tensor(expected[1], dtype=torch.float64), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("algo", RATIO)
def test_value_and_gradient_are_the_papers(actor: Callable[..., Any], algo: str, dp_size: int) -> None:
    batch = ragged_batch(RATIO[algo])
    assert_is(installed(actor(f"algo={algo}"), batch, 40, dp_size), by_hand(algo, batch, 40, dp_size))


@pytest.mark.parametrize("algo", RATIO)
def test_clipped_tokens_are_those_that_the_formula_gives_no_gradient(actor: Callable[..., Any], algo: str) -> None:
    batch = ragged_batch(RATIO[algo])
    _, _, clipped = by_hand(algo, batch, len(LENGTHS))
    _, gradient, metrics = installed(actor(f"algo={algo}"), batch, len(LENGTHS))
    expected = torch.tensor(clipped)
    assert torch.equal(batch.mask & (gradient == 0) & (batch.advantages != 0), expected)
    assert all(math.isfinite(metric) for metric in metrics.values())
    for sign in (1, -1):
        part = (batch.advantages * sign > 0) & batch.mask
        both = {bool(one) for one in expected[part]}
        assert both == ({False} if algo in ("sapo", "cispo") else {True, False}), "the batch must test both"


@pytest.mark.parametrize("algo", ["dapo_loss", "sapo", "cispo", "fspo"])
def test_micro_batches_and_ranks_add_up_to_the_batch(actor: Callable[..., Any], algo: str) -> None:
    batch, config = ragged_batch(RATIO[algo]), actor(f"algo={algo}")
    value, gradient, _ = installed(config, batch, len(LENGTHS))
    for bounds, dp_size in (((0, 4, 5, 12), 1), ((0, 6, 12), 2)):  # the second micro-batch is padding alone
        parts = [installed(config, batch.rows(slice(*ends)), len(LENGTHS), dp_size) for ends in pairwise(bounds)]
        assert sum(part[0].item() for part in parts) / dp_size == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]) / dp_size, gradient, rtol=1e-12, atol=0)


def test_gmpo_is_the_batchs_over_ranks_but_as_many_times_it_as_there_are_micro_batches(
    actor: Callable[..., Any],
) -> None:
    """Why more than one is refused: verl's engine adds up what geo_mean has averaged."""
    batch, config = ragged_batch("token"), actor("algo=gmpo")
    _, gradient, _ = installed(config, batch, len(LENGTHS))
    parts = torch.cat([installed(config, batch.rows(slice(i, i + 4)), len(LENGTHS))[1] for i in (0, 4, 8)])
    torch.testing.assert_close(parts, 3 * gradient, rtol=1e-12, atol=0)
    ranks = torch.cat([installed(config, batch.rows(slice(i, i + 6)), len(LENGTHS), 2)[1] for i in (0, 6)])
    torch.testing.assert_close(ranks / 2, gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("algo", RATIO)
def test_micro_batch_of_padding_alone_is_zero_and_finite(actor: Callable[..., Any], algo: str) -> None:
    value, gradient, metrics = installed(actor(f"algo={algo}"), ragged_batch(RATIO[algo]).rows(slice(4, 5)), 12)
    assert value.item() == 0
    assert not gradient.any()
    assert all(math.isfinite(metric) for metric in metrics.values())


@pytest.mark.parametrize(("mu", "reference"), [(-1e-3, 16.0), (2e-3, 1.0), (0.0, 100.0)])
def test_fspo_with_a_drift_and_another_reference_length(actor: Callable[..., Any], mu: float, reference: float) -> None:
    batch, loss = ragged_batch("sequence"), f"{ACTOR}.policy_loss"
    config = actor("algo=fspo", f"{loss}.mu={mu}", f"{loss}.reference_length={reference}")
    assert_is(installed(config, batch, 12), by_hand("fspo", batch, 12, mu=mu, reference=reference))


@pytest.mark.parametrize("log_ratio", [-30.0, -5.0, 5.0, 30.0])
@pytest.mark.parametrize("advantage", [0.7, -0.7])
def test_fspo_clips_only_the_side_that_the_advantage_pushes_to(
    actor: Callable[..., Any], log_ratio: float, advantage: float
) -> None:
    """Far outside on the other side the gradient stays, its size bounded by e^20, and nothing overflows."""
    old = torch.full((1, 4), -2.0, dtype=torch.float64)
    batch = Batch(old, old + log_ratio / 4, torch.full_like(old, advantage), torch.ones_like(old, dtype=torch.bool))
    _, gradient, _ = installed(actor("algo=fspo"), batch, 1)
    kept = 0 if (log_ratio > 0) == (advantage > 0) else math.exp(clip(log_ratio, -20, 20))
    assert gradient.flatten().tolist() == pytest.approx([-advantage * kept] * 4, rel=1e-12)


def test_fspo_clips_responses_of_every_length_equally_often(actor: Callable[..., Any]) -> None:
    """The paper's reason: log-ratios of tokens that are independent add up to a normal S of deviation sigma sqrt|y|."""
    from harness.losses.fspo import fspo_range

    config, sigma, draws = actor("algo=fspo", "clip=symmetric"), 0.01, 20_000
    c = sum(TINY) / 2 * math.sqrt(REFERENCE)
    expected = 2 * norm.sf(c / sigma)
    rng = np.random.default_rng(0)
    gspo = []
    for length in (4, 16, 64):
        total = rng.normal(0, sigma, (draws, length)).sum(-1)
        low, high = (bound.item() for bound in fspo_range(config, torch.tensor(float(length))))
        share = np.mean((np.exp(total) < low) | (np.exp(total) > high))
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / draws))
        gspo.append(np.mean(np.abs(np.exp(total / length) - 1) > sum(TINY) / 2))
    assert gspo[0] > gspo[1] + 0.2 > gspo[2] + 0.3, "a fixed range of the mean ratio clips short responses more"


def test_fspo_and_gspo_clip_alike_at_the_reference_length(actor: Callable[..., Any]) -> None:
    from harness.losses.fspo import fspo_range

    low, high = fspo_range(actor("algo=fspo"), torch.tensor([REFERENCE, 4 * REFERENCE]))
    means = [bound.log() / torch.tensor([REFERENCE, 4 * REFERENCE]) for bound in (low, high)]
    assert means[0].tolist() == pytest.approx([-TINY[0], -TINY[0] / 2], rel=1e-6)
    assert means[1].tolist() == pytest.approx([TINY[1], TINY[1] / 2], rel=1e-6)


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-mean"])
def test_fspo_refuses_an_aggregation_that_is_not_a_sum_over_the_sequence(actor: Callable[..., Any], mode: str) -> None:
    with pytest.raises(ValueError, match=f"fspo.*seq-mean-token-sum.*not {mode}"):
        installed(actor("algo=fspo", f"{ACTOR}.loss_agg_mode={mode}"), ragged_batch("sequence"), 12)


def test_fspos_hyper_parameters_are_a_class_of_its_own_and_nothing_else_passes(actor: Callable[..., Any]) -> None:
    from hydra.errors import InstantiationException

    from harness.losses.fspo_config import FSPOConfig

    loss = actor("algo=fspo").policy_loss
    assert isinstance(loss, FSPOConfig)
    assert (loss.loss_mode, loss.mu, loss.reference_length) == ("fspo", 0.0, REFERENCE)
    with pytest.raises(InstantiationException, match=r"reference_length must be above 0 tokens, not 0"):
        actor("algo=fspo", f"{ACTOR}.policy_loss.reference_length=0")
    with pytest.raises(InstantiationException, match="nope"):
        actor("algo=fspo", f"+{ACTOR}.policy_loss.nope=1")


# The algorithms' table, written down again: verl's loss, its aggregation, the own range; then the range at each clip=.
TABLE = {
    "dr_grpo": ("vanilla", "seq-mean-token-sum-norm", (0.2, 0.2)),
    "dapo_loss": ("vanilla", "token-mean", (0.2, 0.28)),
    "gmpo": ("geo_mean", "seq-mean-token-mean", (0.4, 0.4)),
    "sapo": ("sapo", "seq-mean-token-mean", (1.0, 1e9)),
    "cispo": ("cispo", "token-mean", (1.0, 0.2)),
    "fspo": ("fspo", "seq-mean-token-sum", None),
}
REFUSED = {
    ("sapo", "shared"): r"sapo has no clip range, so clip=shared",
    ("sapo", "symmetric"): r"sapo has no clip range, so clip=symmetric",
    ("cispo", "shared"): r"from above only, .*clip_ratio_low=0.003 \(clip=shared\)",
    ("cispo", "symmetric"): r"from above only, .*clip_ratio_low=0.6 \(clip=symmetric\)",
    ("fspo", "own"): r"fspo has no clip=own",
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return {
        "actor_rollout_ref.model.path": write_model(tmp_path / "model"),
        "data.train_files": write_data(tmp_path / "train.parquet", list(range(32))),
        "data.val_files": write_data(tmp_path / "heldout.parquet", list(range(100, 104))),
    }


# dr_grpo and dapo_loss clip as grpo does, whose ranges are tested with the configuration.
CELLS = [("dr_grpo", "preset"), ("dapo_loss", "preset")] + [
    (algo, choice)
    for algo in ("gmpo", "sapo", "cispo", "fspo")
    for choice in ("preset", "own", "luspo", "shared", "symmetric")
]


@pytest.mark.parametrize(("algo", "choice"), CELLS)
def test_a_clip_range_means_what_it_says_or_is_refused(
    flat: Callable[..., dict[str, Any]], files: dict[str, str], algo: str, choice: str
) -> None:
    from harness.config import ConfigError
    from harness.doctor.rules import check

    config = {**flat(f"algo={algo}", f"clip={choice}"), **files}
    mode, aggregation, own = TABLE[algo]
    assert (config[f"{ACTOR}.policy_loss.loss_mode"], config[f"{ACTOR}.loss_agg_mode"]) == (mode, aggregation)
    assert config["algorithm.norm_adv_by_std_in_grpo"] is (algo != "dr_grpo")
    if (algo, choice) in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[algo, choice]) as error:
            check(config)
        assert "\n" not in str(error.value)
        return
    assert all("shared" in warning for warning in check(config))
    expected = {"shared": TINY, "luspo": own or (2e-3, 2.5e-3)}.get(choice, own or TINY)
    if choice == "symmetric":
        expected = (sum(expected) / 2,) * 2
    assert (config[f"{ACTOR}.clip_ratio_low"], config[f"{ACTOR}.clip_ratio_high"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("algo", "changes", "words"),
    [
        ("gmpo", {"use_dynamic_bsz": True}, "geo_mean .*use_dynamic_bsz=true"),
        ("gmpo", {"ppo_micro_batch_size_per_gpu": 8}, "geo_mean .* 4 times .*ppo_micro_batch_size_per_gpu=32"),
        (
            "gmpo",
            {"loss_agg_mode": "seq-mean-token-sum"},
            "geo_mean with .*=seq-mean-token-sum is another loss, or verl ignores the key",
        ),
        (
            "sapo",
            {"loss_agg_mode": "token-mean"},
            "sapo with .*=token-mean is another loss, or .*; set it to seq-mean-token-mean",
        ),
        ("sapo", {"policy_loss.tau_pos": 2.0}, r"sapo reads .*actor\.tau_pos and"),
        ("cispo", {"clip_ratio_low": 0.2}, "cispo .*clip_ratio_low=0.2 .*value of 1"),
        ("dr_grpo", {"loss_scale_factor": None}, "loss_scale_factor must be a number of tokens"),
        ("dr_grpo", {"loss_scale_factor": 0}, "loss_scale_factor must be a number of tokens"),
    ],
)
def test_a_setting_that_a_loss_would_ignore_is_refused(
    flat: Callable[..., dict[str, Any]], files: dict[str, str], algo: str, changes: dict[str, Any], words: str
) -> None:
    from harness.config import ConfigError
    from harness.doctor.rules import check

    config = {**flat(f"algo={algo}"), **files}
    assert check(config) == []
    with pytest.raises(ConfigError, match=words) as error:
        check({**config, **{f"{ACTOR}.{name}": value for name, value in changes.items()}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("algo", "short", "long"),
    [  # |A| = 1, responses of 3 and 12 tokens, 15 in the batch
        ("dr_grpo", 3 / 2 / LONGEST, 12 / 2 / LONGEST),
        ("dapo_loss", 3 / 15, 12 / 15),
        ("gmpo", 1 / 2, 1 / 2),
        ("sapo", 1 / 2, 1 / 2),
        ("cispo", 3 / 15, 12 / 15),
        ("fspo", 3 / 2, 12 / 2),
    ],
)
def test_the_probe_measures_the_formulas_pull(actor: Callable[..., Any], algo: str, short: float, long: float) -> None:
    from harness.plugin import probe

    assert probe.gradient_weights(actor(f"algo={algo}")) == pytest.approx([short, long], rel=1e-5)
    probe.check(actor(f"algo={algo}"))


def columns(algo: str, row: Any) -> dict[str, float]:
    """The recorded columns that depend on the algorithm, of a response in plain floats."""
    a, n = row.advantage, row.tokens
    r = ratios(row.new, row.old)
    if algo == "fspo":
        r = [math.prod(r)] * n
        low, high = (math.exp(sign * width * math.sqrt(REFERENCE * n)) for sign, width in ((-1, TINY[0]), (1, TINY[1])))
    else:
        low, high = {
            "dr_grpo": (0.8, 1.2),
            "dapo_loss": (0.8, 1.28),
            "gmpo": (math.exp(-0.4), math.exp(0.4)),
            "sapo": (math.nan, math.nan),
            "cispo": (0.0, 1.2),
        }[algo]
    clipped = [algo != "cispo" and ((a > 0 and x > high) or (a < 0 and x < low)) for x in r]
    factor = [0.0 if out else x for x, out in zip(r, clipped, strict=True)]
    if algo == "gmpo" and a:
        kept = [clip(x, 0, high) if a > 0 else max(x, low) for x in r]
        factor = [0.0 if out else math.prod(kept) ** (1 / n) for out in clipped]
    if algo == "cispo" and a:
        factor = [min(x, high) for x in r]
    if algo == "sapo" and a:
        tau = 1.0 if a > 0 else 1.05
        gate = [1 / (1 + math.exp(-tau * (x - 1))) for x in r]
        factor = [4 * g * (1 - g) * x for g, x in zip(gate, r, strict=True)]
    tokens = sum(other.tokens for other in make_rows(WIDE[algo]))
    weight = {
        "dr_grpo": 1 / LONGEST / GLOBAL_BATCH,
        "dapo_loss": 1 / tokens,
        "gmpo": 1 / n / 8,  # rows of the micro-batch
        "sapo": 1 / n / GLOBAL_BATCH,
        "cispo": 1 / tokens,
        "fspo": 1 / GLOBAL_BATCH,
    }[algo]
    return {
        "out_of_range_low": math.nan if algo == "sapo" else sum(x < low for x in r),
        "out_of_range_high": math.nan if algo == "sapo" else sum(x > high for x in r),
        "clipped": sum(clipped),
        "effective_ratio": sum(factor) / n,
        "gradient_weight": weight * abs(a) * sum(factor),
    }


@pytest.mark.parametrize("dp_size", [1, 2])
@pytest.mark.parametrize("algo", WIDE)
def test_recorded_columns_mean_the_same_for_every_loss(actor: Callable[..., Any], algo: str, dp_size: int) -> None:
    rows = make_rows(WIDE[algo])
    recorded = record(actor(f"algo={algo}"), rows, dp_size)
    assert [recorded[-1][name] for name in ("tokens", "clipped", "effective_ratio", "gradient_weight")] == [0] * 4, (
        "padding"
    )
    seen: dict[str, float] = {}
    for row, got in zip(rows[:-1], recorded[:-1], strict=True):
        expected = columns(algo, row)
        if algo == "gmpo":  # verl averages each rank's rows, and ranks are averaged
            expected["gradient_weight"] /= dp_size
        assert {name: got[name] for name in expected} == {
            name: pytest.approx(value, rel=3e-5, abs=1e-8, nan_ok=True) for name, value in expected.items()
        }
        seen = {name: seen.get(name, 0) + value for name, value in expected.items()}
    never = {"cispo": {"out_of_range_low", "clipped"}, "sapo": {"clipped"}}.get(algo, set())
    assert {name for name, value in seen.items() if value == 0} == never, "the rows must test every column"


@pytest.mark.parametrize("algo", ["sapo", "cispo"])
def test_metrics_that_do_not_exist_for_a_loss_are_missing(actor: Callable[..., Any], algo: str) -> None:
    from harness.losses.registry import spec_of
    from harness.plugin.metrics import frame, step_metrics

    rows = record(actor(f"algo={algo}"), make_rows("token"))
    metrics = step_metrics(frame(rows * 2, step=1, rows_per_update=len(rows)), spec_of(algo))
    found = {name for name in metrics if name.startswith(("clip_", "out_of_range_"))}
    assert found == ({"out_of_range_low_frac", "out_of_range_high_frac"} if algo == "cispo" else set())
    assert "onpolicy_log_ratio_rms" in metrics


def test_on_policy_the_losses_differ_by_the_weight_of_length_alone(actor: Callable[..., Any]) -> None:
    batch = ragged_batch("token")
    batch = Batch(batch.old, batch.old.clone(), batch.advantages, batch.mask)
    for algo in RATIO:
        _, gradient, _ = installed(actor(f"algo={algo}"), batch, len(LENGTHS))
        for row, (length, a) in enumerate(zip(LENGTHS, ADVANTAGES, strict=True)):
            weight = {"tokens": 1 / sum(LENGTHS), "rows": 1 / 12 / max(length, 1), "responses": 1 / 12}[DIVISOR[algo]]
            weight /= length if algo == "sapo" and length else 1
            assert gradient[row].tolist() == pytest.approx([-a * weight] * length + [0.0] * (WIDTH - length), rel=2e-8)
