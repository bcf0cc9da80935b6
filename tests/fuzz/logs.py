"""Reads what a service logs while it is fuzzed: no line may hold an embedding, an image or a person's name."""

from __future__ import annotations

import base64
import io
import struct
import sys
from collections.abc import Iterable
from typing import Final

from tests.fuzz.target import Finding

NAME: Final = "Zaphod Beeblebrox"
"""Of everybody in seeds who has a name."""
_LONGEST: Final = 8192
"""Characters of a line without a traceback."""
_PART: Final = 24
"""Bytes of an embedding or an image, from its beginning, that give it away."""


class WatchedLog(io.TextIOBase):
    """Stands where stderr is. What is logged is looked at and, below the level of an error, not shown."""

    def __init__(self, contents: Iterable[bytes]) -> None:
        """`contents`: embeddings and images that are sent."""
        self._stderr = sys.stderr
        self._secrets = {NAME}
        for content in contents:
            part = content[:_PART]
            if len(part) == _PART and len(set(part)) > 2:  # not zeros, of which lines may be full
                shown = repr(part)[2:-1]
                numbers = struct.unpack(f"<{_PART // 4}f", part)
                self._secrets |= {base64.b64encode(part).decode(), part.hex(), shown, shown.replace("\\", "\\\\")}
                self._secrets.add(", ".join(map(str, numbers[:3])))
        self._wrong = ""

    def write(self, text: str, /) -> int:
        """A line, or a part of one."""
        told = next((secret for secret in self._secrets if secret in text), "")
        if told or (len(text) > _LONGEST and "Traceback" not in text):
            self._wrong = f"it is logged what nobody may read ({told or 'of any length'}): {text[:_LONGEST]}"
        if not text.startswith("{") or '"level":"error"' in text:
            self._stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""
        self._stderr.flush()

    def check(self) -> None:
        """Raises Finding for a line that should not have been."""
        if self._wrong:
            raise Finding(self._wrong)
