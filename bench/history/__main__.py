"""Command line of the history benchmark."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

# The scan on two threads is fastest without threads of BLAS's own. Read at import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import psutil
import typer
from rich.console import Console
from rich.progress import track

from bench.history import segments
from bench.history.data import Data
from bench.history.exact import Exact
from bench.history.measure import HARD_THRESHOLD, Plan, Truth, measure, memory
from bench.history.report import Report, save, show
from bench.history.searches import THRESHOLD
from bench.machine import cpu
from mesh.local import Service

_DAY = 86_400 * 1_000_000_000
_BASELINE_QUERIES = 7
_START_TIMEOUT = 300.0


def main(
    rows: Annotated[int, typer.Option(min=80, help="Faces in sealed segments.")] = 1_000_000,
    queries: Annotated[int, typer.Option(min=1, help="People who are looked for.")] = 40,
    cold_queries: Annotated[int, typer.Option(min=1, help="Others, with an empty page cache each.")] = 15,
    appends: Annotated[int, typer.Option(min=64, help="Detections to append each time.")] = 300_000,
    rate: Annotated[float, typer.Option(min=1, help="Detections a second, where it is fixed.")] = 20_000,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = Path("build/bench/history.json"),
) -> None:
    """Measures history_svc over sealed segments, and two exact scans of the same faces."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    load = round(os.getloadavg()[0], 2)
    now = time.time_ns()
    data = Data(rows, now - int(6.9 * _DAY), now - _DAY // 24)
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home)
        exact = Exact(data.rows)
        written = segments.write(data, directory / "data" / "segments", exact)
        total = -(-data.rows // segments.FACES)
        count = sum(1 for _ in track(written, "Making segments", total=total, console=console))
        files = [one for one in (directory / "data").rglob("*") if one.is_file()]
        size = sum(one.stat().st_size for one in files)
        console.print("Scanning exactly")
        asked = data.queries(queries, seed=1)
        centres, photos = asked
        flat = exact.as_shipped(photos[:_BASELINE_QUERIES])
        scan = exact.best_scan(photos[:_BASELINE_QUERIES], THRESHOLD)
        truth = Truth(
            exact.truth(centres, THRESHOLD), exact.truth(photos, THRESHOLD), exact.truth(photos, HARD_THRESHOLD)
        )
        del exact  # gigabytes, which the page cache has a use for
        # Nobody has zone visits here, and a search does not wait for them.
        env = {"POI_HISTORY_DATA_DIR": str(directory / "data"), "POI_HISTORY_REGION_TIMEOUT": "0.0001"}
        service = Service("history_svc", directory, env, start_timeout=_START_TIMEOUT)
        started = time.perf_counter()
        with service:
            taken, begun = time.perf_counter() - started, memory(service)
            plan = Plan(cold_queries, appends, rate)
            server = asyncio.run(measure(service, directory / "data", data, asked, truth, plan, console))
    machine = f"{psutil.cpu_count()} x {cpu()}, {psutil.virtual_memory().total / 2**30:.1f} GiB"
    report = Report(
        machine, load, data.rows, count, THRESHOLD, HARD_THRESHOLD, flat, scan, size / data.rows, taken, begun, server
    )
    show(report, console)
    save(report, out)


if __name__ == "__main__":
    typer.run(main)
