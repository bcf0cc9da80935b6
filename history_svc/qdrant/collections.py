"""The Qdrant server that a history is kept in, and the collections that are made there."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from mesh.errors import FailedPrecondition

FACE: Final = "face"
"""The vector of a detection."""
_TIMEOUT_SECONDS: Final = 15
_GRPC_PORT: Final = 6334


def connect(url: str) -> QdrantClient:
    """A client of the server at `http[s]://[:API_KEY@]HOST[:PORT]`, where PORT (6334) is the one for gRPC."""
    parts = urlsplit(url)
    return QdrantClient(
        host=parts.hostname,
        grpc_port=parts.port or _GRPC_PORT,
        prefer_grpc=True,
        https=parts.scheme == "https",
        api_key=parts.password or None,
        timeout=_TIMEOUT_SECONDS,
        # It asks through the REST port, which need not be open to us.
        check_compatibility=False,
    )


def _integer(*, lookup: bool = False, ranges: bool = False, graph: bool = False) -> models.IntegerIndexParams:
    return models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=lookup, range=ranges, is_principal=graph, enable_hnsw=graph
    )


def _keyword(*, tenant: bool = False) -> models.KeywordIndexParams:
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=tenant)


DETECTIONS: Final[dict[str, Any]] = {
    "store": _keyword(tenant=True),
    "camera": _keyword(),
    "time_us": _integer(ranges=True, graph=True),
    "aligned": models.BoolIndexParams(type=models.BoolIndexType.BOOL),
    "number": _integer(ranges=True),
    "appearance": _integer(lookup=True),
    "appearance_id": models.UuidIndexParams(type=models.UuidIndexType.UUID, enable_hnsw=False),
    "erased": models.BoolIndexParams(type=models.BoolIndexType.BOOL),
}
"""What detections are filtered by."""

RECORDS: Final[dict[str, Any]] = {
    "store": _keyword(tenant=True),
    "kind": _keyword(),
    "version": _keyword(),
    "revision": _integer(ranges=True),
    "camera": _keyword(),
    "track": _keyword(),
    "start_us": _integer(ranges=True),
    "end_us": _integer(ranges=True),
    "frames": _keyword(),
    "shows": _keyword(),
}
"""What records are filtered by."""


def prepare_detections(client: QdrantClient, name: str, size: int) -> None:
    """Makes the collection of detections, for vectors of `size` dimensions, where there is none, and its indexes.

    Raises FailedPrecondition for one whose vectors are of another kind, and what the client raises.
    """
    distance = models.Distance.DOT
    _create(
        client,
        name,
        # In memory is what is compared first, a byte a dimension; the vectors themselves are read for the best.
        vectors_config={FACE: models.VectorParams(size=size, distance=distance, on_disk=True)},
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        ),
        # A graph per store instead of one over all, of which a search would pass by most.
        hnsw_config=models.HnswConfigDiff(m=0, payload_m=16, ef_construct=200),
        on_disk_payload=True,
    )
    vectors = client.get_collection(name).config.params.vectors
    face = vectors.get(FACE) if isinstance(vectors, dict) else None
    if face is None or (face.size, face.distance) != (size, distance):
        raise FailedPrecondition(
            f"the collection {name} is not one of {size} dimensions and {distance.value} product",
            reason="MODEL_MISMATCH",
        )
    _index(client, name, DETECTIONS)


def prepare_records(client: QdrantClient, name: str) -> None:
    """Makes the collection of everything else, which has no vectors. Raises what the client raises."""
    _create(client, name, vectors_config={}, on_disk_payload=True)
    _index(client, name, RECORDS)


def _index(client: QdrantClient, name: str, fields: dict[str, Any]) -> None:
    for field, schema in fields.items():
        client.create_payload_index(name, field, schema, wait=True)


def _create(client: QdrantClient, name: str, **config: Any) -> None:
    if client.collection_exists(name):
        return
    try:
        client.create_collection(name, **config)
    except (grpc.RpcError, ApiException):
        if not client.collection_exists(name):  # else another process was faster
            raise
