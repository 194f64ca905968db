"""Pictures: out of a zip file, one at a time, and the blank one that goes with a question in words."""

import zipfile
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Self

from PIL import Image

from harness.config import ConfigError

# What zipfile and Pillow raise for damaged, encrypted, oversized or unknown content.
UNREADABLE = (
    *(KeyError, OSError, ValueError, SyntaxError, RuntimeError),
    *(zlib.error, zipfile.BadZipFile, Image.DecompressionBombError),
)
BLANK = "blank.png"
BLANK_SIDE = 56  # pixels; the smallest square that Qwen2.5-VL takes as it is (four visual tokens)


class Pictures:
    """The pictures of a zip file. Nothing is unpacked, so no name in it can lead to a place outside a folder."""

    def __init__(self, path: Path):
        """Raises ``ConfigError`` if ``path`` is not a zip file."""
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile):
            raise ConfigError(f"{path}: not a readable zip file") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()

    def identity(self, name: str) -> tuple[int, int] | None:
        """CRC-32 and size of a picture's bytes, from the zip's directory; None if it is not in there."""
        entry = self._entry(name)
        return (entry.CRC, entry.file_size) if entry else None

    def read(self, name: str) -> bytes:
        """The bytes of a picture; raises ``KeyError`` if it is not there, and zipfile's errors if it is damaged."""
        entry = self._entry(name)
        if entry is None:
            raise KeyError(name)
        return self.zip.read(entry)

    def decodes(self, name: str) -> bool:
        """Whether the picture can be read and decoded to its last line."""
        try:
            with Image.open(BytesIO(self.read(name))) as image:
                image.load()
        except UNREADABLE:
            return False
        return True

    def _entry(self, name: str) -> zipfile.ZipInfo | None:
        for candidate in (name, name.removeprefix("images/")):
            try:
                return self.zip.getinfo(candidate)
            except KeyError:
                continue
        return None


@cache
def blank() -> bytes:
    """A white PNG."""
    stream = BytesIO()
    Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), "white").save(stream, "PNG")
    return stream.getvalue()
