"""`python -m bench.vault`: what sealing costs, as ratios to the same work without it, in the same run.

Three pieces of work as the services do them: history's log takes batches of 64 detections (one sealed record each, then
a sync to the disk), a search reads 2,000 rows of 512 bytes out of a segment's vectors, and the registry reads persons.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from history_svc.log import DetectionLog
from history_svc.seam import PLAIN, Seam
from history_svc.vaulted import VaultSeam
from mesh.vault import Vault, keyring, masters

STORE: Final = "bench"
_ROUNDS: Final = 7
_RECORD_BYTES: Final = 64 * 1200
"""Of a batch of 64 detections with a face each."""
_RECORDS: Final = 300
_ROWS, _WIDTH, _PICKED = 65_536, 256, 2_000
_PERSONS, _PERSON_BYTES = 5_000, 3_200


def main() -> None:
    """Prints a line for each piece of work."""
    with tempfile.TemporaryDirectory() as scratch:
        seam = _seam(Path(scratch))
        for name, work in (("log, batches of 64", log), ("search, 2,000 rows", rows), ("registry, 5,000 reads", reads)):
            plain, sealed = _times(work, Path(scratch), PLAIN), _times(work, Path(scratch), seam)
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
    """Picks rows out of a segment's vectors."""
    path = directory / "vectors"
    path.write_bytes(seam.seal_pages(np.random.default_rng(1).bytes(_ROWS * _WIDTH * 2)))
    table = seam.map(path).table("<f2", _WIDTH)
    at = np.sort(np.random.default_rng(2).choice(_ROWS, _PICKED, replace=False))
    return lambda: table[at]


def reads(directory: Path, seam: Seam) -> Callable[[], object]:
    """Opens records, as at the load of a gallery, without parsing them."""
    kept = [seam.seal(os.urandom(_PERSON_BYTES)) for _ in range(_PERSONS)]
    return lambda: [seam.open(one)[:1] for one in kept]


def _times(prepare: Callable[[Path, Seam], Callable[[], object]], scratch: Path, seam: Seam) -> float:
    """The median time of one piece of work, in seconds."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        work = prepare(Path(directory), seam)
        work()
        taken = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _seam(directory: Path) -> Seam:
    master = masters.LocalMaster(os.urandom(masters.KEY_BYTES))
    with keyring.editing(directory / "keyring", create=True) as ring:
        ring.add(STORE, master)
    return VaultSeam(Vault(directory / "keyring", master), STORE, accept_plain=False)


if __name__ == "__main__":
    main()
