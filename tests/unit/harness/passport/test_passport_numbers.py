"""What the probes measure, against numbers worked out by hand."""

import math
from pathlib import Path

import pytest
import torch

from harness.passport import clipping, weighting
from harness.passport.adapters import find
from harness.passport.formulas import FORMULAS, Parameters
from harness.passport.update import Batch, gradient
from harness.passport.weighting import LENGTHS

HEAD = """import torch
def loss(log_prob, old_log_prob, advantages, response_mask, power=1.0):
    n = response_mask.sum(-1).double()
"""


def test_gradients_of_gspo_and_grpo_are_the_derivatives_by_hand() -> None:
    """Two responses of 2 and 3 tokens, ratios inside and outside the range."""
    ratios = torch.tensor([[0.02, 0.04, 0.0], [0.5, -0.1, 0.2]], dtype=torch.float64)
    batch = Batch((2, 3), (1.5, 1.0), log_ratio=ratios)
    p = Parameters(0.9, 1.1)
    s = math.exp(0.03)  # the first response's mean; the second's is 0.2, above log 1.1
    gspo = gradient(FORMULAS["gspo"].at(p), batch)
    assert gspo.flatten().tolist() == pytest.approx([-1.5 * s / 2 / 2] * 2 + [0] * 4, abs=1e-15)
    luspo = gradient(FORMULAS["luspo"].at(p), batch)
    assert luspo.flatten().tolist() == pytest.approx([-1.5 * s / 2] * 2 + [0] * 4, abs=1e-15)
    grpo = gradient(FORMULAS["grpo"].at(p), batch)
    by_hand = [-1.5 * math.exp(0.02) / 4, -1.5 * math.exp(0.04) / 4, 0, 0, -math.exp(-0.1) / 6, 0]
    assert grpo.flatten().tolist() == pytest.approx(by_hand, abs=1e-15)


@pytest.mark.parametrize("power", [-1, 0, 0.5, 1, 2])
def test_a_power_of_the_length_that_was_put_in_is_found(tmp_path: Path, power: float) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD + "    return -(log_prob * advantages * response_mask / (n / n**power)[:, None]).sum() / len(n)\n"
    )
    found = weighting.measure(find(f"{file}:loss,power={power}"))
    assert found.power == power
    assert found.weights == pytest.approx([(n / LENGTHS[0]) ** power for n in LENGTHS])
    assert (found.divisor, found.constant) == ("responses", pytest.approx(1))


def test_a_weight_that_is_no_power_is_none(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + "    return -(log_prob * advantages * response_mask / (n + 5)[:, None]).sum()\n")
    assert weighting.measure(find(f"{file}:loss")).power is None


@pytest.mark.parametrize(
    ("divisor", "said", "constant"),
    [
        ("len(n) * 70", "responses", 70), ("n.sum()", "tokens", 1), ("3", "1", 3),
        ("response_mask.numel()", "responses * width", 1), ("len(n) ** 2", "unknown", None),
    ],
)  # fmt: skip
def test_divisor(tmp_path: Path, divisor: str, said: str, constant: float | None) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD + f"    return -(log_prob * advantages * response_mask).sum() / ({divisor})\n")
    found = weighting.measure(find(f"{file}:loss"))
    assert found.divisor == said
    assert found.constant == (constant if constant is None else pytest.approx(constant))


def test_a_dual_clip_and_both_ranges_are_found_to_many_digits(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD + "    r = (log_prob - old_log_prob).exp()\n"
        "    terms = torch.minimum(r * advantages, r.clamp(0.85, 1.33) * advantages)\n"
        "    terms = torch.where(advantages < 0, torch.maximum(terms, 2.5 * advantages), terms)\n"
        "    return -(terms * response_mask).sum() / n.sum()\n"
    )
    sides = clipping.measure(find(f"{file}:loss")).sides
    bounds = {key: side.bound for key, side in sides.items() if side.kind == "zero"}
    expected = {("positive", "up"): 1.33, ("negative", "down"): 0.85, ("negative", "up"): 2.5}
    assert bounds == pytest.approx(expected, rel=1e-6)
    assert {side.unit for side in sides.values() if side.kind == "zero"} == {"token"}
    assert sides["positive", "down"].kind == "ratio"


def test_what_a_sequence_and_a_token_lose() -> None:
    """GMPO takes its ratio over the sequence and clips by token; FSPO's band per token narrows as |y|^-0.5."""
    found = {key: clipping.measure(FORMULAS[key]) for key in ("gspo", "gmpo", "fspo", "cispo")}
    side = {key: one.sides["positive", "up"] for key, one in found.items()}
    assert {key: one.level for key, one in found.items()} == {
        "gspo": "sequence mean", "gmpo": "sequence mean", "fspo": "sequence sum", "cispo": "token",
    }  # fmt: skip
    assert (side["gspo"].unit, side["gmpo"].unit, side["fspo"].unit) == ("sequence", "token", "sequence")
    assert side["fspo"].growth == -0.5
    assert side["fspo"].bound == pytest.approx(math.exp(0.25 / math.sqrt(12)), rel=1e-6)
    assert (side["cispo"].kind, side["cispo"].bound) == ("constant", pytest.approx(1.28))


def test_others_and_padding_width(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD + "    a = advantages - advantages.mean()\n    return -(log_prob * a * response_mask).mean()\n"
    )
    with pytest.raises(Exception, match="gradient is 0 for every response"):
        weighting.measure(find(f"{file}:loss"))
    file.write_text(HEAD + "    return -(log_prob * advantages * response_mask).sum() / response_mask.numel() ** 0.5\n")
    found = weighting.measure(find(f"{file}:loss"))
    assert found.padding_factor == pytest.approx(2**-0.5)
    assert found.others == ()
    assert weighting.measure(FORMULAS["dapo"]).others == ("lengths",)
