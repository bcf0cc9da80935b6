"""Command line of the match benchmark."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # scans run on threads of their own; read at import

import psutil
import typer
from rich.console import Console
from rich.table import Table

from bench.lag import quantile
from bench.machine import cpu
from bench.match import data, exact
from bench.match.client import Client, enrolled_ms
from match_svc import crossover
from mesh.local import Redis, Service

THRESHOLD = 0.45
_AIMS = {1000: 30_000, 10_000: 8000, 100_000: 2000, 1_000_000: 200}
_LATENCY_ROWS, _COLD_ROWS = 10_000, 100_000
_POOL_BATCHES = 160
_START_SECONDS = 300.0
_RECALL_FACES = 64


@dataclass(frozen=True)
class Size:
    """What was measured with one size of gallery. Rates in faces a second, times in ms unless said otherwise."""

    rows: int
    index: str
    rate: float
    baseline: exact.Baseline
    recall: float
    """Of the pairs that an exact scan finds."""
    start_seconds: float
    """From the start of the process to SERVING."""
    index_seconds: float
    """From SERVING until the index was built."""
    resident_mib: float
    load_average: float
    one_face: tuple[float, float] | None = None
    """p50, p99."""
    enrolled: tuple[float, float] | None = None
    """p50 and longest, to matchable on two replicas."""
    deleted: tuple[float, float] | None = None


async def measure(redis: Redis, directory: Path, rows: int, seconds: float, latencies: int) -> Size:
    """Fill this Redis, start a server on it (two for the latencies of so many faces) and stop it again."""
    gallery = data.faces(rows, 1)
    await asyncio.to_thread(data.fill, redis.url, gallery)
    requests = data.batches(gallery, _POOL_BATCHES)
    strangers = data.faces(4 * data.A_BATCH, 5)
    baseline = exact.measure(gallery, strangers, THRESHOLD, seconds / 4)
    env = {"POI_REDIS_URL": redis.url, "POI_MATCH_MAX_MATCHES": "5"}
    service = Service("match_svc", directory, env, name=f"match-{rows}", start_timeout=_START_SECONDS)
    started = time.perf_counter()
    await asyncio.to_thread(service.start)
    try:
        async with Client(service.target) as client:
            await client.serving()
            served = time.perf_counter()
            status = await client.folded(
                0 if rows < crossover.LEAST else 2 if rows < crossover.MOST else _START_SECONDS
            )
            built = time.perf_counter()
            load = os.getloadavg()[0]
            rate = await client.rate(requests, seconds)
            known = data.again(gallery[: _RECALL_FACES * 7 : 7], 6)
            truth = exact.reached(gallery, known, THRESHOLD)
            found = {(probe, row) for probe, people in enumerate(await client.who(known)) for row in people}
            size = Size(
                rows,
                "exact" if status.index_kind == 1 else "quantised",
                rate,
                baseline,
                len(truth & found) / len(truth),
                served - started,
                built - served,
                psutil.Process(service.pid).memory_info().rss / 2**20,
                load,
            )
            if not latencies:
                return size
            one = await client.one_face_ms(data.faces(latencies, 7))
            other = Service("match_svc", directory, env, name="match-other", start_timeout=_START_SECONDS)
            with other:
                async with Client(other.target) as second:
                    await second.serving()
                    enrolled, deleted = await enrolled_ms([client, second], data.faces(latencies // 20, 8), rows)
            return replace(
                size,
                one_face=(quantile(one, 0.5), quantile(one, 0.99)),
                enrolled=(quantile(enrolled, 0.5), enrolled[-1]),
                deleted=(quantile(deleted, 0.5), deleted[-1]),
            )
    finally:
        await asyncio.to_thread(service.stop)


def _table(sizes: list[Size]) -> Table:
    table = Table(title="MatchDetections, 64 faces a message, one server and its client")
    for title in ("references", "index", "faces/s", "aim", "x IndexFlatIP", "x best exact", "recall", "start", "MiB"):
        table.add_column(title, justify="left" if title == "index" else "right", no_wrap=True)
    for size in sizes:
        table.add_row(
            f"{size.rows:,}",
            size.index,
            f"{size.rate:,.0f}",
            f"{_AIMS[size.rows]:,}" if size.rows in _AIMS else "",
            f"{size.rate / size.baseline.shipped:.2f} ({size.baseline.shipped:,.0f})",
            f"{size.rate / size.baseline.best:.2f} ({size.baseline.best:,.0f})",
            f"{size.recall:.4f}",
            f"{size.start_seconds:.1f}+{size.index_seconds:.1f} s",
            f"{size.resident_mib:,.0f}",
        )
    return table


def _more(size: Size) -> str:
    """What is measured at one size alone."""
    if size.one_face and size.enrolled and size.deleted:
        return (
            f"At {size.rows:,}: one face p50 {size.one_face[0]:.1f}, p99 {size.one_face[1]:.1f} ms (aim 5)\n"
            f"Enrol to match on two replicas: p50 {size.enrolled[0]:.0f}, longest {size.enrolled[1]:.0f} ms (aim 300)\n"
            f"Delete, confirmed by both: p50 {size.deleted[0]:.0f}, longest {size.deleted[1]:.0f} ms"
        )
    if size.rows == _COLD_ROWS:
        return f"Process start to SERVING with {size.rows:,}: {size.start_seconds:.1f} s (aim 3)"
    return ""


def main(
    rows: Annotated[list[int] | None, typer.Option(min=1000, help="Sizes of the gallery; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="How long to measure each rate.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/bench/match.json"),
) -> None:
    """Measures match_svc at some sizes of gallery, and two exact scans of the same faces."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    sizes = []
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home)
        for count in rows or _AIMS:
            console.print(f"{count:,} references")
            # Durability is not what is measured, and a million records take long enough.
            with Redis(directory / f"redis-{count}", appendfsync="no") as redis:
                sizes.append(
                    asyncio.run(measure(redis, directory, count, seconds, 1000 if count == _LATENCY_ROWS else 0))
                )
    console.print(_table(sizes))
    for line in filter(None, map(_more, sizes)):
        console.print(line)
    machine = f"{psutil.cpu_count()} x {cpu()}, {psutil.virtual_memory().total / 2**30:.1f} GiB"
    console.print(f"{machine}; load average {', '.join(f'{size.load_average:.1f}' for size in sizes)} before each")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "sizes": [asdict(size) for size in sizes]}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
