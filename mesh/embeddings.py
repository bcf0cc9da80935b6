"""Embeddings between the wire and numpy: little-endian float32 with the model's name, normalised, checked on arrival.

Decoding a batch is the hot path of the mesh: it joins all rows, reads them at once and checks them at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from poi.v1 import common_pb2

from mesh.errors import FailedPrecondition, InvalidArgument

FACE_MODEL: Final = "face-reidentification-retail-0095"
DIMENSIONS: Final[Mapping[str, int]] = {
    FACE_MODEL: 256,
    "person-reidentification-retail-0277": 256,
    "person-reidentification-retail-0287": 256,
    "person-reidentification-retail-0288": 256,
}
"""Length of a vector by model name (Open Model Zoo model cards)."""

NORM_TOLERANCE: Final = 1e-2
"""How far the L2 norm may be from 1: float16 pipelines stay within 1e-3, a vector that nobody normalised does not."""

Vector = NDArray[np.float32]
_WIRE: Final = np.dtype("<f4")


def encode(vector: NDArray[Any], *, model: str, alignment: common_pb2.Alignment.ValueType) -> common_pb2.Embedding:
    """The wire form of one normalised (d,) vector. Raises ValueError when d is not the model's."""
    dimension = DIMENSIONS.get(model)
    if vector.ndim != 1 or (dimension is not None and vector.shape[0] != dimension):
        raise ValueError(f"{model} makes vectors of shape ({dimension},), not {vector.shape}")
    return common_pb2.Embedding(model=model, vector=vector.astype(_WIRE, copy=False).tobytes(), alignment=alignment)


def decode(embedding: common_pb2.Embedding, *, model: str = FACE_MODEL, field: str = "embedding") -> Vector:
    """The (d,) float32 vector of one embedding, read-only.

    Raises FailedPrecondition (reason MODEL_MISMATCH) when it is of another model than `model`, and InvalidArgument
    naming `field` when it has another length, holds a value that is not finite, or is not normalised.
    """
    vectors, bad = decode_batch([embedding], model=model, dimension=DIMENSIONS[model])
    if bad:
        if embedding.model != model:
            raise FailedPrecondition(
                f"{field}.model: {bad[0]}",
                reason="MODEL_MISMATCH",
                metadata={"field": f"{field}.model", "expected": model, "actual": embedding.model},
            )
        raise InvalidArgument(violations=[(f"{field}.vector", bad[0])], reason="INVALID_EMBEDDING")
    row: Vector = vectors[0]
    return row


def decode_batch(
    embeddings: Sequence[common_pb2.Embedding], *, model: str, dimension: int
) -> tuple[Vector, dict[int, str]]:
    """((n, d) float32, {row: what is wrong with it}); a bad row is all zeros, so that it is similar to nothing.

    The array may be read-only. Reasons name no content, and begin with `model` when the row is of another model.
    """
    size = dimension * 4
    bad: dict[int, str] = {}
    rows: list[bytes] = []
    for index, embedding in enumerate(embeddings):
        vector = embedding.vector
        if len(vector) != size or embedding.model != model:
            bad[index] = _mismatch(embedding, model, dimension)
            vector = bytes(size)
        rows.append(vector)
    vectors: Vector = np.frombuffer(b"".join(rows), dtype=_WIRE).reshape(len(rows), dimension)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        wrong = ~(np.abs(norms - 1.0) <= NORM_TOLERANCE)  # written so that NaN counts as wrong
    if not wrong.any():
        return vectors, bad
    indices = np.flatnonzero(wrong).tolist()
    for index in indices:
        if index not in bad:
            bad[index] = _unnormalised(vectors[index], float(norms[index]))
    vectors = vectors.copy()
    vectors[indices] = 0.0
    return vectors, bad


def normalise(v: NDArray[Any]) -> Vector:
    """`v` of shape (d,) or (n, d) as float32 with L2 norm 1 along the last axis.

    Raises ValueError for a zero or non-finite row.
    """
    vectors: Vector = np.asarray(v, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(np.isfinite(norms) & (norms > 0.0)):
        raise ValueError("cannot normalise a zero or non-finite vector")
    unit: Vector = vectors / norms
    return unit


def _mismatch(embedding: common_pb2.Embedding, model: str, dimension: int) -> str:
    if embedding.model != model:
        return f"model is {embedding.model[:100]!r}, not {model!r}"
    return f"has {len(embedding.vector)} bytes, not {dimension * 4} ({dimension} float32)"


def _unnormalised(vector: Vector, norm: float) -> str:
    if not np.isfinite(vector).all():
        return "holds a value that is not finite"
    return f"has norm {norm:.4g}, not 1"
