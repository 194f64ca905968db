"""The font in a PDF: a part of it that is made once, not once for every figure."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any

from fontTools import subset
from matplotlib.backends import _backend_pdf_ps as backend
from matplotlib.font_manager import get_font

USUAL = "".join(map(chr, range(32, 127)))  # what figures are written with
FEW = 8  # glyphs, such as a minus sign, of which matplotlib makes a font of its own: they are no more than that
LAYOUT = ("GSUB", "GPOS", "GDEF", "kern")  # which glyphs stand where: a PDF has the answer, glyph by glyph


class _Saved:
    """A font as a file: the one thing that is asked of ``fontTools.ttLib.TTFont`` here."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def save(self, file: BytesIO, reorderTables: bool = True) -> None:  # noqa: N803  (TTFont's own name)
        file.write(self.content)


@contextmanager
def fonts_once() -> Iterator[None]:
    """Within it matplotlib's PDFs have the font's part with all ``USUAL`` letters, without its rules of layout.
    A figure with others has a part of its own.

    matplotlib reads the whole font for every figure, which takes longer than to draw it. What is seen and what is
    copied from a PDF stays the same. It has no public place for another part of a font, so this takes that of
    ``_backend_pdf_ps.get_glyphs_subset``.
    """
    theirs = backend.get_glyphs_subset
    backend.get_glyphs_subset = _part
    try:
        yield
    finally:
        backend.get_glyphs_subset = theirs


@contextmanager
def _part(file: Any, glyphs: Iterable[int]) -> Iterator[backend.SubsetResults]:
    """``get_glyphs_subset`` of matplotlib."""
    needed, usual = frozenset(glyphs), _usual(file)
    yield _made(file, usual if len(needed) > FEW and needed <= usual else needed)


@lru_cache(maxsize=8)
def _usual(file: Any) -> frozenset[int]:
    font = get_font(file)
    return frozenset(map(font.get_char_index, map(ord, USUAL)))


@lru_cache(maxsize=64)
def _made(file: Any, glyphs: frozenset[int]) -> backend.SubsetResults:
    options = subset.Options(glyph_names=True, recommended_glyphs=True)
    options.drop_tables += [*LAYOUT, "FFTM"]
    options.font_number = getattr(file, "face_index", 0)
    with subset.load_font(file, options) as font:
        subsetter = subset.Subsetter(options=options)
        subsetter.populate(gids=glyphs)
        subsetter.subset(font)
        content = BytesIO()
        font.save(content, reorderTables=False)
    return backend.SubsetResults(_Saved(content.getvalue()), dict(subsetter.glyph_index_map))
