"""Rates of false matches and non-matches among labelled embeddings."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from match_svc.calibration.table import Pipeline

THRESHOLDS: Final = tuple(at / 100 for at in range(91))
_BLOCK: Final = 512

Floats = NDArray[np.float32]


def pipeline(gallery: Floats, probes: Floats, labels: NDArray[np.int64]) -> Pipeline:
    """The curves of `gallery` against `probes`, both (n, d) float32, L2-normalised, row i of both of the same photo.

    `labels` (n,) says who is on each photo. All ordered pairs of different photos count, block by block, so that
    memory stays small: 5,000 photos are 25 million pairs and take some seconds. Raises ValueError when no two photos
    are of different persons.
    """
    edges = np.array([*THRESHOLDS, np.inf], np.float32)
    impostors, genuine = np.zeros(len(THRESHOLDS), np.int64), np.zeros(len(THRESHOLDS), np.int64)
    impostor_pairs = genuine_pairs = 0
    for start in range(0, len(gallery), _BLOCK):
        block = slice(start, start + _BLOCK)
        similar = gallery[block] @ probes.T
        same = labels[block, None] == labels[None, :]
        itself = np.arange(start, start + len(similar))
        strangers = similar[~same]
        same[np.arange(len(similar)), itself] = False
        friends = similar[same]
        impostors += _reached(strangers, edges)
        genuine += _reached(friends, edges)
        impostor_pairs += len(strangers)
        genuine_pairs += len(friends)
    if not impostor_pairs:
        raise ValueError("all photos are of one person")
    return Pipeline(
        impostor_pairs=impostor_pairs,
        genuine_pairs=genuine_pairs,
        fmr=(impostors / impostor_pairs).tolist(),
        fnmr=(1 - genuine / max(1, genuine_pairs)).tolist() if genuine_pairs else [0.0] * len(THRESHOLDS),
    )


def _reached(similar: Floats, edges: Floats) -> NDArray[np.int64]:
    """How many reach each of the edges but the last."""
    counts = np.histogram(similar, edges)[0].astype(np.int64)
    reached: NDArray[np.int64] = np.cumsum(counts[::-1])[::-1]
    return reached
