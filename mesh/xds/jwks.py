"""The keys of tokens that the gateway takes: a file that is watched."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import structlog
from watchfiles import awatch

from mesh.auth.keys import parse

_log = structlog.get_logger(__name__)


def read(path: Path) -> str:
    """A JWKS. Raises OSError; ValueError for what is none, or has no key, which Envoy would not take."""
    content = path.read_bytes()
    if not parse(content):
        raise ValueError("has no keys")
    return content.decode()


async def changes(path: Path, known: str) -> AsyncGenerator[str, None]:
    """What the file holds whenever that is not what is known. What is absent or wrong leaves things as they are."""
    # The directory, and once a second in any case: as sources.file says.
    seen = awatch(path.parent, recursive=False, rust_timeout=1_000, yield_on_timeout=True, debounce=50, step=10)
    said = ""
    async for _ in seen:
        try:
            found = read(path)
        except (OSError, ValueError) as error:
            if said != str(error):
                said = str(error)
                _log.error("jwks_not_usable", path=str(path), why=said)
            continue
        said = ""
        if found != known:
            known = found
            yield found
