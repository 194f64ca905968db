"""Rows of the source files as questions: instruction and box taken off, duplicates and unusable rows left out."""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config import ConfigError
from harness.grading.extraction import boxes as all_boxes
from harness.grading.extraction import last_boxes
from harness.tasks.hub import prompts
from harness.tasks.hub.images import BLANK, Pictures
from harness.tasks.hub.sources import Source, at, rows
from harness.tasks.hub.table import DataSet, HubFile, Layout, Part

IMAGE, *OTHER_MEDIA = prompts.MEDIA


@dataclass(frozen=True)
class Question:
    """One question of a data set. text: without instruction, ``<image>`` where an image belongs."""

    data_source: str
    row_id: str
    text: str
    answer: str
    images: tuple[str, ...] = ()


@dataclass
class Counts:
    """Of one part: read = kept + duplicates + the sum of dropped."""

    read: int = 0
    duplicates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    image_words_added: int = 0  # kept questions that lacked <image> and got it in front
    blank_images: int = 0

    def card(self) -> dict[str, Any]:
        """For the data card."""
        return {**vars(self), "dropped": dict(sorted(self.dropped.items()))}


class UnusableError(Exception):
    """A row that is left out; the message, up to a colon if there is one, is the reason that is counted."""


class InvalidRowError(UnusableError):
    """A row that is damaged: no answer, no such image."""


def collect(
    data_set: DataSet, files: dict[HubFile, Source], pictures: Mapping[str, Pictures], drop_invalid: bool = False
) -> tuple[list[Question], dict[str, Counts]]:
    """The different questions of all parts in the order of their first rows, and the counts of each part.

    Two rows are duplicates if their questions are the same up to white space and Unicode composition, with the same
    images in the same order (CRC-32 and size), and have the same answer; of a question with several answers no row is
    kept. Only different questions are held in memory, without images. A faulty row raises ``ConfigError``, or is
    dropped if ``drop_invalid``. ``pictures``: by name of the part.
    """
    questions: list[Question] = []
    counts = {part.name: Counts() for part in data_set.parts}
    for part in data_set.parts:
        found = _different(part, files[part.rows].path, pictures.get(part.name), counts[part.name], drop_invalid)
        questions += [_with_images(question, data_set.blank_image, counts[part.name]) for question in found]
        if not found:
            raise ConfigError(f"{files[part.rows].path}: no usable question; {counts[part.name].card()}")
    return questions, counts


def _different(part: Part, path: Path, pictures: Pictures | None, counts: Counts, drop_invalid: bool) -> list[Question]:
    instruction = prompts.load(part.layout.instruction) if part.layout.instruction else None
    seen: set[tuple[Any, ...]] = set()
    # question and identities of its images -> answer -> question
    groups: dict[tuple[Any, ...], dict[str, Question]] = {}
    for number, row in enumerate(rows(path, part.layout)):
        counts.read += 1
        raw = _raw(row, part.layout)
        if raw in seen:  # before any work: the DAPO file has each row a hundred times
            counts.duplicates += 1
            continue
        seen.add(raw)
        content, answer, images = raw
        try:
            identities = tuple(_identity(pictures, name) for name in images)
            text, answer = _text(content, instruction, len(images)), final_answer(answer)
        except UnusableError as error:
            if isinstance(error, InvalidRowError) and not drop_invalid:
                raise ConfigError(
                    f"{path}: row {number} (from 0) has {error}; mend it, or leave such rows out with --drop-invalid"
                ) from None
            counts.dropped[str(error).partition(":")[0]] += 1
            continue
        answers = groups.setdefault((same(text), identities), {})
        if answer in answers:
            counts.duplicates += 1
        else:
            answers[answer] = Question(part.name, str(at(row, part.layout.row_id)), text, answer, images)
    several = sum(len(answers) for answers in groups.values() if len(answers) > 1)
    if several:
        counts.dropped["several answers to one question"] = several
    kept = [question for answers in groups.values() if len(answers) == 1 for question in answers.values()]
    counts.kept = len(kept)
    return kept


def _raw(row: dict[str, Any], layout: Layout) -> tuple[Any, Any, tuple[str, ...]]:
    """Question, answer and names of the images as they are; None for a question or answer that is no plain value."""
    content, answer = (
        value if isinstance(value, str | int | float) else None
        for value in (at(row, layout.question), at(row, layout.answer))
    )
    images = at(row, layout.images) if layout.images else None
    names = images if isinstance(images, list) else [images] if images else []
    return content, answer, tuple(map(str, names))


def _text(content: Any, instruction: prompts.Prompt | None, images: int) -> str:
    """The question without its instruction, if verl can put ``images`` images into it."""
    text = content
    if instruction and isinstance(text, str):
        text = instruction.question(text)
        if text is None:
            raise UnusableError(f"not the instruction {instruction.key} around the question")
    if not isinstance(text, str) or not text.strip():
        raise InvalidRowError("no question")
    if text.count(IMAGE) not in (0, images):
        raise UnusableError("more or fewer <image> than images")
    if any(word in text for word in OTHER_MEDIA):
        raise UnusableError("<video> or <audio> in the question")
    return text.strip()


def _identity(pictures: Pictures | None, name: str) -> tuple[int, int]:
    identity = pictures.identity(name) if pictures else None
    if pictures is None or identity is None:
        raise InvalidRowError(f"an image that the zip file lacks: {name}")
    if not pictures.decodes(name):
        raise InvalidRowError(f"an image that does not decode: {name}")
    return identity


def _with_images(question: Question, blank_image: bool, counts: Counts) -> Question:
    names = question.images
    if not names and blank_image:
        names = (BLANK,)
        counts.blank_images += 1
    elif names and IMAGE not in question.text:
        counts.image_words_added += 1
    text = question.text if IMAGE in question.text else IMAGE * len(names) + question.text
    return Question(question.data_source, question.row_id, text, question.answer, names)


def same(text: str) -> str:
    """What two texts have in common that differ in white space and Unicode composition only; case and signs count."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def final_answer(value: Any) -> str:
    """What is in the last ``\\boxed{...}`` of an answer, or list of them, or all of it; raises ``InvalidRowError``."""
    text = "" if value is None else str(value)
    boxes = last_boxes(text)
    every = {box.content for box in all_boxes(text)}
    if len(every) > len(boxes):
        raise InvalidRowError(f"an answer of {len(every)} different boxes; which of them is meant is not known")
    if not boxes and "\\boxed" in text:
        raise InvalidRowError("an answer whose box does not close")
    answer = (", ".join(boxes) if boxes else text).strip()
    if not answer:
        raise InvalidRowError("no answer")
    return answer
