"""Who knows which replicas there are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from mesh.xds.model import Endpoints


class Source(Protocol):
    """Replicas of the mesh's services, from one place."""

    def watch(self) -> AsyncGenerator[Endpoints, None]:
        """All replicas, first as soon as *everything* is known, then whenever something has changed.

        An implementation MUST NOT yield a part: what is missing is taken out of use. It MUST NOT yield anything while
        it cannot tell (its file is unreadable, its API is away): what was last yielded stays in use. It raises where
        it cannot go on, and is then asked again after a pause.
        """
        ...


class BadSource(Exception):
    """The source holds what cannot be used; the message says what and where."""
