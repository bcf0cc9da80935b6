"""What a store asks of Qdrant: points by id or filter, read, written and removed. Calls block; any thread.

When Qdrant does not do what it was asked they raise mesh.errors.Unavailable (INDEX_UNAVAILABLE).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc
import structlog
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from history_svc.qdrant.collections import prepare_detections, prepare_records
from history_svc.records import Header
from mesh.errors import Unavailable

_BATCH: Final = 512
"""Points per write: half a megabyte with their vectors."""
_PAGE: Final = 1000
Payload = dict[str, Any]

_log = structlog.get_logger(__name__)


def point_id(*key: str | bytes) -> str:
    """The id of the point that `key` names, the same everywhere."""
    digest = hashlib.blake2b(digest_size=16)
    for part in key:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(4, "little") + raw)
    return str(uuid.UUID(bytes=digest.digest()))


def equals(key: str, value: str | int | bool) -> models.FieldCondition:
    """Where a field is this value, or has it among several."""
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def one_of(key: str, values: Iterable[str] | Iterable[int]) -> models.FieldCondition:
    """Where a field is one of these."""
    wanted: Any = list(values)
    return models.FieldCondition(key=key, match=models.MatchAny(any=wanted))


def with_id(ids: Iterable[str]) -> models.HasIdCondition:
    """Which point it is."""
    return models.HasIdCondition(has_id=list(ids))


def between(key: str, start: int | None, end: int | None) -> models.FieldCondition:
    """Where a field is in [start, end). Below 2^53: Qdrant compares doubles."""
    return models.FieldCondition(key=key, range=models.Range(gte=start, lt=end))


class Database:
    """The collections of `header.model`, made when there are none, as far as `header.store` is concerned.

    A collection that is there is taken as it is, so that its shards and replicas can be chosen by who runs Qdrant.
    Raises Unavailable, or FailedPrecondition for a collection whose vectors are of another kind.
    """

    def __init__(self, client: QdrantClient, header: Header) -> None:
        self._client, self.header = client, header
        self.detections, self.records = f"poi-detections-{header.model}", f"poi-records-{header.model}"
        with self._asked():
            prepare_detections(client, self.detections, header.dimension)
            prepare_records(client, self.records)

    @property
    def store(self) -> str:
        """Whose points are seen."""
        return self.header.store

    def where(self, *must: models.Condition, **fields: Any) -> models.Filter:
        """A filter for this store's points."""
        return models.Filter(must=[equals("store", self.store), *must], **fields)

    def get(self, collection: str, ids: Iterable[str], payload: list[str] | None = None) -> dict[str, Payload]:
        """The payloads (all fields, or some) of those of the points that there are, by id."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, Payload] = {}
        for start in range(0, len(wanted), _PAGE):
            with self._asked():
                records = self._client.retrieve(
                    collection,
                    wanted[start : start + _PAGE],
                    with_payload=True if payload is None else payload,
                    consistency=models.ReadConsistencyType.MAJORITY,
                )
            found |= {str(one.id): one.payload or {} for one in records}
        return found

    def put(self, collection: str, points: Sequence[models.PointStruct], only: models.Filter | None = None) -> None:
        """Writes points, durably. Of those that are there, only what `only` holds for is overwritten."""
        for start in range(0, len(points), _BATCH):
            with self._asked():
                result = self._client.upsert(
                    collection,
                    list(points[start : start + _BATCH]),
                    wait=True,
                    # One after the other everywhere: `only` must mean the same on each replica of a shard.
                    ordering=models.WriteOrdering.STRONG,
                    update_filter=only,
                )
            self._check(result)

    def scroll(
        self, collection: str, wanted: models.Filter, payload: list[str] | None = None, *, vectors: bool = False
    ) -> Iterator[models.Record]:
        """All points that a filter holds for."""
        offset: Any = None
        while True:
            with self._asked():
                points, offset = self._client.scroll(
                    collection,
                    wanted,
                    _PAGE,
                    offset=offset,
                    with_payload=True if payload is None else payload,
                    with_vectors=vectors,
                    consistency=models.ReadConsistencyType.MAJORITY,
                )
            yield from points
            if offset is None:
                return

    def first(self, collection: str, wanted: models.Filter, falling: str, limit: int) -> list[models.Record]:
        """The `limit` points with the highest values of a field that has an index of ranges, falling."""
        order = models.OrderBy(key=falling, direction=models.Direction.DESC)
        with self._asked():
            points, _ = self._client.scroll(
                collection,
                wanted,
                limit,
                order_by=order,
                with_payload=True,
                with_vectors=False,
                consistency=models.ReadConsistencyType.MAJORITY,
            )
        return points

    def similar(self, requests: Sequence[models.QueryRequest]) -> list[models.QueryResponse]:
        """The answers to searches of detections."""
        with self._asked():
            return self._client.query_batch_points(self.detections, list(requests))

    def count(self, collection: str, wanted: models.Filter, *, exact: bool = True) -> int:
        """How many points a filter holds for."""
        with self._asked():
            return self._client.count(collection, wanted, exact=exact).count

    def remove(self, collection: str, unwanted: models.Filter) -> int:
        """Removes what a filter holds for, makes sure that it is gone, and returns how much there was."""
        count = self.count(collection, unwanted)
        if count:
            with self._asked():
                result = self._client.delete(
                    collection,
                    models.FilterSelector(filter=unwanted),
                    wait=True,
                    ordering=models.WriteOrdering.STRONG,
                )
            self._check(result)
            left = self.count(collection, unwanted)
            if left:
                raise Unavailable(f"{left} points are still there after they were removed", reason="INDEX_UNAVAILABLE")
        return count

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _check(self, result: models.UpdateResult) -> None:
        if result.status != models.UpdateStatus.COMPLETED:
            raise Unavailable(f"the vector database only {result.status.value} a change", reason="INDEX_UNAVAILABLE")

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (grpc.RpcError, QdrantException, ApiException) as error:
            code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
            _log.warning("qdrant_failed", code=code, details=error.details() if isinstance(error, grpc.Call) else "")
            raise Unavailable(
                f"the vector database did not do it ({code})", reason="INDEX_UNAVAILABLE", retry_after=1.0
            ) from error
