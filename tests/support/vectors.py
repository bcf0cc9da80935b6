"""Embeddings without faces."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

FACE_DIMENSION = 256


def unit(seed: int, dimension: int = FACE_DIMENSION) -> Vector:
    """A random direction, the same for the same seed: (dimension,) float32 of norm 1. Two of them: cosine 0 +- 0.06."""
    vector = np.random.default_rng(seed).standard_normal(dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def similar(vector: Vector, cosine: float, seed: int) -> Vector:
    """A unit vector that has exactly this cosine (to 1e-6) to a unit vector, in a random direction off it."""
    other = unit(seed, vector.shape[0]).astype(np.float64)
    across = other - (other @ vector) * vector
    across /= np.linalg.norm(across)
    mixed: Vector = (cosine * vector + np.sqrt(1 - cosine**2) * across).astype(np.float32)
    return mixed
