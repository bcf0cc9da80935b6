"""The service through its contract."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis.asyncio
from google.protobuf import duration_pb2
from poi.v1 import common_pb2, region_pb2

from history_svc.region.keys import Keys
from mesh import tail
from mesh.errors import MeshError, from_rpc, from_status
from tests.region.client import SCENE, STORE, Stub, Watcher, check_truth, client, record, visits
from tests.region.scenes import entries_and_exits, recorded_updates
from tests.support import load_truth

WOMAN = "1c9cbf2e-4f3c-4a0a-9a53-3a1f3f0a5b11"


@pytest.fixture
async def stub(service: Any, redis_url: str) -> AsyncIterator[Stub]:
    env = {"POI_REDIS_URL": redis_url, "POI_REGION_HEARTBEAT_SECONDS": "0.2", "POI_REGION_DRAIN_SECONDS": "0.1"}
    server = await asyncio.to_thread(service, "history_svc.region", env)
    async with client(server.target) as connected:
        yield connected


def moment(message: region_pb2.SceneUpdate, seconds: float) -> None:
    message.update_time.FromMilliseconds(round(seconds * 1000))


def update(seconds: float, *people: tuple[str, Sequence[str]], scene: str = SCENE) -> region_pb2.SceneUpdate:
    """Who is in which zones so many seconds after the epoch."""
    message = region_pb2.SceneUpdate(scene=scene)
    moment(message, seconds)
    for object_id, zones in people:
        message.objects.add(object_id=object_id, zones=[region_pb2.ZonePresence(zone_id=zone) for zone in zones])
    return message


async def refusal(call: Any) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc(caught.value)


async def test_the_recording_gives_the_true_dwell_times(stub: Stub, shared_dir: Path) -> None:
    updates = recorded_updates(shared_dir)
    await record(stub, updates, batch=8)
    found = await visits(stub)
    check_truth(found, load_truth(shared_dir))
    assert [visit.enter_time.ToMilliseconds() for visit in found] == sorted(
        (visit.enter_time.ToMilliseconds() for visit in found), reverse=True
    )
    cameras = {(visit.object_id, visit.zone.rpartition("/")[2]): list(visit.cameras) for visit in found}
    assert cameras[WOMAN, "entrance"] == [f"{STORE}/cameras/Camera_01"]
    seen_in_aisle = {c for u in updates for o in u.objects if o.object_id == WOMAN for z in o.zones
                     if z.zone_id == "aisle-3" for c in o.cameras}  # fmt: skip
    assert set(cameras[WOMAN, "aisle-3"]) == seen_in_aisle


@pytest.mark.parametrize("order", ["events only", "event first", "scene first", "events late"])
async def test_entries_and_exits_of_zones_make_the_same_visits_as_updates_of_the_scene(
    stub: Stub, shared_dir: Path, order: str
) -> None:
    updates = recorded_updates(shared_dir)
    events = entries_and_exits(updates)
    lag = {"events only": 0, "event first": -1, "scene first": 1, "events late": 700_000_000}[order]
    told = [] if order == "events only" else [(update.update_time.ToNanoseconds(), update) for update in updates]
    told += [(event.update_time.ToNanoseconds() + lag, event) for event in events]
    sent = [update for _, update in sorted(told, key=lambda item: item[0])]
    await record(stub, [twice for update in sent for twice in (update, update)], batch=8)
    check_truth(await visits(stub), load_truth(shared_dir))
    whole = await visits(stub)
    await record(stub, events, batch=8)
    assert await visits(stub) == whole, "a repeat changes nothing"


async def test_an_entry_into_one_zone_leaves_other_zones_and_people_alone(stub: Stub) -> None:
    await record(stub, [update(10, ("ann", ["door", "hall"]), ("bob", ["hall"]))])
    entry = update(11, ("cid", ["till"]), ("ann", []))
    entry.zone_id = "till"
    await record(stub, [entry])
    occupancy = await stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=f"{SCENE}/occupancy"))
    assert occupancy.update_time.ToMilliseconds() == 11_000
    assert {zone.zone.rpartition("/")[2]: list(zone.object_ids) for zone in occupancy.zones} == {
        "door": ["ann"], "hall": ["ann", "bob"], "till": ["cid"]
    }  # fmt: skip
    await record(stub, [update(12, ("ann", ["door", "hall"]), ("bob", ["hall"]), ("cid", ["till"]))])
    seen = {(visit.object_id, visit.enter_time.seconds, visit.last_seen_time.seconds) for visit in await visits(stub)}
    assert seen == {("ann", 10, 12), ("bob", 10, 12), ("cid", 11, 12)}


async def test_occupancy_is_that_of_the_last_update(stub: Stub, shared_dir: Path) -> None:
    updates = recorded_updates(shared_dir)
    name = f"{SCENE}/occupancy"
    missing = await refusal(stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=name)))
    assert missing.code is grpc.StatusCode.NOT_FOUND
    await record(stub, [one for one in updates if one.update_time.ToMilliseconds() <= 1_795_165_212_500], batch=100)
    occupancy = await stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=name))
    assert occupancy.name == name
    assert occupancy.update_time.ToMilliseconds() == 1_795_165_212_500
    counts = {zone.zone.rpartition("/")[2]: zone.count for zone in occupancy.zones}
    assert counts == {"entrance": 0, "aisle-3": 2, "aisle-5": 1}
    assert all(zone.count == len(zone.object_ids) for zone in occupancy.zones)
    await record(stub, updates, batch=100)
    occupancy = await stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=name))
    assert {zone.zone.rpartition("/")[2]: zone.count for zone in occupancy.zones} == {
        "entrance": 0, "aisle-3": 0, "aisle-5": 0, "checkout": 0
    }  # fmt: skip


async def test_occupancy_over_an_interval_is_that_of_its_visits(stub: Stub, shared_dir: Path) -> None:
    await record(stub, recorded_updates(shared_dir), batch=100)
    start, end = 1_795_165_205_000, 1_795_165_213_000
    request = region_pb2.GetOccupancyRequest(name=f"{SCENE}/occupancy")
    request.interval.start_time.FromMilliseconds(start)
    request.interval.end_time.FromMilliseconds(end)
    occupancy = await stub.GetOccupancy(request)
    assert occupancy.interval == request.interval
    # Aisle 3: one person all the time, another from 9 s on. Entrance: one from 6 s to 9 s.
    over = {zone.zone.rpartition("/")[2]: zone.over_interval for zone in occupancy.zones}
    aisle = over["aisle-3"]
    assert (aisle.visits, aisle.visitors, aisle.peak_count) == (2, 2, 2)
    assert aisle.total_dwell.ToMilliseconds() == 8_000 + 4_000
    assert aisle.mean_dwell.ToMilliseconds() == 6_000
    assert aisle.average_count == 1.5
    entrance = over["entrance"]
    assert (entrance.visits, entrance.peak_count, entrance.total_dwell.ToMilliseconds()) == (1, 1, 3_000)
    assert over["checkout"] == region_pb2.IntervalOccupancy(total_dwell=duration_pb2.Duration())
    assert [zone.count for zone in occupancy.zones] == [0, 0, 0, 0], "now is as without an interval"

    request.interval.ClearField("end_time")
    assert (await stub.GetOccupancy(request)).interval.end_time == occupancy.update_time
    request.interval.start_time.FromMilliseconds(occupancy.update_time.ToMilliseconds() + 1)
    beyond = await stub.GetOccupancy(request)
    assert not beyond.HasField("interval")
    assert not any(zone.HasField("over_interval") for zone in beyond.zones)

    for wrong, field in [
        (common_pb2.Interval(), "interval.start_time"),
        (common_pb2.Interval(start_time=occupancy.update_time, end_time=occupancy.update_time), "interval.end_time"),
    ]:
        refused: Any = await refusal(
            stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=request.name, interval=wrong))
        )
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.violations[0][0] == field


async def test_a_bad_update_costs_itself_only(stub: Stub) -> None:
    future = time.time() + 100 * 86_400
    updates = [
        update(1, ("ann", ["door"])),
        update(2, ("ann", ["door"]), scene="stores/other/scenes/hall"),
        update(2, ("ann", ["door"]), scene="hall"),
        update(2, ("ann", ["the door"])),
        update(2, ("", ["door"])),
        update(2, ("x" * 129, ["door"])),
        update(future),
        region_pb2.SceneUpdate(scene=SCENE),
        update(-5),
        update(3, ("ann", ["till"])),
        update(2, ("ann", ["door"])),
    ]
    updates[-1].zone_id = "the door"
    updates.append(update(2, ("ann", ["door"])))
    updates[-1].objects[0].tracks.extend(["cam:c1:7", "c1:7"])
    updates[3].objects[0].cameras.append(f"{STORE}/cameras/c1")
    bad_camera = update(2, ("ann", ["door"]))
    bad_camera.objects[0].cameras.append("c1")
    updates.insert(9, bad_camera)
    call = stub.RecordSceneUpdates(
        iter(
            [
                region_pb2.RecordSceneUpdatesRequest(parent=STORE, batch_id=7, updates=updates),
                region_pb2.RecordSceneUpdatesRequest(parent="stores/", batch_id=8, updates=[update(4)]),
                region_pb2.RecordSceneUpdatesRequest(
                    parent=STORE, batch_id=9, updates=[update(4 + n / 1000) for n in range(257)]
                ),
                region_pb2.RecordSceneUpdatesRequest(parent=STORE, batch_id=10),
            ]
        )
    )
    first, second, third, fourth = [answer async for answer in call]
    assert [error.index for error in first.errors] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    refused = [from_status(error.status) for error in first.errors]
    fields = [error.violations[0][0] for error in refused]  # type: ignore[attr-defined]
    assert fields == [
        "scene",
        "scene",
        "objects[0].zones[0].zone_id",
        "objects[0].object_id",
        "objects[0].object_id",
        "update_time",
        "update_time",
        "update_time",
        "objects[0].cameras[0]",
        "zone_id",
        "objects[0].tracks[1]",
    ]
    assert refused[5].reason == "CLOCK_AHEAD"
    assert first.errors[0].item_id == "stores/other/scenes/hall"
    assert [error.index for error in second.errors] == [0]
    assert [error.index for error in third.errors] == [256]
    assert not fourth.errors
    assert sorted(visit.zone.rpartition("/")[2] for visit in await visits(stub)) == ["door", "till"]


async def test_filters_and_pages(stub: Stub, shared_dir: Path) -> None:
    await record(stub, recorded_updates(shared_dir), batch=100)
    whole = await visits(stub)
    paged = await visits(stub, region_pb2.ListVisitsRequest(parent=STORE, page_size=1))
    assert paged == whole

    async def names(**query: Any) -> list[tuple[str, str]]:
        found = await visits(stub, region_pb2.ListVisitsRequest(parent=STORE, **query))
        return sorted((visit.object_id[:1], visit.zone.rpartition("/")[2]) for visit in found)

    interval = common_pb2.Interval()
    interval.start_time.FromMilliseconds(1_795_165_210_000)
    interval.end_time.FromMilliseconds(1_795_165_212_000)
    assert await names(interval=interval) == [("1", "aisle-3"), ("7", "aisle-3")]
    interval.end_time.FromNanoseconds(1_795_165_212_000_000_001)
    assert await names(interval=interval) == [("1", "aisle-3"), ("7", "aisle-3"), ("7", "aisle-5")]
    assert await names(zones=[f"{SCENE}/zones/entrance"]) == [("1", "entrance"), ("7", "entrance")]
    assert await names(object_ids=[WOMAN], zones=[f"{SCENE}/zones/entrance"]) == [("1", "entrance")]
    assert await names(state=region_pb2.VISIT_STATE_OPEN) == []
    assert await names(cameras=[f"{STORE}/cameras/nowhere"]) == []
    assert len(await names(state=region_pb2.VISIT_STATE_CLOSED)) == len(whole) == 6


async def test_an_open_visit_says_how_long_it_takes_so_far(stub: Stub) -> None:
    await record(stub, [update(10, ("ann", ["door"])), update(12.5, ("ann", ["door"]))])
    (visit,) = await visits(stub, region_pb2.ListVisitsRequest(parent=STORE, state=region_pb2.VISIT_STATE_OPEN))
    assert visit.dwell.ToMilliseconds() == 2500
    assert visit.last_seen_time.ToMilliseconds() == 12_500
    assert not visit.HasField("exit_time")


async def test_a_visit_says_who_the_person_is_to_cameras(stub: Stub) -> None:
    for second, track in [(10, "cam:c1:7"), (11, "cam:c2:x:1")]:
        seen = update(second, ("ann", ["door"]))
        seen.objects[0].tracks.append(track)
        await record(stub, [seen])
    (visit,) = await visits(stub)
    assert list(visit.tracks) == ["cam:c1:7", "cam:c2:x:1"]


async def test_wrong_requests_name_the_field(stub: Stub) -> None:
    backwards = common_pb2.Interval()
    backwards.start_time.FromSeconds(5)
    backwards.end_time.FromSeconds(5)
    await record(stub, [update(1, ("ann", ["door", "hall"]))])
    page = await stub.ListVisits(region_pb2.ListVisitsRequest(parent=STORE, page_size=1))
    request = region_pb2.ListVisitsRequest
    for wrong, field in [
        (request(parent="stores"), "parent"),
        (request(parent=STORE, page_size=-1), "page_size"),
        (request(parent=STORE, page_token="x"), "page_token"),
        (request(parent=STORE, page_token=page.next_page_token, object_ids=["bob"]), "page_token"),
        (request(parent=STORE, interval=backwards), "interval.end_time"),
        (request(parent=STORE, zones=["stores/other/scenes/a/zones/b"]), "zones[0]"),
        (request(parent=STORE, cameras=["c1"]), "cameras[0]"),
    ]:
        refused: Any = await refusal(stub.ListVisits(wrong))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.violations[0][0] == field


async def test_watchers_see_each_event_once_from_any_cursor_on(stub: Stub, shared_dir: Path) -> None:
    watchers = [Watcher(stub) for _ in range(10)]
    watching = [asyncio.create_task(watcher.until(12)) for watcher in watchers]
    for watcher in watchers:
        await watcher.started.wait()
    await record(stub, recorded_updates(shared_dir))
    await asyncio.wait_for(asyncio.gather(*watching), 60)
    check_truth(list(watchers[0].visits.values()), load_truth(shared_dir))
    assert len(set(watchers[0].events)) == 12
    for watcher in watchers:
        assert watcher.events == watchers[0].events

    call = stub.WatchVisits(region_pb2.WatchVisitsRequest(parent=STORE, cursor="0-0"))
    responses: list[region_pb2.WatchVisitsResponse] = []
    while len(responses) < 13:
        response = await call.read()
        assert isinstance(response, region_pb2.WatchVisitsResponse)
        responses.append(response)
    call.cancel()
    assert responses[0].event == region_pb2.VISIT_EVENT_HEARTBEAT
    assert responses[0].cursor == "0-0"
    for index, response in enumerate(responses[1:], 1):
        late = Watcher(stub)
        late.cursor = response.cursor
        await asyncio.wait_for(late.until(12 - index), 60)
        assert late.events == watchers[0].events[index:]


async def test_a_quiet_watch_says_that_it_is_alive_also_when_other_zones_are_busy(stub: Stub) -> None:
    call = stub.WatchVisits(region_pb2.WatchVisitsRequest(parent=STORE, zones=[f"{SCENE}/zones/door"]))
    responses = aiter(call)
    first = await anext(responses)
    assert (first.event, first.visit, first.cursor) == (
        region_pb2.VISIT_EVENT_HEARTBEAT,
        region_pb2.Visit(),
        "0-0",
    )
    sending = stub.RecordSceneUpdates()
    heard: list[region_pb2.WatchVisitsResponse] = []

    async def listen() -> None:
        async for response in responses:
            heard.append(response)
            if response.event != region_pb2.VISIT_EVENT_HEARTBEAT:
                return

    listening = asyncio.create_task(listen())
    number = 0
    while number < 12 or len({response.cursor for response in heard}) < 3:
        number += 1
        # An event each 50 ms: the log is never quiet for a heartbeat.
        busy = region_pb2.RecordSceneUpdatesRequest(parent=STORE, updates=[update(1 + number, ("ann", [f"z{number}"]))])
        await sending.write(busy)
        await sending.read()
        await asyncio.sleep(0.05)
    await sending.write(region_pb2.RecordSceneUpdatesRequest(parent=STORE, updates=[update(2000, ("ann", ["door"]))]))
    await asyncio.wait_for(listening, 60)
    call.cancel()
    *before, last = heard
    assert len(before) >= 2
    assert {response.event for response in before} == {region_pb2.VISIT_EVENT_HEARTBEAT}
    assert len({response.cursor for response in before}) > 1, "the cursor moves on"
    assert (last.event, last.visit.zone) == (region_pb2.VISIT_EVENT_ENTERED, f"{SCENE}/zones/door")


async def test_a_cursor_older_than_the_log_is_out_of_range(stub: Stub, redis_url: str) -> None:
    await record(stub, [update(second, ("ann", [f"z{second}"])) for second in range(1, 5)])
    async with redis.asyncio.Redis.from_url(redis_url) as connection:
        await tail.trim(connection, Keys("store-1").events, round(time.time() * 1000) + 1000)
    for cursor, code, reason in [
        ("1-0", grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED"),
        ("yesterday", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CURSOR"),
    ]:
        refused = await refusal(stub.WatchVisits(region_pb2.WatchVisitsRequest(parent=STORE, cursor=cursor)).read())
        assert (refused.code, refused.reason) == (code, reason)


async def test_a_scene_that_stops_is_closed_by_the_clock(service: Any, redis_url: str) -> None:
    env = {"POI_REDIS_URL": redis_url, "POI_REGION_SILENCE_SECONDS": "0.4", "POI_REGION_GAP_SECONDS": "0.1"}
    server = await asyncio.to_thread(service, "history_svc.region", env)
    async with client(server.target) as stub:
        watcher = Watcher(stub)
        watching = asyncio.create_task(watcher.until(2))
        await watcher.started.wait()
        await record(stub, [update(10, ("ann", ["door"])), update(10.2, ("ann", ["door"]))], batch=2)
        await asyncio.wait_for(watching, 60)
        (visit,) = await visits(stub)
        assert visit.state == region_pb2.VISIT_STATE_CLOSED
        assert visit.exit_time.ToMilliseconds() == visit.last_seen_time.ToMilliseconds() == 10_200
        occupancy = await stub.GetOccupancy(region_pb2.GetOccupancyRequest(name=f"{SCENE}/occupancy"))
        assert [zone.count for zone in occupancy.zones] == [0]


def test_a_wrong_setting_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "history_svc.region"],
        env={"POI_REGION_GAP_SECONDS": "-1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "POI_REGION_GAP_SECONDS" in done.stderr
