r"""The parts of a reward that are no verdict: format and length (arXiv 2602.05261, section 5).

accuracy {0, 1} + format {0, 0.5} + overlong min(0, ((L_max - L_buffer) - |y|) / L_buffer * 0.3)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import ConfigError
from harness.grading.extraction import CLOSE, OPEN, last_box

FORMAT_REWARD = 0.5
OVERLONG_WEIGHT = 0.3
TAGS = ("<think>", "</think>", OPEN, CLOSE)
KNOWN = ("accuracy", "format", "overlong")


@dataclass(frozen=True)
class Response:
    """What a part may look at: the text without EOS, the number of tokens with it, and whether EOS came."""

    text: str
    tokens: int
    finished: bool


Part = Callable[[Response], float]


def build(names: Sequence[str], overlong: Mapping[str, Any] | None) -> dict[str, Part]:
    """The parts of ``names`` besides accuracy, which is the grader's, as functions of a response.

    ``overlong`` is {limit, buffer}, tokens, and needed where that part is named. Raises ``ConfigError``.
    """
    where = "reward.reward_kwargs"
    unknown = [name for name in names if name not in KNOWN]
    if unknown or len(set(names)) < len(names) or "accuracy" not in names:
        raise ConfigError(f"{where}.parts={list(names)}: accuracy and any of {', '.join(KNOWN[1:])}, each once")
    parts: dict[str, Part] = {}
    if "format" in names:
        parts["format"] = format_reward
    if "overlong" in names:
        limit, buffer = ((overlong or {}).get(key) for key in ("limit", "buffer"))
        if not isinstance(limit, int) or not isinstance(buffer, int) or not 0 < buffer <= limit:
            raise ConfigError(f"{where}.overlong={{limit: {limit}, buffer: {buffer}}}: tokens, 0 < buffer <= limit")
        parts["overlong"] = lambda response: overlong_penalty(response.tokens, limit, buffer)
    return parts


def overlong_penalty(tokens: int, limit: int, buffer: int) -> float:
    """0 up to ``limit`` - ``buffer`` tokens, then falling linearly to -0.3 at ``limit``."""
    return min(0.0, ((limit - buffer) - tokens) / buffer * OVERLONG_WEIGHT)


def format_reward(response: Response) -> float:
    r"""0.5 for ``<think>reasoning</think><answer>... \boxed{$LaTeX$} ...</answer>`` and EOS, else 0.

    Each tag once and in this order, nothing but white space outside of them, something inside; the dollars stand in
    the box or directly around it (``$\boxed{LaTeX}$``): the paper's wording allows both.
    """
    text = response.text.strip()
    if not response.finished or any(text.count(tag) != 1 for tag in TAGS):
        return 0.0
    if not (text.startswith("<think>") and text.endswith(CLOSE)):
        return 0.0
    reasoning, _, rest = text.removeprefix("<think>").partition("</think>")
    between, _, answer = rest.removesuffix(CLOSE).partition(OPEN)
    kept = bool(reasoning.strip()) and not between.strip() and _boxed_latex(answer)
    return FORMAT_REWARD if kept else 0.0


def _boxed_latex(answer: str) -> bool:
    box = last_box(answer)
    if box is None:
        return False
    content = box.content.strip()
    before, after = answer[: box.start].rstrip(), answer[box.end :].lstrip()
    if len(content) > 2 and content[0] == content[-1] == "$":
        content = content.strip("$")
    elif not (before.endswith("$") and after.startswith("$")):
        return False
    return bool(content.strip())
