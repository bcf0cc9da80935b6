"""The Qdrant server that faces are kept in, and the collection that is made there."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from mesh.errors import FailedPrecondition

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


def _integer(*, lookup: bool, ranges: bool, graph: bool) -> models.IntegerIndexParams:
    return models.IntegerIndexParams(
        type=models.IntegerIndexType.INTEGER, lookup=lookup, range=ranges, is_principal=graph, enable_hnsw=graph
    )


_INDEXED: Final[dict[str, Any]] = {
    "store": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "camera": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD),
    "time_us": _integer(lookup=False, ranges=True, graph=True),
    "aligned": models.BoolIndexParams(type=models.BoolIndexType.BOOL),
    "number": _integer(lookup=False, ranges=True, graph=False),
    "appearance": _integer(lookup=True, ranges=False, graph=False),
    "appearance_id": models.UuidIndexParams(type=models.UuidIndexType.UUID, enable_hnsw=False),
}


def prepare(client: QdrantClient, name: str, size: int) -> None:
    """Makes the collection `name` for vectors of `size` dimensions where there is none, and its indexes.

    Raises FailedPrecondition for one whose vectors are of another kind, and what the client raises.
    """
    if not client.collection_exists(name):
        _create(client, name, size)
    vectors = client.get_collection(name).config.params.vectors
    distance = models.Distance.DOT
    if not isinstance(vectors, models.VectorParams) or (vectors.size, vectors.distance) != (size, distance):
        raise FailedPrecondition(
            f"the collection {name} is not one of {size} dimensions and {distance.value} product",
            reason="MODEL_MISMATCH",
        )
    for field, schema in _INDEXED.items():
        client.create_payload_index(name, field, schema, wait=True)


def _create(client: QdrantClient, name: str, size: int) -> None:
    try:
        client.create_collection(
            name,
            # In memory is what is compared first, a byte a dimension; the vectors themselves are read for the best.
            vectors_config=models.VectorParams(size=size, distance=models.Distance.DOT, on_disk=True),
            quantization_config=models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
            ),
            # A graph per store instead of one over all, of which a search would pass by most.
            hnsw_config=models.HnswConfigDiff(m=0, payload_m=16, ef_construct=200),
            on_disk_payload=True,
        )
    except (grpc.RpcError, ApiException):
        if not client.collection_exists(name):  # else another store was faster
            raise
