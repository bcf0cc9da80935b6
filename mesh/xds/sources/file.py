"""Replicas from a JSON file that is watched, for one machine and for whoever has lists of its own.

{"match": ["10.0.0.5:7002", {"address": "10.0.0.6:7002", "zone": "b", "health": "not_serving"}], "embed": []}
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError
from watchfiles import awatch

from mesh.xds import metrics
from mesh.xds.model import Endpoint, Endpoints
from mesh.xds.policy import SERVICES
from mesh.xds.sources import BadSource

logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it has a line for each change
_log = structlog.get_logger(__name__)
_CONTENT = TypeAdapter(dict[str, list[str | Endpoint]])


def parse(content: bytes) -> Endpoints:
    """The replicas in a file's content. Raises BadSource."""
    try:
        listed = _CONTENT.validate_json(content)
        endpoints = {
            name: frozenset(Endpoint(item) if isinstance(item, str) else item for item in items)
            for name, items in listed.items()
        }
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise BadSource(f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}") from error
    except ValueError as error:
        raise BadSource(str(error)) from error
    if unknown := endpoints.keys() - SERVICES.keys():
        raise BadSource(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    return endpoints


class FileSource:
    """A file, seen when it is written, replaced, or exchanged below a ConfigMap's links."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: bytes | str = b""

    async def watch(self) -> AsyncGenerator[Endpoints, None]:
        """See `Source`. A file that is absent or wrong is logged, and what was read before stays."""
        self._last = b""
        first = self._read()
        if first is not None:
            yield first
        # The directory, since a file that is replaced is another file. Once a second in any case: there are file
        # systems that tell nothing, and a change between the first reading and the first watch is not told either.
        changes = awatch(
            self._path.parent, recursive=False, rust_timeout=1_000, yield_on_timeout=True, debounce=50, step=10
        )
        async for _ in changes:
            endpoints = self._read()
            if endpoints is not None:
                yield endpoints

    def _read(self) -> Endpoints | None:
        """The replicas, where there is something new that can be used."""
        try:
            content = self._path.read_bytes()
        except OSError as error:
            self._refuse(str(error.strerror or error))
            return None
        if content == self._last:
            return None
        self._last = content
        try:
            return parse(content)
        except BadSource as error:
            self._refuse(str(error))
            self._last = content
            return None

    def _refuse(self, why: str) -> None:
        if why == self._last:  # said already
            return
        self._last = why
        metrics.REJECTED.inc()
        _log.error("source_unusable", path=str(self._path), why=why)
