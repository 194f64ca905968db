"""The paper's parts against values worked out by hand."""

import pytest

from harness.config import ConfigError, compose, flatten
from harness.grading import components
from harness.grading.components import Response, format_reward, overlong_penalty

GOOD = r"<think>one and one</think><answer>\boxed{$2$}</answer>"
KEPT = [
    GOOD,
    f"  {GOOD}\n",
    "<think>\na\n</think>\n\n<answer>\nThe sum is $\\boxed{\\frac{1}{2}}$.\n</answer>",
    r"<think>first \boxed{3}?</think><answer>\boxed{ $\{1, 2\}$ }</answer>",
]
BROKEN = {
    "no dollars": r"<think>a</think><answer>\boxed{2}</answer>",
    "one dollar": r"<think>a</think><answer>\boxed{$2}</answer>",
    "nothing between the dollars": r"<think>a</think><answer>\boxed{$ $}</answer>",
    "empty box": r"<think>a</think><answer>$\boxed{}$</answer>",
    "no box": "<think>a</think><answer>$2$</answer>",
    "box not closed": r"<think>a</think><answer>\boxed{$2$</answer>",
    "box in the reasoning only": r"<think>\boxed{$2$}</think><answer>2</answer>",
    "no reasoning": r"<think> </think><answer>\boxed{$2$}</answer>",
    "no think": r"<answer>\boxed{$2$}</answer>",
    "text before": "So " + GOOD,
    "text after": GOOD + " done",
    "text between": r"<think>a</think> so <answer>\boxed{$2$}</answer>",
    "answer first": r"<answer>\boxed{$2$}</answer><think>a</think>",
    "nested": r"<think>a<answer>\boxed{$2$}</answer></think>",
    "crossed": r"<think>a<answer></think>\boxed{$2$}</answer>",
    "twice": GOOD + GOOD,
    "empty": "",
}


@pytest.mark.parametrize("text", KEPT)
def test_format_kept(text: str) -> None:
    assert format_reward(Response(text, 10, finished=True)) == 0.5
    assert format_reward(Response(text, 10, finished=False)) == 0.0  # cut off behind the last tag


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_format_broken(text: str) -> None:
    assert format_reward(Response(text, 10, finished=True)) == 0.0


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [(0, 0.0), (28672, 0.0), (28673, -0.3 / 4096), (30720, -0.15), (32768, -0.3), (34816, -0.45)],
)
def test_overlong_in_the_papers_setting(tokens: int, penalty: float) -> None:
    assert overlong_penalty(tokens, limit=32768, buffer=4096) == pytest.approx(penalty, abs=1e-12)


def test_build_takes_what_is_named() -> None:
    response = Response(GOOD, 4096, finished=True)
    assert components.build(["accuracy"], None) == {}
    built = components.build(["overlong", "accuracy", "format"], {"limit": 4096, "buffer": 512})
    assert {name: part(response) for name, part in built.items()} == {"format": 0.5, "overlong": pytest.approx(-0.3)}


@pytest.mark.parametrize(
    ("names", "overlong"),
    [
        ([], None),
        (["format"], None),
        (["accuracy", "accuracy"], None),
        (["accuracy", "lenght"], None),
        (["accuracy", "overlong"], None),
        (["accuracy", "overlong"], {"limit": 100}),
        (["accuracy", "overlong"], {"limit": 100, "buffer": "???"}),
        (["accuracy", "overlong"], {"limit": 100, "buffer": 0}),
        (["accuracy", "overlong"], {"limit": 100, "buffer": 101}),
    ],
)
def test_build_refuses(names: list[str], overlong: dict[str, int] | None) -> None:
    with pytest.raises(ConfigError, match=r"^reward\.reward_kwargs\.[^\n]+$"):
        components.build(names, overlong)


def test_the_configured_parts_build() -> None:
    expected = {"accuracy": set(), "accuracy_overlong": {"overlong"}, "paper": {"format", "overlong"}}
    for group, names in expected.items():
        flat = flatten(compose([f"+reward_components={group}", "data.max_response_length=4096"]))
        where = "reward.reward_kwargs"
        buffer = {"limit": flat.get(f"{where}.overlong.limit"), "buffer": 512}
        assert set(components.build(flat[f"{where}.parts"], buffer)) == names
        assert flat.get(f"{where}.overlong.limit", 4096) == 4096
        assert flat[f"{where}.grader"] == "harness.grading.mathematics.grade"
