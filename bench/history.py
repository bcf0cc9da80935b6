"""`python -m bench.history`: search of sealed history through the gRPC contract, beside exact scans in the same run."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

# The scan on two threads is fastest without threads of BLAS's own. Read at import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import faiss
import numpy as np
import psutil
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray
from poi.v1 import common_pb2, history_pb2, history_pb2_grpc
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.lag import quantile
from history_svc.appearances import Appearance
from history_svc.records import HAS_VECTOR, ROW, Header, Rows, Vectors, appearance_numbers
from history_svc.sealed import build
from mesh import embeddings
from mesh.channels import connect
from mesh.embeddings import FACE_MODEL
from mesh.local import Service

DIMENSION = 256
SEGMENT = 65_536
A_TRACK, A_PERSON = 8, 10
"""Detections of a track and tracks of an identity."""
THRESHOLD = 0.5
CAMERAS = [f"Camera_{number:02d}" for number in range(16)]
SECOND = 1_000_000_000
PARENT = "stores/store-1"


@dataclass(frozen=True)
class Found:
    """What was measured; times in ms. Truth is the exact scan of the vectors before they were rounded."""

    rows: int
    start_seconds: float
    resident_mb: float
    resident_after_mb: float
    search_p50: float
    search_p95: float
    tenth_p50: float
    flat_p50: float
    scan_p50: float
    recall: float
    appended_per_second: float
    search_p95_while_appending: float

    @property
    def ratios(self) -> dict[str, float]:
        """How many times faster than the two exact scans."""
        return {"IndexFlatIP": self.flat_p50 / self.search_p50, "best exact scan": self.scan_p50 / self.search_p50}


class Data:
    """Identities with several tracks over several days: cosine about 0.75 within one, about 0 to others."""

    def __init__(self, rows: int, begin_ns: int, end_ns: int) -> None:
        self.rows, self._begin, self._step = rows, begin_ns, (end_ns - begin_ns) // rows
        self._random = np.random.default_rng(20261121)
        people = max(1, rows // (A_TRACK * A_PERSON))
        self.centres = _normalised(self._random.standard_normal((people, DIMENSION), np.float32))
        self.tracks = self._random.integers(0, people, rows // A_TRACK + 1)

    def chunk(self, start: int, end: int) -> tuple[Rows, list[str], Vectors, list[Appearance]]:
        """Rows from `start` to `end`; both are multiples of A_TRACK."""
        count = end - start
        track_of = np.arange(start, end) // A_TRACK
        noise = self._random.standard_normal((count, DIMENSION), np.float32) / np.sqrt(DIMENSION)
        vectors = _normalised(self.centres[self.tracks[track_of]] * np.sqrt(0.75) + noise * np.sqrt(0.25))
        rows: Rows = np.zeros(count, ROW)
        ids = self._random.integers(0, 1 << 63, (count, 2), np.uint64)
        rows["detection"] = np.frombuffer(ids.tobytes(), "V16")
        rows["appearance"] = np.repeat(rows["detection"][::A_TRACK], A_TRACK)[:count]
        rows["time_ns"] = self._begin + np.arange(start, end) * self._step
        rows["flags"] = HAS_VECTOR
        rows["face_confidence"] = 0.9
        cameras = [CAMERAS[one % len(CAMERAS)] for one in track_of.tolist()]
        appearances = []
        for at in range(0, count, A_TRACK):
            first, last = rows[at], rows[min(at + A_TRACK, count) - 1]
            total = vectors[at : at + A_TRACK].sum(axis=0)
            appearances.append(
                Appearance(
                    first["detection"].tobytes(), cameras[at], str(track_of[at]), int(first["time_ns"]),
                    int(last["time_ns"]), first.tobytes(), last.tobytes(), first.tobytes(), 0.9, A_TRACK, A_TRACK,
                    total, float(total @ total),
                )
            )  # fmt: skip
        return rows, cameras, vectors, appearances


def _normalised(vectors: Vectors) -> Vectors:
    normalised: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalised


def _write(data: Data, directory: Path, console: Console) -> tuple[Vectors, NDArray[np.int64]]:
    """Makes the segments; gives all vectors and the numbers of their appearances."""
    directory.mkdir(parents=True)
    header = Header("store-1", FACE_MODEL, DIMENSION)
    vectors = np.empty((data.rows, DIMENSION), np.float32)
    owners = np.empty(data.rows, np.int64)
    for number, start in enumerate(track(range(0, data.rows, SEGMENT), "Making segments", console=console), 1):
        end = min(start + SEGMENT, data.rows)
        rows, cameras, part, appearances = data.chunk(start, end)
        vectors[start:end], owners[start:end] = part, appearance_numbers(rows["appearance"])
        numbers = np.arange(start, end)
        content = build.Content(
            rows, cameras, numbers, part.astype(np.float16), owners[start:end], appearances, []
        )  # fmt: skip
        build.write(directory, header, number, number, content)
    return vectors, owners


def _exact_scans(vectors: Vectors, queries: Vectors) -> tuple[float, float]:
    """p50 in ms of IndexFlatIP as shipped, and of two halves on two threads without OpenMP."""
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    shipped = [_timed(partial(flat.search, one[None], 2000)) for one in queries]
    half = len(vectors) // 2

    def scan(part: Vectors, query: Vectors) -> NDArray[np.intp]:
        faiss.omp_set_num_threads(1)
        found = [np.flatnonzero(part[at : at + 4096] @ query >= THRESHOLD) + at for at in range(0, len(part), 4096)]
        return np.concatenate(found)

    with ThreadPoolExecutor(2) as pool:

        def both(query: Vectors) -> None:
            list(pool.map(scan, (vectors[:half], vectors[half:]), (query, query)))

        best = [_timed(partial(both, one)) for one in queries]
    return statistics.median(shipped), statistics.median(best)


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


class _Client:
    def __init__(self, target: str) -> None:
        self._channel = connect(target, max_message_bytes=64 << 20)
        self.stub = history_pb2_grpc.HistoryServiceStub(self._channel)

    async def close(self) -> None:
        await self._channel.close()

    async def search(self, query: Vectors, interval: common_pb2.Interval | None = None) -> Any:
        request = history_pb2.SearchAppearancesRequest(
            parent=PARENT,
            embedding=embeddings.encode(query, model=FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED),
            min_similarity=THRESHOLD,
            page_size=1000,
            interval=interval,
        )
        return await self.stub.SearchAppearances(request, timeout=60)

    async def append(self, seconds: float, begin_ns: int) -> float:
        """Detections a second, in batches of 64 on one stream."""
        random = np.random.default_rng(1)
        stop = time.perf_counter() + seconds
        vectors = _normalised(random.standard_normal((4096, DIMENSION), np.float32))

        async def requests() -> Any:
            number = 0
            while time.perf_counter() < stop:
                request = history_pb2.AppendDetectionsRequest(parent=PARENT, batch_id=number)
                for at in range(64):
                    one = request.detections.add(
                        detection_id=random.bytes(16).hex(), camera=f"{PARENT}/cameras/{CAMERAS[at % 16]}",
                        object_id=str(number // 8 * 64 + at),
                    )  # fmt: skip
                    one.detect_time.FromNanoseconds(begin_ns + number * SECOND // 10)
                    vector = vectors[(number // 8 * 64 + at) % 4096]
                    one.embedding.CopyFrom(
                        embeddings.encode(vector, model=FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED)
                    )
                number += 1
                yield request

        stored, started = 0, time.perf_counter()
        async for response in self.stub.AppendDetections(requests()):
            stored += len(response.stored)
        return stored / (time.perf_counter() - started)


async def _latencies(count: int, call: Callable[[int], Awaitable[Any]]) -> list[float]:
    taken = []
    for at in range(count):
        started = time.perf_counter()
        await call(at)
        taken.append((time.perf_counter() - started) * 1000)
    return sorted(taken)


def _resident_mb(service: Service) -> float:
    with urllib.request.urlopen(service.metrics_url) as response:
        lines = response.read().decode().splitlines()
    found = [line for line in lines if line.startswith("process_resident_memory_bytes ")]
    return float(found[0].split()[1]) / 2**20 if found else psutil.Process(service.pid).memory_info().rss / 2**20


async def _measure(
    service: Service,
    data: Data,
    vectors: Vectors,
    owners: NDArray[np.int64],
    queries: int,
    seconds: float,
    found: Found,
) -> Found:
    client = _Client(service.target)
    random = np.random.default_rng(5)
    people = random.choice(len(data.centres), queries, replace=False)
    wanted = hits = 0
    for person in people:
        response = await client.search(data.centres[person])
        near = vectors @ data.centres[person] >= THRESHOLD
        truth = set(owners[near].tolist())
        ids = [bytes.fromhex(hit.appearance.name.rpartition("/")[2]) for hit in response.hits]
        got = set(appearance_numbers(np.frombuffer(b"".join(ids), "V16")).tolist()) if ids else set()
        wanted, hits = wanted + len(truth), hits + len(truth & got)
    warm = await _latencies(queries * 3, lambda at: client.search(data.centres[people[at % queries]]))
    now = time.time_ns()
    interval = common_pb2.Interval(start_time=_moment(now - int(0.7 * 86_400 * SECOND)), end_time=_moment(now))
    tenth = await _latencies(queries * 3, lambda at: client.search(data.centres[people[at % queries]], interval))
    resident = _resident_mb(service)
    appending = asyncio.create_task(client.append(seconds, now - 3600 * SECOND))
    during: list[float] = []
    while not appending.done():
        during += await _latencies(1, lambda _: client.search(data.centres[people[0]]))
    await client.close()
    return replace(
        found,
        search_p50=quantile(warm, 0.5), search_p95=quantile(warm, 0.95), tenth_p50=quantile(tenth, 0.5),
        recall=hits / max(1, wanted), resident_after_mb=resident, appended_per_second=appending.result(),
        search_p95_while_appending=quantile(sorted(during), 0.95),
    )  # fmt: skip


def _moment(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // SECOND, nanos=time_ns % SECOND)


def _report(found: Found, console: Console) -> None:
    table = Table(title=f"History of {found.rows:,} faces, threshold {THRESHOLD}, by gRPC")
    table.add_column("what")
    table.add_column("measured", justify="right")
    lines = {
        "search, p50 / p95": f"{found.search_p50:.1f} / {found.search_p95:.1f} ms",
        "search of a tenth of the time, p50": f"{found.tenth_p50:.1f} ms",
        "IndexFlatIP as shipped, in this process, p50": f"{found.flat_p50:.1f} ms",
        "best exact scan, in this process, p50": f"{found.scan_p50:.1f} ms",
        **{f"times faster than {name}": f"{ratio:.1f}" for name, ratio in found.ratios.items()},
        "recall of the appearances above the threshold": f"{found.recall:.5f}",
        "start to serving": f"{found.start_seconds:.2f} s",
        "resident after start / after searches": f"{found.resident_mb:.0f} / {found.resident_after_mb:.0f} MiB",
        "durable appends while a client searches": f"{found.appended_per_second:,.0f} /s",
        "search p95 meanwhile": f"{found.search_p95_while_appending:.1f} ms",
    }
    for line in lines.items():
        table.add_row(*line)
    console.print(table)


def main(
    rows: Annotated[int, typer.Option(help="Faces in sealed segments.")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="Identities that are looked for.")] = 20,
    seconds: Annotated[float, typer.Option(help="Of appending while a client searches.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/bench/history.json"),
) -> None:
    """Measures history_svc over sealed segments, and two exact scans of the same vectors."""
    console = Console()
    now = time.time_ns()
    data = Data(rows // A_TRACK * A_TRACK, now - int(6.9 * 86_400 * SECOND), now - 60 * SECOND)
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home)
        vectors, owners = _write(data, directory / "data" / "segments", console)
        random = np.random.default_rng(5)
        flat, scan = _exact_scans(vectors, data.centres[random.choice(len(data.centres), min(queries, 10))])
        # Nobody has zone visits here, and a search does not wait for them.
        env = {"POI_HISTORY_DATA_DIR": str(directory / "data"), "POI_HISTORY_REGION_TIMEOUT": "0.001"}
        service = Service("history_svc", directory, env)
        started = time.perf_counter()
        with service:
            taken = time.perf_counter() - started
            begin = Found(data.rows, taken, _resident_mb(service), 0, 0, 0, 0, flat, scan, 0, 0, 0)
            found = asyncio.run(_measure(service, data, vectors, owners, queries, seconds, begin))
    _report(found, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**asdict(found), "ratios": found.ratios}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
