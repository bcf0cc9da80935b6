"""The random rotation before RaBitQ codes (Gao & Long, SIGMOD 2024): one for all, so that a query is rotated once."""

from __future__ import annotations

from functools import cache
from typing import Final

import faiss

from history_svc.records import Vectors

_SEED: Final = 20_261_121
"""Segments are made with it: another one needs another version of the manifest."""


def rotated(vectors: Vectors) -> Vectors:
    """(n, d) float32, rotated: products between them stay as they were."""
    turned: Vectors = vectors @ _matrix(vectors.shape[1]).T
    return turned


@cache
def _matrix(dimension: int) -> Vectors:
    rotation = faiss.RandomRotationMatrix(dimension, dimension)
    rotation.init(_SEED)
    matrix: Vectors = faiss.vector_to_array(rotation.A).reshape(dimension, dimension)
    return matrix
