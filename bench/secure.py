"""`python -m bench.secure`: what mutual TLS, authorisation and the audit log cost, each on top of the one before.

Servers of one kind (match_svc) side by side: a plain one, one with mutual TLS, one that also asks who calls, and one
that also keeps records (Redis, append-only file synced at every write). The same three pieces of work go to each of
them in turn, from this process: reading a person (GetPoi), changing one (UpdatePoi), and a stream of messages of 64
faces (MatchDetections). What a call costs is CPU of client, server and Redis; the baseline is the plain server.
`bench.vault` has what encryption at rest costs, `python -m bench --secure` all of it together.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import grpc
import numpy as np
import psutil
import typer
import uvloop
from poi.v1 import common_pb2, match_pb2, match_pb2_grpc, poi_pb2, poi_pb2_grpc
from pydantic import BaseModel
from rich.console import Console

from bench import machine
from bench.enrolment import synthetic_poi
from bench.lag import quantile
from bench.results import Machine
from mesh import channels, embeddings, names
from mesh.local import Mesh, Service
from mesh.local.secured import TOOL
from mesh.principal import Role

_ROOT = Path(__file__).resolve().parents[1]
STORE: Final = "bench"
PERSONS: Final = 100
_FACES: Final = 64
_CALLERS: Final = 4
"""Calls, or messages of a stream, that are under way at a time."""
_ROUNDS: Final = 4

_HEADINGS: Final = (
    "calls/s", "p50, ms", "p99", "CPU us: client", "server", "Redis", "added", "CPU, times plain", "p50, times plain",
)  # fmt: skip

Drive: TypeAlias = Callable[[grpc.aio.Channel, float], Awaitable[list[float]]]
"""Does a piece of work over a channel for so many seconds; what each call took, in seconds."""


class Cost(BaseModel):
    """One piece of work, done in one way."""

    way: str
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    client_us: float
    """CPU of a call, or of a message of the stream, as the following."""
    server_us: float
    redis_us: float
    added_us: float
    """By which the three together exceed those of the way above."""
    ratio_cpu: float
    """Of the three together to those of the first way."""
    ratio_p50: float


class Work(BaseModel):
    """One piece of work, done in several ways."""

    name: str
    costs: list[Cost]


class SecureReport(BaseModel):
    """A whole run."""

    machine: Machine
    seconds: float
    """Of each measurement; there are four of each."""
    works: list[Work]


@dataclass
class Way:
    """How to reach a server, and what came of it: seconds of each call, CPU microseconds a call by round."""

    name: str
    server: Service
    channel: grpc.aio.Channel
    took: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    served: list[float] = field(default_factory=list)
    redis: list[float] = field(default_factory=list)

    async def measure(self, drive: Drive, seconds: float, redis: int) -> None:
        """One round."""
        before = time.process_time(), _cpu(self.server.pid), _cpu(redis)
        took = await drive(self.channel, seconds)
        after = time.process_time(), _cpu(self.server.pid), _cpu(redis)
        for kept, then, now in zip((self.client, self.served, self.redis), before, after, strict=True):
            kept.append((now - then) * 1e6 / len(took))
        self.took += took


async def read(channel: grpc.aio.Channel, seconds: float) -> list[float]:
    """Reads a person."""
    stub: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(channel)
    request = poi_pb2.GetPoiRequest(name=names.poi(STORE, "person-0"))
    return await _calls(lambda _: stub.GetPoi(request), seconds)


async def change(channel: grpc.aio.Channel, seconds: float) -> list[float]:
    """Changes the name that is shown of persons."""
    stub: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(channel)
    number = 0

    def call(caller: int) -> Awaitable[object]:
        nonlocal number
        number += 1
        request = poi_pb2.UpdatePoiRequest(
            poi=poi_pb2.Poi(name=names.poi(STORE, f"person-{caller}"), display_name=f"Person {number}")
        )
        request.update_mask.paths.append("display_name")
        return stub.UpdatePoi(request)

    return await _calls(call, seconds)


async def stream(channel: grpc.aio.Channel, seconds: float) -> list[float]:
    """Matches messages of 64 strangers' faces."""
    stub: Any = match_pb2_grpc.MatchServiceStub(channel)
    call, request, sent = stub.MatchDetections(), _detections(), list[float]()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < len(sent) or not sent:
        while len(sent) - len(took) < _CALLERS and (not sent or time.perf_counter() < end):
            sent.append(time.perf_counter())
            await call.write(request)
        if await call.read() is grpc.aio.EOF:
            raise RuntimeError(f"the stream ended: {await call.code()}")
        took.append(time.perf_counter() - sent[len(took)])
    await call.done_writing()
    return took


