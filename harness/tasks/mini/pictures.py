"""The items of a prompt as a picture: a strip of cards, each with an item's letter and digit.

A card is one visual token of Qwen2.5-VL (28 x 28 pixels: 2 x 2 patches), so a picture takes as many tokens as it has
items. Paper, ink and the places of both signs are drawn anew for every card, so that no two pictures are alike. The
glyphs are written down here: those of a font change with its version.
"""

from io import BytesIO

import numpy as np
from PIL import Image

CARD = 28  # pixels, both ways
DOT = 2  # pixels of a glyph's dot, both ways
ROWS, COLUMNS = 7, 5  # dots of a glyph

GLYPHS = {
    "a": ".###. #...# #...# ##### #...# #...# #...#",
    "b": "####. #...# #...# ####. #...# #...# ####.",
    "c": ".#### #.... #.... #.... #.... #.... .####",
    "d": "###.. #..#. #...# #...# #...# #..#. ###..",
    "e": "##### #.... #.... ###.. #.... #.... #####",
    "f": "##### #.... #.... ####. #.... #.... #....",
    "g": ".#### #.... #.... #.### #...# #...# .###.",
    "h": "#...# #...# #...# ##### #...# #...# #...#",
    "i": "##### ..#.. ..#.. ..#.. ..#.. ..#.. #####",
    "j": "..### ...#. ...#. ...#. ...#. #..#. .##..",
    "0": ".###. #...# #..## #.#.# ##..# #...# .###.",
    "1": "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    "2": ".###. #...# ....# ..##. .#... #.... #####",
    "3": "####. ....# ....# .###. ....# ....# ####.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "5": "##### #.... ####. ....# ....# #...# .###.",
    "6": ".###. #.... #.... ####. #...# #...# .###.",
}


def card(letter: str, digit: int, rng: np.random.Generator) -> np.ndarray:
    """One card, (CARD, CARD, 3) of uint8: the letter somewhere on its left half, the digit somewhere on its right."""
    paper, ink = rng.integers(190, 256, 3), rng.integers(0, 91, 3)
    dark = np.zeros((CARD, CARD), dtype=bool)
    for half, sign in enumerate((letter, str(digit))):
        glyph = dots(sign).repeat(DOT, 0).repeat(DOT, 1)
        height, width = glyph.shape
        top = int(rng.integers(6, CARD - height - 5))
        left = half * CARD // 2 + int(rng.integers(1, CARD // 2 - width))
        dark[top : top + height, left : left + width] = glyph
    return np.where(dark[..., None], ink, paper).astype(np.uint8)


def dots(sign: str) -> np.ndarray:
    """The glyph of a sign, (ROWS, COLUMNS) of bool; ``KeyError`` for a sign that has none."""
    return np.array([[dot == "#" for dot in row] for row in GLYPHS[sign].split()])


def strip(cards: list[np.ndarray]) -> Image.Image:
    """Cards side by side."""
    return Image.fromarray(np.concatenate(cards, axis=1))


def png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
