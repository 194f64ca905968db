r"""Where in a response the answer stands: the last ``\boxed{...}`` or ``Answer:``. Linear in the text, never raises."""

import re
from itertools import pairwise
from typing import NamedTuple

OPEN, CLOSE = "<answer>", "</answer>"
# An escaped brace, \{, is no brace; \\boxed is \boxed, escaped twice.
BRACES = re.compile(r"\\{1,2}boxed\s*\{|\\.|\{|\}", re.DOTALL)
ANSWER_LINE = re.compile(r"answer[\s*_]{0,9}[:\uff1a]", re.IGNORECASE)
# How the end of a response looks when it is decoded with its special tokens, in any family of models.
SPECIAL_TOKEN = re.compile(
    r"<\|\w{3,40}\|>|<\uff5c[^<>\uff5c]{3,40}\uff5c>|</?s>|<(?:eos|bos|pad|eot|eod|endoftext)>"
    r"|<(?:start|end)_of_(?:turn|utterance)>|\[/?INST\]|\[(?:EOS|SEP|PAD)\]",
    re.IGNORECASE,
)
SPACE = r"(?:\s|\$|~|\\[,;:! ()\[\]]|\\q?quad(?![A-Za-z])|\*|_)*"
AND = r"(?:,?\s*(?:and|or|&)|,|;|\\(?:text|mathrm)\s*\{\s*,?\s*(?:and|or|,|;)\s*\})"
NAME = r"(?:[A-Za-z](?:_(?:\w|\{\w+\}))?(?:\s?\(\w\))?\s*=)?"
LIST = re.compile(rf"{SPACE}{AND}{SPACE}{NAME}{SPACE}")  # what joins two boxes to one answer
PARTS = re.compile(r"[^.,!?:;=]*(?<![A-Za-z])and[\s}$]*")  # "\boxed{1} for part (a) and \boxed{2}"
MAX_BETWEEN = 60  # characters between two boxes that are one answer
MAX_BOXES = 50


class Box(NamedTuple):
    r"""The content of a ``\boxed{...}`` and where in the text the whole of it begins and ends."""

    content: str
    start: int
    end: int


def final_answer(response: str) -> str | None:
    """``final_answers`` as one text, a list with commas; None if there is none."""
    return ", ".join(final_answers(response)) or None


def final_answers(response: str) -> list[str]:
    r"""The answer of a response as text: one, none, or several where boxes are joined to a list.

    Where the response has an ``<answer>...</answer>``, only what is inside the last one counts, else all of it. There,
    the last ``\boxed{...}``, else the line after the last ``Answer:`` (in any case, asterisks around it dropped) up to
    an end-of-sequence token. Boxes with only "and", "or" or a comma between them are a list.
    """
    text = _scope(response)
    found = last_boxes(text)
    if found:
        return found
    lines = list(ANSWER_LINE.finditer(text))
    if not lines:
        return []
    rest = SPECIAL_TOKEN.split(text[lines[-1].end() :], maxsplit=1)[0].lstrip(" \t\r\n*_}")
    for left, right in (("$$", "$$"), (r"\[", r"\]")):  # formulae on lines of their own
        if rest.startswith(left) and right in rest[2:]:
            return [rest[2 : rest.index(right, 2)].strip()]
    first = rest.split("\n", 1)[0].strip(" \t\r*_")
    if first.endswith("}") and first.count("{") < first.count("}"):  # \textbf{Answer: 5}
        first = first[:-1]
    return [first] if first else []


def last_box(text: str) -> Box | None:
    r"""The ``\boxed{...}`` with balanced braces that begins last; of one in another that is the inner one."""
    found = boxes(text)
    return found[-1] if found else None


def boxes(text: str) -> list[Box]:
    r"""Every ``\boxed{...}`` with balanced braces that has no other in it, in their order."""
    found: list[Box] = []
    opened: list[tuple[int, int] | None] = []  # (start, start of the content) of a box, None of another brace
    for match in BRACES.finditer(text):
        token = match[0]
        if token == "{":
            opened.append(None)
        elif token == "}":
            box = opened.pop() if opened else None
            if box and (not found or box[0] > found[-1].start):
                found.append(Box(text[box[1] : match.start()], box[0], match.end()))
        elif token.endswith("{") and token != r"\{":
            opened.append((match.start(), match.end()))
    return found


def last_boxes(text: str) -> list[str]:
    r"""What is in the last box, and in those before it that belong to the same list: ``\boxed{1} and \boxed{2}``."""
    found = boxes(text)[: -MAX_BOXES - 1 : -1]
    contents = [box.content for box in found[:1]]
    for right, left in pairwise(found):
        between = text[left.end : min(right.start, left.end + MAX_BETWEEN + 1)]
        if len(between) > MAX_BETWEEN or not (LIST.fullmatch(between) or PARTS.fullmatch(between)):
            break
        contents.append(left.content)
    return list(dict.fromkeys(reversed(contents)))


def without_boxes(text: str) -> str:
    r"""A ground truth: what is in its boxes, or all of it. Raises ValueError if different boxes stand far apart."""
    found = boxes(text)
    if not found:
        return text
    contents = dict.fromkeys(box.content for box in found)
    if len(contents) > 1 and any(right.start - left.end > MAX_BETWEEN for left, right in pairwise(found)):
        raise ValueError(f"a ground truth with {len(contents)} different boxes; give the answer alone")
    return ", ".join(contents)


def _scope(response: str) -> str:
    end = response.rfind(CLOSE)
    start = response.rfind(OPEN, 0, max(end, 0))
    return response[start + len(OPEN) : end] if end >= 0 and start >= 0 else response
