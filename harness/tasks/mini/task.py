"""The task ``mini_dense``: sums modulo 7 in steps whose size, and with it a response's length, is the model's choice.

Grammar, in words of one token each::

    prompt   := (LETTER DIGIT as one word){4..10} "="         letters of a..j in order, DIGIT = 0..6
    response := pass ("?" pass){0..3} answer
    pass     := (LETTER NUMBER)+                              letters of the prompt in order, always its last one
    answer   := "#" NUMBER EOS

A step names the item that the sum has reached and the total so far modulo 7; all items since the step before are added
at once. So ``b 3 d 3 e 2 h 3 # 3`` and ``e 2 h 3 # 3`` and ``h 3 # 3`` all answer ``b3 d0 e6 h1 =``. No supervised
response of ``mini_dense`` is wrong: a finer chain is more often right because the model's own arithmetic is, in smaller
steps. Which steps a supervised response skips is drawn by a probability that is itself drawn once for the response, so
that lengths form no modes. A further pass says the same again: it makes a response longer and no better.

All variants are one task with base models of their own, which differ in how much of a response's length has to do with
whether it is right: that of ``mini_dense_strong`` was shown no further passes, that of ``mini_dense_weak`` steps that
slip, more of them in a finer chain. ``mini_moe`` has another layout. docs/miniature.md has the numbers.
"""

from dataclasses import dataclass, replace

import numpy as np

from harness.tasks.supervised import Schedule, Shape
from harness.tasks.tiny.task import AGAIN, ANSWER, EOS, EQUALS, PAD

LETTERS = "abcdefghij"
MODULUS = 7
PASSES = 4  # of a response, at most
Items = tuple[tuple[str, int], ...]  # (letter, digit) of a prompt, in order


@dataclass(frozen=True)
class Phase:
    """The supervised examples of one phase of the base model's training."""

    until: float  # where the phase ends, as a share of the steps
    fewest: int  # items of a prompt
    most: int
    skips: tuple[float, ...] = (0.0,)  # equally likely probabilities that a response skips a step
    again: float = 0.0  # probability of a further pass
    slip: float = 0.0  # probability that the total of a step is wrong; the pass goes on from it


@dataclass(frozen=True)
class Recipe:
    """Every number that the folder of a variant depends on."""

    variant: str
    seed: int
    phases: tuple[Phase, ...]
    shape: Shape
    schedule: Schedule
    # the data; their seed is fixed so that the base models of all variants and seeds meet the same prompts
    fewest: int = 4
    most: int = 10
    train_prompts: int = 4096
    heldout_prompts: int = 128
    benchmark_items: tuple[int, ...] = (4, 6, 8, 10)  # of the prompts of a benchmark, one benchmark each
    benchmark_prompts: int = 64
    data_seed: int = 0
    version: int = 1  # raise it whenever the code would write something else from the same numbers


# Two items first: that is the whole table of additions modulo 7. Longer sums from the start hide it for a long time.
LEARNING_TO_ADD = (Phase(0.2, 2, 2), Phase(0.35, 2, 6))
LAST = Phase(1.0, 4, 10, skips=(0.0, 0.25, 0.5, 0.75, 1.0), again=1 / 3)
LASTS = {
    "mini_dense": LAST,
    "mini_dense_strong": replace(LAST, again=0.0),
    "mini_dense_weak": replace(LAST, slip=0.05),
    "mini_moe": LAST,
}
DENSE = Shape(vocabulary=96, mlp_width=192)
SHAPES = {"mini_moe": replace(DENSE, mlp_width=96, experts=8, experts_per_token=2)}  # two experts are as wide as DENSE


def recipe(variant: str, seed: int) -> Recipe:
    """The recipe of ``variant``; ValueError for an unknown one."""
    if variant not in LASTS:
        raise ValueError(f"unknown variant {variant!r} of mini: one of {', '.join(LASTS)}")
    phases = (*LEARNING_TO_ADD, LASTS[variant])
    return Recipe(variant, seed, phases, SHAPES.get(variant, DENSE), Schedule(steps=1100, batch=64))


def draw_items(fewest: int, most: int, rng: np.random.Generator) -> Items:
    """A random prompt: the number of its items, their letters and their digits are uniform."""
    count = int(rng.integers(fewest, most + 1))
    places = sorted(rng.choice(len(LETTERS), count, replace=False))
    digits = rng.integers(0, MODULUS, count)
    return tuple((LETTERS[place], int(digit)) for place, digit in zip(places, digits, strict=True))


def index_of(items: Items) -> int:
    """A number of its own for each prompt: a digit in base 8 for each letter, 0 where it is missing."""
    digits = dict(items)
    return sum((digits[letter] + 1) * 8**place for place, letter in enumerate(LETTERS) if letter in digits)


def answer_of(items: Items) -> int:
    """The sum of the digits modulo 7."""
    return sum(digit for _, digit in items) % MODULUS


def prompt(items: Items) -> str:
    """The text of a prompt: `` b3 d0 e6 h1 =``, with a space before every word, as the tokens have it."""
    return "".join(f" {word}" for word in (*(f"{letter}{digit}" for letter, digit in items), EQUALS))


def sample_response(phase: Phase, items: Items, rng: np.random.Generator) -> list[str]:
    """One supervised response to the prompt with these items: its words, EOS included. Without ``slip`` it is right."""
    skip = rng.choice(phase.skips)
    words: list[str] = []
    total = 0
    for number in range(PASSES):
        if number > 0:
            if rng.random() >= phase.again:
                break
            words.append(AGAIN)
        total = 0
        for place, (letter, digit) in enumerate(items, 1):
            total = (total + digit) % MODULUS
            if place == len(items) or rng.random() >= skip:
                if phase.slip and rng.random() < phase.slip:
                    total = (total + int(rng.integers(1, MODULUS))) % MODULUS
                words += [letter, str(total)]
    return [*words, ANSWER, str(total), EOS]


def vocabulary(size: int) -> list[str]:
    """The ``size`` tokens by id, each word with the space before it; tiny's ``vocabulary`` says why, and why spares.

    ValueError if ``size`` is too small.
    """
    items = [f"{letter}{digit}" for letter in LETTERS for digit in range(MODULUS)]
    words = [*items, *LETTERS, *map(str, range(MODULUS)), ANSWER, AGAIN, EQUALS]
    tokens = [PAD, EOS, "\n", *(f" {word}" for word in words)]
    if len(tokens) > size:
        raise ValueError(f"the grammar has {len(tokens)} tokens, the vocabulary only {size}")
    return tokens + [f"<|spare_{i}|>" for i in range(size - len(tokens))]
