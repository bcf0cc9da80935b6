"""Every byte that a mesh keeps: all keys of Redis, and all files of all servers."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import redis

from tests.support.vectors import Vector
from tests.vault.redis_bytes import parts

_PART = 48
"""So many bytes of a vector or of a picture are nobody else's."""


@dataclass
class Secrets:
    """What is looked for, and where it is from."""

    wanted: dict[bytes, str] = field(default_factory=dict)

    def text(self, content: str, what: str) -> None:
        """A name."""
        self.wanted[content.encode()] = what

    def picture(self, content: bytes, what: str) -> None:
        """A JPEG: two pieces from its middle, as bytes and, however it is aligned, in base64."""
        assert len(content) > 1000
        for at in (len(content) // 3, len(content) // 2):
            self._bytes(content[at : at + _PART], what)

    def vector(self, content: Vector | bytes, what: str) -> None:
        """An embedding, in single and in half precision."""
        values = np.frombuffer(content, "<f4") if isinstance(content, bytes) else content
        self._bytes(values.astype("<f4").tobytes()[:_PART], what)
        self._bytes(values.astype("<f2").tobytes()[:_PART], f"{what} in half precision")

    def _bytes(self, content: bytes, what: str) -> None:
        self.wanted[content] = what
        for skipped in range(3):
            whole = content[skipped:]
            whole = whole[: len(whole) - len(whole) % 3]
            self.wanted[base64.b64encode(whole)] = f"{what} in base64"

    def in_bytes(self, content: bytes) -> set[str]:
        """What of it is in there."""
        return {what for secret, what in self.wanted.items() if secret in content}


def in_redis(url: str, secrets: Secrets, *, but: Iterable[str] = ()) -> dict[str, set[str]]:
    """Key -> what is found in it; keys that contain one of `but` are left out."""
    left_out, found = tuple(but), dict[str, set[str]]()
    with redis.Redis.from_url(url) as client:
        for key in client.keys("*"):
            name = key.decode()
            if not any(one in name for one in left_out):
                held = secrets.in_bytes(b"\n".join((key, *parts(client, key))))
                if held:
                    found[name] = held
    return found


def in_files(directory: Path, secrets: Secrets, *, but: Iterable[str] = ()) -> dict[str, set[str]]:
    """File -> what is found in it; the directories `but` are left out."""
    left_out = {directory / one for one in but}
    found = {
        str(path.relative_to(directory)): secrets.in_bytes(path.read_bytes())
        for path in _files(directory)
        if left_out.isdisjoint(path.parents)
    }
    return {name: held for name, held in found.items() if held}


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file())
