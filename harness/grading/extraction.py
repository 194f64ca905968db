r"""Where in a response the answer stands: the last ``\boxed{...}`` or ``Answer:``. Linear in the text, never raises."""

import re
from typing import NamedTuple

OPEN, CLOSE = "<answer>", "</answer>"
BRACES = re.compile(r"\\boxed\s*\{|\\.|\{|\}", re.DOTALL)  # an escaped brace, \{, is no brace
ANSWER_LINE = re.compile(r"answer\s*:", re.IGNORECASE)
SPECIAL_TOKEN = re.compile(r"<\||</s>|<eos>")  # how the end of a response looks when decoded


class Box(NamedTuple):
    r"""The content of a ``\boxed{...}`` and where in the text the whole of it begins and ends."""

    content: str
    start: int
    end: int


def final_answer(response: str) -> str | None:
    r"""The answer of a response as text, None if there is none.

    Where the response has an ``<answer>...</answer>``, only what is inside the last one counts, else all of it. There,
    the last ``\boxed{...}``, else the line after the last ``Answer:`` (in any case, asterisks around it dropped).
    """
    text = _scope(response)
    box = last_box(text)
    if box:
        return box.content
    lines = list(ANSWER_LINE.finditer(text))
    if not lines:
        return None
    rest = SPECIAL_TOKEN.split(text[lines[-1].end() :], maxsplit=1)[0]
    first = rest.strip(" \t\r\n*").split("\n", 1)[0].strip(" \t\r*")
    return first or None


def last_box(text: str) -> Box | None:
    r"""The ``\boxed{...}`` with balanced braces that begins last; of one in another that is the inner one."""
    found: Box | None = None
    opened: list[tuple[int, int] | None] = []  # (start, start of the content) of a box, None of another brace
    for match in BRACES.finditer(text):
        token = match[0]
        if token == "{":
            opened.append(None)
        elif token == "}":
            box = opened.pop() if opened else None
            if box and (found is None or box[0] > found.start):
                found = Box(text[box[1] : match.start()], box[0], match.end())
        elif token.endswith("{") and token != r"\{":
            opened.append((match.start(), match.end()))
    return found


def _scope(response: str) -> str:
    end = response.rfind(CLOSE)
    start = response.rfind(OPEN, 0, max(end, 0))
    return response[start + len(OPEN) : end] if end >= 0 and start >= 0 else response
