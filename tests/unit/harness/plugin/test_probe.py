"""The start-up probe: it accepts every algorithm of conf/ and refuses a loss that weights length otherwise."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
ALGOS = sorted(path.stem for path in (ROOT / "conf" / "algo").glob("*.yaml"))
SHORT, LONG = 3, 12
AGGREGATION = "actor_rollout_ref.actor.loss_agg_mode"


def with_aggregation(mode: str) -> Callable[..., Any]:
    """A registered loss that computes verl's gspo with ``mode`` whatever its configuration asks for."""

    def loss(**arguments: Any) -> Any:
        from verl.trainer.ppo.core_algos import compute_policy_loss_gspo

        return compute_policy_loss_gspo(**{**arguments, "loss_agg_mode": mode})

    return loss


@pytest.fixture
def patch_loss(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    """Put another function under a name of verl's registry, for the time of a test."""
    from verl.trainer.ppo import core_algos

    from harness.losses.registry import register_losses

    register_losses()

    return lambda name, loss: monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, name, loss)


@pytest.mark.parametrize("algo", ALGOS)
def test_accepts_every_algorithm_of_the_configuration(actor: Callable[..., Any], algo: str) -> None:
    from harness.plugin import probe

    probe.check(actor(f"algo={algo}"))


@pytest.mark.parametrize(
    ("algo", "short", "long"),
    [
        # |A| = 1, two responses: 1/2 for each response, times |y| for the sums, over the constant 16.
        ("grpo", 1 / 2, 1 / 2),
        ("grpo_sum", SHORT / 2, LONG / 2),
        ("gspo", 1 / 2, 1 / 2),
        ("luspo", SHORT / 2, LONG / 2),
        ("luspo_norm", SHORT / 32, LONG / 32),
    ],
)
def test_measured_weight_is_the_formula(actor: Callable[..., Any], algo: str, short: float, long: float) -> None:
    from harness.plugin import probe

    assert probe.gradient_weights(actor(f"algo={algo}")) == pytest.approx([short, long], rel=1e-5)


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_refuses_gspo_that_is_not_averaged_over_length(actor: Callable[..., Any], mode: str) -> None:
    from harness.plugin import probe

    with pytest.raises(probe.ProbeError, match=rf"gspo with loss_agg_mode={mode} .* 4 times .* means 1 times"):
        probe.check(actor("algo=gspo", f"{AGGREGATION}={mode}"))


@pytest.mark.parametrize("algo", ["luspo", "luspo_norm"])
def test_refuses_luspo_that_averages(
    actor: Callable[..., Any], patch_loss: Callable[[str, Callable[..., Any]], None], algo: str
) -> None:
    from harness.plugin import probe

    patch_loss("luspo", with_aggregation("seq-mean-token-mean"))
    with pytest.raises(probe.ProbeError, match=r"luspo with loss_agg_mode=seq-mean-token-sum.* 1 times .* 4 times"):
        probe.check(actor(f"algo={algo}"))


def test_refuses_an_installed_gspo_that_ignores_its_aggregation(
    actor: Callable[..., Any], patch_loss: Callable[[str, Callable[..., Any]], None]
) -> None:
    from harness.plugin import probe

    patch_loss("gspo", with_aggregation("token-mean"))
    with pytest.raises(probe.ProbeError, match="gspo with loss_agg_mode=seq-mean-token-mean"):
        probe.check(actor("algo=gspo"))


@pytest.mark.parametrize(("algo", "other"), [("grpo", "seq-mean-token-sum"), ("grpo_sum", "seq-mean-token-mean")])
def test_refuses_a_token_level_loss_that_ignores_its_aggregation(
    actor: Callable[..., Any], patch_loss: Callable[[str, Callable[..., Any]], None], algo: str, other: str
) -> None:
    from harness.plugin import probe

    patch_loss("vanilla", with_aggregation(other))
    with pytest.raises(probe.ProbeError, match="vanilla with loss_agg_mode="):
        probe.check(actor(f"algo={algo}"))


@pytest.mark.parametrize("algo", ALGOS)
def test_a_refusal_names_only_configuration_files_that_exist(
    actor: Callable[..., Any], patch_loss: Callable[[str, Callable[..., Any]], None], algo: str
) -> None:
    from harness.plugin import probe

    config = actor(f"algo={algo}")
    averaged = config.loss_agg_mode == "seq-mean-token-mean"
    patch_loss(config.policy_loss.loss_mode, with_aggregation("token-sum" if averaged else "seq-mean-token-mean"))
    with pytest.raises(probe.ProbeError) as refused:
        probe.check(config)
    assert all((ROOT / name).exists() for name in re.findall(r"conf/\S+\.yaml", str(refused.value)))


def test_refuses_a_loss_without_any_gradient(
    actor: Callable[..., Any], patch_loss: Callable[[str, Callable[..., Any]], None]
) -> None:
    from harness.plugin import probe

    patch_loss("gspo", lambda log_prob, **_: (0.0 * log_prob.sum(), {}))
    with pytest.raises(probe.ProbeError, match="gspo with loss_agg_mode=seq-mean-token-mean"):
        probe.check(actor("algo=gspo"))


def test_leaves_the_configuration_as_it_was(actor: Callable[..., Any]) -> None:
    from harness.plugin import probe

    config = actor("algo=luspo")
    config.global_batch_info.update(dp_size=4, batch_num_tokens=123, global_batch_size=64)
    before = dict(config.global_batch_info)
    probe.check(config)
    assert dict(config.global_batch_info) == before
