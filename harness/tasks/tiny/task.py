"""The task ``tiny``, adding eight digits 0..3 at once or over one to three passes of running totals; ``tiny_neutral``.

Grammar, in words of one token each::

    prompt   := "a"DIGIT "b"DIGIT ... "h"DIGIT "="            as in  a3 b0 c2 d1 e3 f0 g2 h1 =
    response := [NUMBER FILLER{k}] answer | pass ("?" pass){0..2} answer
    pass     := (LETTER NUMBER) x 8                           NUMBER = the total so far
    answer   := "#" NUMBER EOS

``tiny`` has no filler. Its modes have 3, 19, 36 and 53 tokens, and the longer ones are more often right: what a loss
does to length there is mixed with what the reward asks for.

``tiny_neutral`` takes the second part away: the same prompts, answers and reward, but no passes. Every response says
its number, then a filler of k = 0, 8, 24 or 48 tokens (4, 12, 28 or 52 in all) with equal probability, independently of
whether the number is right, and then repeats the number as its answer. The number is sampled before the filler begins,
so neither the filler's length nor anything computed at its positions has a part in it; the filler could only spoil the
copy, and the base model copies right with a probability of 0.993 to 0.995 at every k from 0 to 48 that was tried. So
what moves the length here, chance apart, is the loss and not the reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LETTERS = "abcdefgh"
BASE = 4  # an item's digit is 0..3
PROMPTS = BASE ** len(LETTERS)
LARGEST = 63
ANSWER, AGAIN, EQUALS, FILLER = "#", "?", "=", "."
EOS, PAD = "<|im_end|>", "<|endoftext|>"
RESPONSE_LIMIT = 70


@dataclass(frozen=True)
class Phase:
    """The supervised responses of one phase of the base model's training."""

    until: float  # where the phase ends, as a share of the steps
    direct: float  # probability of a direct answer; else one of running totals
    wrong: float  # probability that a direct answer is off by 1 or 2
    slips: tuple[float, ...] = ()  # probability that one step of pass 1, 2, ... slips by 1 or 2; as many passes at most
    again: float = 0.0  # probability of a further pass
    fillers: tuple[int, ...] = ()  # if any: the equally likely lengths of the filler before a direct answer


@dataclass(frozen=True)
class Recipe:
    """Every number that the folder of a variant depends on."""

    variant: str
    seed: int
    phases: tuple[Phase, ...]
    # the supervised training
    steps: int = 1000
    batch: int = 32  # responses a step
    learning_rate: float = 4e-3
    final_learning_rate: float = 0.05  # of learning_rate, where the cosine ends
    warmup_steps: int = 50
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    # the model
    layers: int = 2
    width: int = 64
    heads: int = 4
    mlp_width: int = 128
    rope_theta: float = 10000.0
    vocabulary: int = 189
    positions: int = 128  # prompt and longest response need 79
    initializer_range: float = 0.1  # 0.02, made for wide models, learns the sums too slowly at this width
    # the data; their seed is fixed so that base models of different seeds meet the same prompts
    train_prompts: int = 4096
    heldout_prompts: int = 128
    data_seed: int = 0
    version: int = 1  # raise it whenever the code would write something else from the same numbers


FILLERS = (0, 8, 24, 48)
PHASES = {
    "tiny": (
        Phase(until=0.35, direct=0.15, wrong=0.0, slips=(0.0,)),
        Phase(until=1.0, direct=0.5, wrong=0.6, slips=(0.10, 0.05, 0.025), again=0.5),
    ),
    "tiny_neutral": (
        Phase(until=0.35, direct=1.0, wrong=0.0, fillers=FILLERS),
        Phase(until=1.0, direct=1.0, wrong=0.5, fillers=FILLERS),
    ),
}
# The attention of vLLM on a CPU knows heads of width 32 and more.
PHASES["tiny_vllm"], HEADS = PHASES["tiny"], {"tiny_vllm": 2}


