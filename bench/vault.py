"""`python -m bench.vault`: what sealing costs, as ratios to the same work without it, in the same run.

Three pieces of work as the services do them, with and without in turn: history's log takes batches of 64 detections
(one sealed record each, then a sync to the disk), a search compares 2,000 rows of a segment's vectors with a face, and
a gallery's load reads and parses 2,000 persons with two embeddings each.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from poi.v1 import common_pb2, poi_pb2

from history_svc.log import DetectionLog
from history_svc.seam import PLAIN, Seam
from history_svc.vaulted import VaultSeam
from mesh.vault import Vault, keyring, masters

STORE: Final = "bench"
_ROUNDS: Final = 12
_RECORD_BYTES: Final = 64 * 1200
"""Of a batch of 64 detections with a face each."""
_RECORDS: Final = 100
_ROWS, _WIDTH, _PICKED = 65_536, 256, 2_000
_PERSONS: Final = 2_000


def main() -> None:
    """Prints a line for each piece of work."""
    with tempfile.TemporaryDirectory() as scratch:
        seam = _seam(Path(scratch))
        for name, work in (
            ("log, batches of 64", log),
            ("search, 2,000 rows", rows),
            ("gallery, 2,000 persons", reads),
        ):
            plain, sealed = _times(work, Path(scratch), (PLAIN, seam))
            told = {
                "work": name,
                "plain_ms": round(plain * 1e3, 2),
                "sealed_ms": round(sealed * 1e3, 2),
                "ratio": round(sealed / plain, 2),
            }
            print(json.dumps(told))


def log(directory: Path, seam: Seam) -> Callable[[], object]:
    """Appends and syncs batches."""
    payload = os.urandom(_RECORD_BYTES)
    detections = DetectionLog(directory, b"header", segment_bytes=1 << 30, segment_seconds=3600, seam=seam)

    def work() -> None:
        for _ in range(_RECORDS):
            detections.append([payload], 1)

    return work


def rows(directory: Path, seam: Seam) -> Callable[[], object]:
    """Picks rows out of a segment's vectors, and compares them."""
    path = directory / "vectors"
    path.write_bytes(seam.seal_pages(np.random.default_rng(1).random((_ROWS, _WIDTH)).astype("<f2").tobytes()))
    table = seam.map(path).table("<f2", _WIDTH)
    at = np.sort(np.random.default_rng(2).choice(_ROWS, _PICKED, replace=False))
    probe = np.ones(_WIDTH, np.float32)
    return lambda: table[at].astype(np.float32) @ probe


def reads(directory: Path, seam: Seam) -> Callable[[], object]:
    """Opens and parses records."""
    poi = poi_pb2.Poi(name="stores/bench/pois/p1", display_name="Somebody")
    for _ in range(2):
        poi.references.add(embeddings=[common_pb2.Embedding(model="m", vector=os.urandom(4 * _WIDTH))])
    kept = [seam.seal(poi.SerializeToString()) for _ in range(_PERSONS)]
    return lambda: [poi_pb2.Poi.FromString(seam.open(one)) for one in kept]


def _times(
    prepare: Callable[[Path, Seam], Callable[[], object]], scratch: Path, seams: Sequence[Seam]
) -> tuple[float, ...]:
    """The median time of one piece of work with each of the seams, in seconds."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        works = []
        for number, seam in enumerate(seams):
            own = Path(directory) / str(number)
            own.mkdir()
            works.append(prepare(own, seam))
        taken: list[list[float]] = [[] for _ in works]
        for _ in range(_ROUNDS):
            for work, times in zip(works, taken, strict=True):
                started = time.perf_counter()
                work()
                times.append(time.perf_counter() - started)
    return tuple(statistics.median(times[1:]) for times in taken)


def _seam(directory: Path) -> Seam:
    master = masters.LocalMaster(os.urandom(masters.KEY_BYTES))
    with keyring.editing(directory / "keyring", create=True) as ring:
        ring.add(STORE, master)
    return VaultSeam(Vault(directory / "keyring", master), STORE, accept_plain=False)


if __name__ == "__main__":
    main()