async def measure(directory: Path, seconds: float) -> SecureReport:
    """Starts the servers, measures, and stops them."""
    mesh = Mesh(directory, env={"POI_STORE": STORE, "POI_DRAIN_SECONDS": "0"}, services=["match"], secure=True)
    off = {"POI_AUTH": "off"}
    plain = mesh.replica(
        "match", "plain", **off, **{f"POI_MATCH_TLS_{part}": "" for part in ("CERTIFICATE", "KEY", "CA")}
    )
    tls = mesh.replica("match", "tls", **off)
    audited = mesh.replica("match", "audited", POI_AUDIT_REDIS_URL=mesh.redis_url)
    known = mesh.services["match"]
    others = (plain, tls, audited)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(asyncio.to_thread, mesh.stop)
        await asyncio.to_thread(mesh.start)
        for server in others:
            undo.push_async_callback(asyncio.to_thread, server.stop)
            await asyncio.to_thread(server.start)
        about = machine.describe(mesh)
        assert mesh.secured is not None
        assert mesh.redis is not None
        secured, redis = mesh.secured, mesh.redis.pid
        token = secured.token([Role.ENROLLER], "bench")

        async def way(name: str, server: Service, who: str = "", bearer: str = "") -> Way:
            identity = secured.files(who) if who else None
            channel = channels.connect(server.target, service="match", tls=identity, token=bearer)
            undo.push_async_callback(channel.close)
            return Way(name, server, channel)

        first = await way("plain", plain)
        await _enrol(first.channel)
        person = [
            first,
            await way("+ mutual TLS", tls, TOOL),
            await way("+ authorisation, token", known, TOOL, token),
            await way("+ audit", audited, TOOL, token),
        ]
        service = await way("(authorisation, certificate)", known, "history")
        feed = [
            await way("plain", plain),
            await way("+ mutual TLS", tls, "ingest"),
            await way("+ authorisation, certificate", known, "ingest"),
            await way("+ audit", audited, "ingest"),
        ]
        works = [
            await _work("read a person", read, [*person, service], seconds, redis),
            await _work("change a person", change, [_again(one) for one in person], seconds, redis),
            await _work(f"match a message of {_FACES} faces", stream, feed, seconds, redis),
        ]
    return SecureReport(machine=about, seconds=seconds, works=works)


async def _work(name: str, drive: Drive, ways: Sequence[Way], seconds: float, redis: int) -> Work:
    for each in ways:  # connected, and what is read once is read
        await drive(each.channel, 0.2)
    for _ in range(_ROUNDS):
        for each in ways:
            await each.measure(drive, seconds, redis)
    costs: list[Cost] = []
    whole: list[float] = []
    for each in ways:
        cpu = [statistics.median(of) for of in (each.client, each.served, each.redis)]
        ascending = sorted(each.took)
        p50 = quantile(ascending, 0.5) * 1e3
        costs.append(
            Cost(
                way=each.name,
                calls_per_second=len(ascending) / (_ROUNDS * seconds),
                p50_ms=p50,
                p99_ms=quantile(ascending, 0.99) * 1e3,
                client_us=cpu[0],
                server_us=cpu[1],
                redis_us=cpu[2],
                added_us=sum(cpu) - (whole[-1] if whole else sum(cpu)),
                ratio_cpu=sum(cpu) / (whole[0] if whole else sum(cpu)),
                ratio_p50=p50 / (costs[0].p50_ms if costs else p50),
            )
        )
        whole.append(sum(cpu))
    return Work(name=name, costs=costs)