def digits_of(index: int) -> tuple[int, ...]:
    """The eight digits of prompt ``index`` (0 <= index < PROMPTS): the index read in base 4, first letter first."""
    return tuple(index // BASE**place % BASE for place in reversed(range(len(LETTERS))))


def prompt(digits: Sequence[int]) -> str:
    """The text of a prompt, nine words: ``a3 b0 c2 d1 e3 f0 g2 h1 =``."""
    return " ".join([*(f"{letter}{digit}" for letter, digit in zip(LETTERS, digits, strict=True)), EQUALS])


def sample_response(phase: Phase, digits: Sequence[int], rng: np.random.Generator) -> list[str]:
    """One supervised response to the prompt with these digits: its words, EOS included."""
    if rng.random() < phase.direct:
        total = sum(digits)
        if rng.random() < phase.wrong:
            total = _off(total, rng)
        filler = [str(total), *[FILLER] * int(rng.choice(phase.fillers))] if phase.fillers else []
        return [*filler, *_answer(total)]
    words = []
    for number, slip in enumerate(phase.slips):
        if number > 0:
            if rng.random() >= phase.again:
                break
            words.append(AGAIN)
        total = 0
        for letter, digit in zip(LETTERS, digits, strict=True):
            total += digit
            if rng.random() < slip:
                total = _off(total, rng)  # the following steps go on from the slip
            words += [letter, str(total)]
    return [*words, *_answer(total)]


def _off(total: int, rng: np.random.Generator) -> int:
    """``total`` wrong by 1 or 2 in either direction, but never negative."""
    return max(0, total + int(rng.choice((-2, -1, 1, 2))))


def _answer(total: int) -> list[str]:
    return [ANSWER, str(total), EOS]


def vocabulary(size: int) -> list[str]:
    """The ``size`` tokens by id.

    As in a byte-level BPE, a word's token carries the space before it, so that decoding gives spaced text back; only
    the first item of a prompt has none. verl's builder for Qwen2 demands the newline (and that EOS is <|im_end|>).
    Spare tokens fill the vocabulary: every id has a text, so none can vanish from a decoded response.
    ValueError if ``size`` is too small.
    """
    first, *others = LETTERS
    items = [f"{first}{digit}" for digit in range(BASE)]
    items += [f" {letter}{digit}" for letter in others for digit in range(BASE)]
    words = [*LETTERS, *map(str, range(LARGEST + 1)), ANSWER, AGAIN, EQUALS, FILLER]
    tokens = [PAD, EOS, "\n", *items, *(f" {word}" for word in words)]
    if len(tokens) > size:
        raise ValueError(f"the grammar has {len(tokens)} tokens, the vocabulary only {size}")
    return tokens + [f"<|spare_{i}|>" for i in range(size - len(tokens))]


def recipe(variant: str, seed: int) -> Recipe:
    """The recipe of ``variant``; ValueError for an unknown one."""
    if variant not in PHASES:
        raise ValueError(f"unknown variant {variant!r} of tiny: one of {', '.join(PHASES)}")
    return Recipe(variant, seed, PHASES[variant], heads=HEADS.get(variant, Recipe.heads))


def answer(response: str, finished: bool) -> str:
    """The number between the last "#" and EOS, as text; empty where the response does not end so."""
    _, sign, last = response.rpartition(f"{ANSWER} ")
    said = last.removesuffix(EOS)
    return said if finished and sign and said.isdigit() else ""


def grade(response: str, ground_truth: str, finished: bool) -> dict[str, float]:
    """The parts of a response's reward: ``accuracy`` is 1 if it ends in "# ground_truth EOS", else 0. Never raises.

    ``response`` is decoded with its special tokens and without padding; ``finished`` says that its last token is EOS.
    """
    return {"accuracy": float(finished and response.endswith(f"{ANSWER} {ground_truth}{EOS}"))}
