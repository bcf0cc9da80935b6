"""Telling the caller of a removal on which replicas it has taken effect."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import grpc
from poi.v1 import poi_pb2

from match_svc.replicas import Replicas

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stubs only

REVISION: Final = "poi-revision"
CONFIRMED: Final = "poi-replicas-confirmed"
UNCONFIRMED: Final = "poi-replicas-unconfirmed"
_RESTRICTING: Final = frozenset(("threshold", "expire_time", "watchlists"))
"""What can keep a person from being matched who was matched before."""


class Removals:
    """Waits for replicas before a removal is answered, and puts the outcome into trailing metadata."""

    def __init__(self, replicas: Replicas, seconds: float) -> None:
        """`seconds` is the longest wait."""
        self._replicas = replicas
        self._seconds = seconds

    async def effective(self, revision: int, context: Context) -> None:
        """Return when no live replica matches any more what this revision removed, or after the wait."""
        outcome = await self._replicas.confirmed(revision, self._seconds)
        metadata = [(REVISION, str(revision)), (CONFIRMED, str(len(outcome.confirmed)))]
        if outcome.missing:
            metadata.append((UNCONFIRMED, ",".join(outcome.missing)))
        context.set_trailing_metadata(metadata)

    async def after_update(self, changed: poi_pb2.Poi, fields: tuple[str, ...], context: Context) -> None:
        """As `effective` where a change of these fields may disable a person."""
        if _RESTRICTING.intersection(fields):
            await self.effective(int(changed.etag), context)
