"""Data that a page carries for its scripts: JSON, compressed, as letters that are no HTML."""

import base64
import gzip
from typing import Any

import orjson


def packed(content: Any) -> str:
    """gzip of the JSON of ``content``, in base64: nothing in it can end a script or be taken for a tag. NaN is null.

    Equal content gives equal letters.
    """
    return base64.b64encode(gzip.compress(orjson.dumps(content), 9, mtime=0)).decode()
