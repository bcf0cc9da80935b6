"""Killed servers, killed Redis, rolling updates: no visit and no event is lost, and none comes twice."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from poi.v1 import region_pb2

from mesh.local import Redis, Service
from tests.region.client import STORE, Stub, Watcher, check_truth, client, record, record_through_outages, visits
from tests.region.scenes import recorded_updates
from tests.support import Truth, load_truth

MODULE = "history_svc.region"
PATIENT = {"POI_REGION_SILENCE_SECONDS": "600"}
"""However long a crash takes, no visit ends because nobody could tell of it."""


async def check(stub: Stub, watcher: Watcher, truth: Truth) -> None:
    """The visits, what the watcher saw, and what the log holds, are each exactly the truth."""
    check_truth(await visits(stub), truth)
    check_truth(list(watcher.visits.values()), truth)
    assert len(watcher.events) == len(set(watcher.events)) == 2 * len(truth.dwell)
    again = Watcher(stub)
    again.cursor = "0-0"
    await asyncio.wait_for(again.until(len(watcher.events)), 60)
    assert again.events == watcher.events
    open_visits = region_pb2.ListVisitsRequest(parent=STORE, state=region_pb2.VISIT_STATE_OPEN)
    assert await visits(stub, open_visits) == []


def crash(program: Service | Redis, *, away: float = 0.0) -> Callable[[], Awaitable[None]]:
    """Kills the program now, and starts it again while others go on."""
    back: list[asyncio.Task[Any]] = []

    async def run() -> None:
        await asyncio.to_thread(program.kill)

        async def start() -> None:
            await asyncio.sleep(away)
            await asyncio.to_thread(program.start)

        back.append(asyncio.create_task(start()))

    return run


async def test_sigkill_of_the_server_while_the_recording_plays(service: Any, redis_url: str, shared_dir: Path) -> None:
    updates = recorded_updates(shared_dir)
    server: Service = await asyncio.to_thread(service, MODULE, {"POI_REDIS_URL": redis_url, **PATIENT})
    async with client(server.target) as stub:
        watcher = Watcher(stub)
        watching = asyncio.create_task(watcher.until(12))
        await watcher.started.wait()
        # Where people enter and leave zones: the updates of 4 s, 12 s and 27 s.
        await record_through_outages(stub, updates, {8: crash(server), 24: crash(server), 54: crash(server)})
        await asyncio.wait_for(watching, 60)
        await record(stub, updates, batch=10)
        await record(stub, updates)
        await check(stub, watcher, load_truth(shared_dir))


async def test_every_message_twice_and_late(service: Any, redis_url: str, shared_dir: Path) -> None:
    updates = recorded_updates(shared_dir)
    server: Service = await asyncio.to_thread(service, MODULE, {"POI_REDIS_URL": redis_url, **PATIENT})
    async with client(server.target) as stub:
        watcher = Watcher(stub)
        watching = asyncio.create_task(watcher.until(12))
        await watcher.started.wait()
        for start in range(0, len(updates), 5):
            await record(stub, updates[max(0, start - 10) : start + 5])
            await record(stub, updates[start : start + 5], batch=5)
        await asyncio.wait_for(watching, 60)
        await check(stub, watcher, load_truth(shared_dir))


async def test_sigkill_of_redis_while_the_recording_plays(
    service: Any, started: Any, tmp_path: Path, shared_dir: Path
) -> None:
    updates = recorded_updates(shared_dir)
    redis = Redis(tmp_path / "own-redis")
    await asyncio.to_thread(started, redis)
    server: Service = await asyncio.to_thread(service, MODULE, {"POI_REDIS_URL": redis.url, **PATIENT})
    async with client(server.target) as stub:
        watcher = Watcher(stub)
        watching = asyncio.create_task(watcher.until(12))
        await watcher.started.wait()
        reasons = await record_through_outages(
            stub, updates, {8: crash(redis), 24: crash(redis, away=9), 54: crash(redis)}
        )
        assert reasons == {"STATE_UNAVAILABLE"}, "the long outage is told, the short ones are bridged"
        await asyncio.wait_for(watching, 60)
        await record(stub, updates, batch=10)
        await check(stub, watcher, load_truth(shared_dir))


async def test_a_rolling_update_with_two_servers_at_once(service: Any, redis_url: str, shared_dir: Path) -> None:
    updates = recorded_updates(shared_dir)
    env = {"POI_REDIS_URL": redis_url, "POI_REGION_DRAIN_SECONDS": "0.2", **PATIENT}
    old: Service = await asyncio.to_thread(service, MODULE, env, name="old")
    new: Service = await asyncio.to_thread(service, MODULE, env, name="new")
    async with client(old.target) as stub, client(new.target) as other:
        watcher = Watcher(stub)
        watching = asyncio.create_task(watcher.until(12))
        await watcher.started.wait()
        await record(stub, updates[:10])
        await asyncio.gather(record(stub, updates[10:30]), record(other, updates[10:30]))

        lasting = stub.RecordSceneUpdates()
        await lasting.write(region_pb2.RecordSceneUpdatesRequest(parent=STORE, updates=[updates[30]]))
        assert isinstance(await lasting.read(), region_pb2.RecordSceneUpdatesResponse)
        await asyncio.to_thread(old.stop)
        assert (await lasting.details()) == "the server is draining: reconnect and resume"

        await record(other, updates[25:])
        watching.cancel()
        resumed = Watcher(other)
        resumed.cursor = watcher.cursor
        resumed.events, resumed.visits = watcher.events, watcher.visits
        await asyncio.wait_for(resumed.until(12), 60)
        await check(other, resumed, load_truth(shared_dir))
