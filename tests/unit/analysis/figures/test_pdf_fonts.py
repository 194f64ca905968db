"""The font in a figure's PDF: the letters' own outlines and their meaning, as matplotlib writes them itself."""

import io
import re
import zlib

import matplotlib as mpl
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont

from analysis.figures.pdf_fonts import fonts_once

STREAM = re.compile(rb"stream\r?\n(.*?)\r?\nendstream", re.DOTALL)
USUAL, RARE = "Response length (tokens)", "\u2212 \u2265 \u03b1"


def streams_of(text: str, ours: bool) -> list[bytes]:
    figure = Figure()
    figure.text(0.1, 0.5, text)
    file = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42}):
        if ours:
            with fonts_once():
                figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        else:
            figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    return [zlib.decompress(found) for found in STREAM.findall(file.getvalue())]


def meanings(streams: list[bytes]) -> list[bytes]:
    return [stream for stream in streams if b"beginbfrange" in stream or b"beginbfchar" in stream]


def fonts(streams: list[bytes]) -> list[TTFont]:
    return [TTFont(io.BytesIO(stream)) for stream in streams if stream.startswith(b"\x00\x01\x00\x00")]


def test_every_letter_has_the_outline_of_the_whole_font():
    whole = TTFont(findfont("DejaVu Sans"))
    names = whole.getBestCmap()
    embedded = {}
    for font in fonts(streams_of(f"{USUAL} {RARE}", ours=True)):
        embedded |= {name: font["glyf"][name] for name in font.getGlyphOrder()}
    for letter in set(f"{USUAL}{RARE}") - {" "}:
        name = names[ord(letter)]
        got, expected = (
            glyph.getCoordinates(table)[0]
            for glyph, table in ((embedded[name], whole["glyf"]), (whole["glyf"][name], whole["glyf"]))
        )
        assert list(got) == list(expected), letter


def test_copied_text_is_that_of_matplotlibs_own_file():
    theirs, ours = (meanings(streams_of(f"{USUAL} {RARE}", of)) for of in (False, True))
    assert theirs
    assert ours == theirs


def test_two_figures_of_usual_letters_have_one_part_of_the_font_and_the_backend_is_as_before():
    from matplotlib.backends import _backend_pdf_ps as backend

    before = backend.get_glyphs_subset
    first, second = (
        [stream for stream in streams_of(text, ours=True) if stream.startswith(b"\x00\x01\x00\x00")]
        for text in (USUAL, "What is drawn here?")
    )
    assert len(first) == 1
    assert first == second
    assert backend.get_glyphs_subset is before
