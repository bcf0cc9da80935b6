"""One store's faces as points of a Qdrant collection: how they are written, found, counted and removed.

A collection holds the faces of one embedding model, of any number of stores; the payload's `store` keeps them apart in
every call. A point is

    id              UUID made of store, face number and detection: written twice, it is there once
    vector          as it came: the distance is the dot product, because "cosine" would normalise it again
    store, camera, time_us, number, appearance, appearance_id, aligned        filtered by
    row             the face's ROW, base64

Calls block. When Qdrant does not do what it was asked they raise mesh.errors.Unavailable (INDEX_UNAVAILABLE).
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import grpc
import numpy as np
import structlog
from poi.v1 import common_pb2
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from history_svc.index import Faces, Scope
from history_svc.qdrant_collection import prepare
from history_svc.records import ROW, Header, Vectors
from mesh.errors import Unavailable

BATCH: Final = 512
"""Faces that are written in one request: half a megabyte, and what a crash may leave half done."""
_PAGE: Final = 1000
_OF_A_FACE: Final = ["number", "appearance", "camera", "row"]
# What a search may lose by rounding and is cut by us, exactly.
_MARGIN: Final = 1e-4

_log = structlog.get_logger(__name__)


class Points:
    """The points of `header.store`, in the collection of `header.model`, which is made when there is none.

    A collection that is there is taken as it is, so that its shards and replicas can be chosen by who runs Qdrant.
    `turn` is held during each call: a lock for a client that takes one at a time (qdrant-client's local mode).
    `exact`: compare all faces, without graph and quantization. `page`: faces per answer.

    Raises Unavailable, or FailedPrecondition for a collection whose vectors are of another kind.
    """

    def __init__(
        self,
        client: QdrantClient,
        header: Header,
        turn: AbstractContextManager[Any],
        *,
        exact: bool = False,
        page: int = _PAGE,
    ) -> None:
        self._client, self._header, self._turn = client, header, turn
        self._page = page
        self._collection = f"poi-faces-{header.model}"
        self._params = models.SearchParams(
            exact=exact,
            hnsw_ef=page,
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0),
        )
        with self._asked():
            prepare(client, self._collection, header.dimension)

    def write(self, faces: Faces) -> None:
        """Writes n faces, durably; those that are there are written over. Numbers rise from request to request."""
        for start in range(0, len(faces.numbers), BATCH):
            points = [self._point(faces, at) for at in range(start, min(start + BATCH, len(faces.numbers)))]
            with self._asked():
                result = self._client.upsert(self._collection, points, wait=True)
            self._check(result)

    def similar(self, probes: Vectors, least: float, scope: Scope, *, aligned: bool | None) -> Faces:
        """The faces in scope (times: to the microsecond around it) whose cosine to one of (q, d) is about `least`.

        More than it should by up to 1e-4, and some twice. An answer that is full is asked for again in two halves.
        """
        found: list[Any] = []
        open_ends = [(probe, 0, scope.before) for probe in probes]
        while open_ends:
            some, open_ends = open_ends[:16], open_ends[16:]
            requests = [
                models.QueryRequest(
                    query=probe.tolist(),
                    filter=self._filter(scope, numbers=(start, end), aligned=aligned),
                    params=self._params,
                    score_threshold=least - _MARGIN,
                    limit=self._page,
                    with_vector=True,
                    with_payload=_OF_A_FACE,
                )
                for probe, start, end in some
            ]
            with self._asked():
                answers = self._client.query_batch_points(self._collection, requests)
            for (probe, start, end), answer in zip(some, answers, strict=True):
                numbers = sorted(_payload(point)["number"] for point in answer.points)
                middle = numbers[len(numbers) // 2] if len(numbers) == self._page else start
                if middle == start:  # not full
                    found += answer.points
                    continue
                open_ends += [(probe, start, middle), (probe, middle, end)]
        return self._faces(found)

    def of_appearance(self, number: int, appearance_id: bytes | None, scope: Scope) -> Faces:
        """The faces in scope (as in `similar`) written with this appearance number, or with this id."""
        either: list[models.Condition] = [_equals("appearance", number)]
        if appearance_id is not None:
            either.append(_equals("appearance_id", str(uuid.UUID(bytes=appearance_id))))
        wanted = self._filter(scope, numbers=(0, scope.before), either=either)
        found: list[Any] = []
        offset: Any = None
        while True:
            with self._asked():
                points, offset = self._client.scroll(
                    self._collection, wanted, self._page, offset=offset, with_payload=_OF_A_FACE, with_vectors=True
                )
            found += points
            if offset is None:
                return self._faces(found)

    def newest_numbers(self, count: int) -> list[int]:
        """The highest `count` numbers there are, falling."""
        order = models.OrderBy(key="number", direction=models.Direction.DESC)
        with self._asked():
            points, _ = self._client.scroll(
                self._collection, self._filter(), count, order_by=order, with_payload=["number"], with_vectors=False
            )
        return [_payload(point)["number"] for point in points]

    def count(self, scope: Scope | None = None) -> int:
        """How many faces there are, in all or (to the microsecond around it) in scope."""
        wanted = self._filter(scope) if scope is None else self._filter(scope, numbers=(0, scope.before))
        return self._count(wanted)

    def remove_before(self, time_ns: int) -> None:
        """Removes what is older, to the microsecond, and makes sure that it is gone."""
        self._remove(self._filter(Scope(end_ns=time_ns // 1000 * 1000)))

    def remove_appearances(self, numbers: list[int], since: int, ids: Sequence[bytes]) -> int:
        """Removes the faces of appearances with these ids and, from face number `since` on, these numbers.

        Makes sure that they are gone, and returns how many there were.
        """
        if not numbers:
            return 0
        newer = models.FieldCondition(key="number", range=models.Range(gte=since))
        either: list[models.Condition] = [models.Filter(must=[_one_of("appearance", numbers), newer])]
        if ids:
            either.append(_one_of("appearance_id", [str(uuid.UUID(bytes=one)) for one in ids]))
        return self._remove(self._filter(either=either))

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _point(self, faces: Faces, at: int) -> models.PointStruct:
        row, number = faces.rows[at], int(faces.numbers[at])
        key = b"\0".join((self._header.store.encode(), number.to_bytes(8, "little"), row["detection"].tobytes()))
        return models.PointStruct(
            id=str(uuid.UUID(bytes=hashlib.blake2b(key, digest_size=16).digest())),
            vector=faces.vectors[at].tolist(),
            payload={
                "store": self._header.store,
                "camera": faces.cameras[at],
                "time_us": int(row["time_ns"]) // 1000,
                "number": number,
                "appearance": int(faces.appearances[at]),
                "appearance_id": str(uuid.UUID(bytes=row["appearance"].tobytes())),
                "aligned": bool(row["alignment"] == common_pb2.ALIGNMENT_ALIGNED),
                "row": base64.b64encode(row.tobytes()).decode(),
            },
        )

    def _faces(self, points: Sequence[Any]) -> Faces:
        payloads = [_payload(point) for point in points]
        return Faces(
            np.array([one["number"] for one in payloads], np.int64),
            np.array([one["appearance"] for one in payloads], np.int64),
            [one["camera"] for one in payloads],
            np.frombuffer(b"".join(base64.b64decode(one["row"]) for one in payloads), ROW),
            np.array([point.vector for point in points], np.float32).reshape(-1, self._header.dimension),
        )

    def _filter(
        self,
        scope: Scope | None = None,
        *,
        numbers: tuple[int, int] | None = None,
        aligned: bool | None = None,
        either: list[models.Condition] | None = None,
    ) -> models.Filter:
        must: list[models.Condition] = []
        if numbers is not None:
            must.append(models.FieldCondition(key="number", range=models.Range(gte=numbers[0], lt=numbers[1])))
        must.append(_equals("store", self._header.store))
        if scope is not None:
            # Qdrant compares numbers as doubles: microseconds are whole in them, nanoseconds since 1970 are not.
            start, end = scope.start_ns // 1000, -(-scope.end_ns // 1000)
            must.append(models.FieldCondition(key="time_us", range=models.Range(gte=start, lt=end)))
            if scope.cameras is not None:
                must.append(_one_of("camera", sorted(scope.cameras)))
        if aligned is not None:
            must.append(_equals("aligned", aligned))
        return models.Filter(must=must, should=either)

    def _count(self, wanted: models.Filter) -> int:
        with self._asked():
            return self._client.count(self._collection, wanted, exact=True).count

    def _remove(self, unwanted: models.Filter) -> int:
        count = self._count(unwanted)
        if count:
            with self._asked():
                result = self._client.delete(self._collection, models.FilterSelector(filter=unwanted), wait=True)
            self._check(result)
            left = self._count(unwanted)
            if left:
                raise Unavailable(f"{left} faces are still there after they were removed", reason="INDEX_UNAVAILABLE")
        return count

    def _check(self, result: models.UpdateResult) -> None:
        if result.status != models.UpdateStatus.COMPLETED:
            raise Unavailable(f"the vector database only {result.status.value} a change", reason="INDEX_UNAVAILABLE")

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            with self._turn:
                yield
        except (grpc.RpcError, QdrantException, ApiException) as error:
            code = error.code().name if isinstance(error, grpc.Call) else type(error).__name__
            _log.warning("qdrant_failed", code=code, details=error.details() if isinstance(error, grpc.Call) else "")
            raise Unavailable(
                f"the vector database did not do it ({code})", reason="INDEX_UNAVAILABLE", retry_after=1.0
            ) from error


def _payload(point: Any) -> dict[str, Any]:
    payload: dict[str, Any] = point.payload
    return payload


def _equals(key: str, value: str | int) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _one_of(key: str, values: list[str] | list[int]) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchAny(any=values))
