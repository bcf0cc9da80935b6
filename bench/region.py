"""`python -m bench.region`: what it costs to follow everybody through a scene's zones, beside the bare rules.

People walk from zone to zone; their scene updates come at a steady rate, as a scene controller sends them, and each is
answered when its visits are durable. The baseline is the same updates through `SceneTracker` alone, in this process.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import grpc
import psutil
import typer
import uvloop
from poi.v1 import region_pb2, region_pb2_grpc
from pydantic import BaseModel
from rich.console import Console

from bench import machine
from bench.lag import quantile
from bench.results import Machine
from history_svc.region.messages import read_update
from history_svc.region.tracker import Rules, SceneTracker
from mesh.channels import connect
from mesh.local import Mesh

STORE = "bench"
_ROOT = Path(__file__).resolve().parents[1]
_STAY_SECONDS = 20.0
_WATCH_SECONDS = 20.0


class Cost(BaseModel):
    """Of one update, microseconds of CPU."""

    tracker: float
    """The bare rules."""
    region: float
    redis: float


class RegionReport(BaseModel):
    """A whole run."""

    machine: Machine
    people: int
    zones: int
    scenes: int
    rate: float
    """Updates a second of each scene."""
    seconds: float
    updates: int
    events: int
    """Entries and exits that the bare rules find."""
    watched: int
    """Those that a watcher was told."""
    p50_ms: float
    """From sending an update to its answer."""
    p95_ms: float
    p99_ms: float
    late_max_ms: float
    """How late the load generator was at worst."""
    cpu_share: dict[str, float]
    """Cores that each process used."""
    cost: Cost
    ratio: float
    """Region's and Redis's cost of an update by the bare rules' alone."""
    occupancy_ms: float
    """GetOccupancy over the whole time, at the end."""
    listed_ms: list[float]
    """ListVisits of the newest hundred, asked once a second meanwhile; and GetOccupancy of that moment."""
    present_ms: list[float]


class _Load(NamedTuple):
    latencies: list[float]
    late: float
    cpu: dict[str, float]
    wall: float


def updates(
    scene: str, people: int, zones: int, rate: float, count: int, start_ms: int
) -> Iterator[region_pb2.SceneUpdate]:
    """A scene's updates: everybody in one zone at a time for 20 s on average, each seen by one of ten cameras."""
    chance = random.Random(scene)
    where = [chance.randrange(zones) for _ in range(people)]
    entered = [start_ms] * people
    for number in range(count):
        now = start_ms + round(number * 1000 / rate)
        update = region_pb2.SceneUpdate(scene=scene)
        update.update_time.FromMilliseconds(now)
        for person in range(people):
            if chance.random() < 1 / (rate * _STAY_SECONDS):
                where[person], entered[person] = chance.randrange(zones), now
            zone = where[person]
            seen = update.objects.add(object_id=f"person-{person}", cameras=[f"stores/{STORE}/cameras/c{zone % 10}"])
            seen.zones.add(zone_id=f"zone-{zone}").enter_time.FromMilliseconds(entered[person])
        yield update


def bare(sent: list[list[region_pb2.SceneUpdate]]) -> tuple[int, float]:
    """(entries and exits, CPU seconds) of each scene's updates through the rules alone."""
    ready = [[read_update(STORE, update, 1 << 50, 0)[1] for update in scene] for scene in sent]
    events = 0
    began = time.process_time()
    for scene in ready:
        tracker = SceneTracker("scene", Rules())
        for update in scene:
            tracker.apply(update)
            events += len(tracker.take_changes().events)
    return events, time.process_time() - began


async def measure(
    directory: Path, *, people: int, zones: int, scenes: int, rate: float, seconds: float
) -> RegionReport:
    """Starts the region service with a Redis of its own, loads it for so long, and stops both."""
    count = round(seconds * rate)
    start = round(time.time() * 1000)
    names = [f"stores/{STORE}/scenes/scene-{number}" for number in range(scenes)]
    sent = [list(updates(name, people, zones, rate, count, start)) for name in names]
    events, spent = bare(sent)
    running = Mesh(directory, env={"POI_STORE": STORE}, services=["region"])
    await asyncio.to_thread(running.start)
    try:
        about = machine.describe(running)
        async with connect(running.target("region")) as channel:
            stub: region_pb2_grpc.RegionServiceAsyncStub = region_pb2_grpc.RegionServiceStub(channel)
            listening = asyncio.Event()
            watching = asyncio.create_task(_watch(stub, events, listening))
            await listening.wait()
            asking = asyncio.create_task(_ask(stub, names[0]))
            load = await _load(running, stub, sent, rate)
            asking.cancel()
            listed, present = await asking
            watched = await watching
            request = region_pb2.GetOccupancyRequest(name=f"{names[0]}/occupancy")
            request.interval.start_time.FromMilliseconds(start)
            asked = time.perf_counter()
            await stub.GetOccupancy(request, timeout=20)
            occupancy_ms = (time.perf_counter() - asked) * 1e3
    finally:
        await asyncio.to_thread(running.stop)
    total = count * scenes
    cost = Cost(
        tracker=spent * 1e6 / total, region=load.cpu["region"] * 1e6 / total, redis=load.cpu["redis"] * 1e6 / total
    )
    took = sorted(load.latencies)
    return RegionReport(
        machine=about,
        people=people,
        zones=zones,
        scenes=scenes,
        rate=rate,
        seconds=seconds,
        updates=total,
        events=events,
        watched=watched,
        p50_ms=quantile(took, 0.5) * 1e3,
        p95_ms=quantile(took, 0.95) * 1e3,
        p99_ms=quantile(took, 0.99) * 1e3,
        late_max_ms=load.late * 1e3,
        cpu_share={name: used / load.wall for name, used in load.cpu.items()},
        cost=cost,
        ratio=(cost.region + cost.redis) / cost.tracker,
        occupancy_ms=occupancy_ms,
        listed_ms=listed,
        present_ms=present,
    )