async def _calls(call: Callable[[int], Awaitable[object]], seconds: float) -> list[float]:
    """Callers that call one after the other, each without a pause."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        began = time.perf_counter()
        while began < end:
            await call(number)
            now = time.perf_counter()
            took.append(now - began)
            began = now

    async with asyncio.TaskGroup() as group:
        for number in range(_CALLERS):
            group.create_task(caller(number))
    return took


async def _enrol(channel: grpc.aio.Channel) -> None:
    stub: poi_pb2_grpc.PoiServiceAsyncStub = poi_pb2_grpc.PoiServiceStub(channel)
    for number, vector in enumerate(_vectors(PERSONS, seed=1)):
        face = embeddings.encode(vector, model=embeddings.FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED)
        await stub.CreatePoi(
            poi_pb2.CreatePoiRequest(
                parent=names.store(STORE),
                poi_id=f"person-{number}",
                poi=synthetic_poi(f"Person {number}"),
                embeddings=[face],
                allow_duplicate=True,
            ),
            timeout=20,
        )


def _detections() -> match_pb2.MatchDetectionsRequest:
    request = match_pb2.MatchDetectionsRequest(parent=names.store(STORE), batch_id=1)
    for number, vector in enumerate(_vectors(_FACES, seed=2)):
        face = embeddings.encode(vector, model=embeddings.FACE_MODEL, alignment=common_pb2.ALIGNMENT_ALIGNED)
        seen = request.detections.add(
            detection_id=f"{number:032x}",
            camera=names.camera(STORE, f"c{number % 10}"),
            object_id=str(number),
            embedding=face,
            face_confidence=0.99,
            face_box=common_pb2.BoundingBox(x=1, y=2, width=80, height=80),
        )
        seen.detect_time.GetCurrentTime()
    return request


def _vectors(count: int, *, seed: int) -> list[embeddings.Vector]:
    rows = np.random.default_rng(seed).standard_normal((count, embeddings.DIMENSIONS[embeddings.FACE_MODEL]))
    return list(embeddings.normalise(rows))


def _again(way: Way) -> Way:
    return Way(way.name, way.server, way.channel)


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def show(console: Console, report: SecureReport) -> None:
    """The report as a Markdown table for each piece of work."""
    about = report.machine
    lines = [
        f"{about.cores} x {about.cpu}, load average {about.load_average} before the start; "
        f"{_ROUNDS} times {report.seconds:g} s each, in turn, {_CALLERS} at a time"
    ]
    for work in report.works:
        lines += ["", _row(work.name, *_HEADINGS), "|---" + "|--:" * len(_HEADINGS) + "|"]
        for cost in work.costs:
            aside = cost is work.costs[0] or cost.way.startswith("(")
            lines.append(
                _row(
                    cost.way,
                    f"{cost.calls_per_second:,.0f}",
                    f"{cost.p50_ms:.2f}",
                    f"{cost.p99_ms:.2f}",
                    f"{cost.client_us:.0f}",
                    f"{cost.server_us:.0f}",
                    f"{cost.redis_us:.0f}",
                    "" if aside else f"{cost.added_us:+.0f}",
                    f"{cost.ratio_cpu:.2f}",
                    f"{cost.ratio_p50:.2f}",
                )
            )
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(
    seconds: Annotated[float, typer.Option(help="Of each measurement; there are 52.")] = 1.5,
    out: Annotated[Path, typer.Option(help="Where the JSON goes.")] = _ROOT / "build/bench/secure.json",
) -> None:
    """What mutual TLS, authorisation and audit cost a call, and a message of a stream."""
    console = Console()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=out.parent) as directory:
        report = uvloop.run(measure(Path(directory), seconds))
    out.write_text(report.model_dump_json(indent=1) + "\n")
    show(console, report)


if __name__ == "__main__":
    typer.run(main)