async def _ask(stub: region_pb2_grpc.RegionServiceAsyncStub, scene: str) -> tuple[list[float], list[float]]:
    """What ListVisits and GetOccupancy took, in ms, once a second until this is cancelled."""
    listed: list[float] = []
    present: list[float] = []
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(1.0)
            began = time.perf_counter()
            await stub.ListVisits(region_pb2.ListVisitsRequest(parent=f"stores/{STORE}", page_size=100))
            between = time.perf_counter()
            await stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=f"{scene}/occupancy"))
            listed.append((between - began) * 1e3)
            present.append((time.perf_counter() - between) * 1e3)
    return listed, present


async def _watch(stub: region_pb2_grpc.RegionServiceAsyncStub, expected: int, listening: asyncio.Event) -> int:
    """How many entries and exits WatchVisits tells, until as many as are expected came or none comes any more."""
    told = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_WATCH_SECONDS) as limit:
            async for response in stub.WatchVisits(region_pb2.WatchVisitsRequest(parent=f"stores/{STORE}")):
                listening.set()
                if response.event != region_pb2.VISIT_EVENT_HEARTBEAT:
                    limit.reschedule(asyncio.get_running_loop().time() + _WATCH_SECONDS)
                    told += 1
                if told == expected:
                    break
    return told


async def _load(
    running: Mesh, stub: region_pb2_grpc.RegionServiceAsyncStub, sent: list[list[region_pb2.SceneUpdate]], rate: float
) -> _Load:
    """Each scene on a stream of its own, as from an ingest service of its own; their updates are spread in time."""
    programs = {program.name: psutil.Process(program.pid) for program in running.programs}
    programs["client"] = psutil.Process()
    before, began = {name: _cpu(program) for name, program in programs.items()}, time.perf_counter()
    latencies: list[float] = []
    late = 0.0

    async def play(scene: list[region_pb2.SceneUpdate], offset: float) -> None:
        written: list[float] = []

        async def paced() -> AsyncIterator[region_pb2.RecordSceneUpdatesRequest]:
            nonlocal late
            for number, update in enumerate(scene):
                due = began + offset + number / rate
                await asyncio.sleep(max(due - time.perf_counter(), 0))
                late = max(late, time.perf_counter() - due)
                written.append(time.perf_counter())
                yield region_pb2.RecordSceneUpdatesRequest(parent=f"stores/{STORE}", batch_id=number, updates=[update])

        async for answer in stub.RecordSceneUpdates(paced()):
            if answer.errors:
                raise RuntimeError(f"an update was refused: {answer.errors[0].status.message}")
            latencies.append(time.perf_counter() - written[answer.batch_id])

    async with asyncio.TaskGroup() as group:
        for number, scene in enumerate(sent):
            group.create_task(play(scene, number / rate / len(sent)))
    wall = time.perf_counter() - began
    return _Load(latencies, late, {name: _cpu(program) - before[name] for name, program in programs.items()}, wall)


def _span(taken: list[float]) -> str:
    ordered = sorted(taken)
    return f"p50 {quantile(ordered, 0.5):.1f} ms, at most {ordered[-1]:.1f}" if ordered else "not asked"


def _cpu(program: psutil.Process) -> float:
    spent = program.cpu_times()
    return float(spent.user + spent.system)


def main(
    people: Annotated[int, typer.Option(help="People in a scene.")] = 200,
    zones: Annotated[int, typer.Option(help="Zones of a scene.")] = 50,
    scenes: Annotated[int, typer.Option(help="Scenes at once.")] = 1,
    rate: Annotated[float, typer.Option(help="Updates a second of each scene.")] = 10.0,
    seconds: Annotated[float, typer.Option(help="How long.")] = 20.0,
    out: Annotated[Path, typer.Option(help="Directory for the results.")] = _ROOT / "build" / "bench",
) -> None:
    """Measure the region service: CPU and latency of following everybody through the zones of a scene."""
    console = Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="run-", dir=out) as directory:
            found = uvloop.run(
                measure(Path(directory), people=people, zones=zones, scenes=scenes, rate=rate, seconds=seconds)
            )
    except grpc.aio.AioRpcError as error:
        console.print(f"bench: {error.code().name}: {error.details()}", style="red", markup=False)
        raise typer.Exit(1) from None
    shares = ", ".join(f"{name} {share:.3f}" for name, share in found.cpu_share.items())
    console.print(
        f"{found.machine.cores} x {found.machine.cpu}, load average {found.machine.load_average} before the start\n"
        f"{scenes} scenes of {people} people and {zones} zones, {rate:g} updates/s each for {seconds:g} s\n"
        f"RecordSceneUpdates p50 {found.p50_ms:.1f} ms, p95 {found.p95_ms:.1f}, p99 {found.p99_ms:.1f}; "
        f"the generator was {found.late_max_ms:.0f} ms late at most\n"
        f"cores used: {shares}\n"
        f"CPU us an update: region {found.cost.region:.0f}, Redis {found.cost.redis:.0f}, "
        f"bare rules {found.cost.tracker:.0f}; ratio {found.ratio:.1f}\n"
        f"entries and exits: {found.events}, told to a watcher: {found.watched}; "
        f"GetOccupancy over all of it: {found.occupancy_ms:.0f} ms\n"
        f"once a second meanwhile: ListVisits {_span(found.listed_ms)}, GetOccupancy {_span(found.present_ms)}",
        markup=False,
        soft_wrap=True,
    )
    path = out / "region.json"
    path.write_text(found.model_dump_json(indent=2) + "\n")
    console.print(f"Written to {path}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
