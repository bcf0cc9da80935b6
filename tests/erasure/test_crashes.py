"""Whoever is away or is killed, and whenever: no receipt before all is done, and all is done in the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
from poi.v1 import erasure_pb2

from mesh.erasure.keepers import SERVICES
from tests.erasure.conftest import Scene
from tests.erasure.support import DONE, INCOMPLETE, refusal
from tests.support import similar, unit

pytestmark = pytest.mark.timeout(180)


async def _somebody(scene: Scene, poi_id: str, seed: int) -> erasure_pb2.ErasedPerson:
    """Enrolled, seen on two cameras, alerted twice."""
    face = unit(seed)
    await scene.here.enrol(poi_id, face)
    for number, camera in enumerate((f"{poi_id}-one", f"{poi_id}-two")):
        await scene.here.shows(camera, number + 1, [similar(face, 0.9, seed + each) for each in range(4)], at=number)
    await scene.here.used()
    assert len(await scene.here.raised(f"{poi_id}-one", f"{poi_id}-two")) == 2
    return scene.eraser.person(poi_id)


async def _is_gone(scene: Scene, poi_id: str, seed: int) -> None:
    assert not await scene.here.alerts(f"{poi_id}-one", f"{poi_id}-two")
    assert not await scene.here.client.look_for(unit(seed), scene.here.window.interval)
    assert poi_id not in await scene.here.client.pois()


@pytest.mark.parametrize("service", SERVICES)
async def test_who_is_away_is_named_and_there_is_no_receipt_until_they_are_back(scene: Scene, service: str) -> None:
    seed = 100 * (1 + SERVICES.index(service))
    name = f"away-{service}"
    person = await _somebody(scene, name, seed)
    plan = await scene.eraser.plan(person)
    scene.mesh.services[service].kill()

    error = await refusal(scene.eraser.plan(person))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TRACES_UNKNOWN")
    assert error.metadata["keeper"] == service
    request = scene.eraser.request(person, plan)
    begun = await scene.eraser.erase(request)
    assert begun.state == INCOMPLETE
    assert {one.keeper for one in begun.obstacles} == {service}
    assert not begun.HasField("receipt")

    await asyncio.to_thread(scene.mesh.services[service].start)
    done = await scene.eraser.done(request)
    assert done.name == begun.name
    assert not done.obstacles
    removed = await scene.eraser.check(done)
    assert (removed["match: person"], removed["alert: alerts"], removed["history: appearances"]) == (1, 2, 2)
    await _is_gone(scene, name, seed)


async def test_a_server_that_is_killed_with_an_erasure_goes_on_with_it_by_itself(scene: Scene) -> None:
    person = await _somebody(scene, "resumed", 700)
    plan = await scene.eraser.plan(person)
    scene.mesh.services["history"].kill()
    request = scene.eraser.request(person, plan)
    begun = await scene.eraser.erase(request)
    assert begun.state == INCOMPLETE
    scene.mesh.services["audit"].kill()

    await asyncio.to_thread(scene.mesh.services["history"].start)
    await asyncio.to_thread(scene.mesh.services["audit"].start)

    async with asyncio.timeout(30):
        while True:
            found = await scene.eraser.stub.GetPersonErasure(
                erasure_pb2.GetPersonErasureRequest(name=begun.name), timeout=10
            )
            if found.state == DONE:
                break
            await asyncio.sleep(0.1)
    await scene.eraser.check(found)
    assert (await scene.eraser.erase(request)).receipt == found.receipt, "a repeat has the same receipt"
    await _is_gone(scene, "resumed", 700)


@pytest.mark.parametrize("victim", ["audit", *SERVICES])
async def test_whoever_is_killed_at_any_moment_the_same_request_completes(scene: Scene, victim: str) -> None:
    for attempt, delay in enumerate((0.02, 0.1, 0.25)):
        name, seed = f"killed-{victim}-{attempt}", 1000 + 100 * hash_of(victim) + 10 * attempt
        person = await _somebody(scene, name, seed)
        plan = await scene.eraser.plan(person)
        request = scene.eraser.request(person, plan)
        erasing = asyncio.create_task(scene.eraser.erase(request))
        await asyncio.sleep(delay)

        scene.mesh.services[victim].kill()
        await asyncio.to_thread(scene.mesh.services[victim].start)

        with suppress(grpc.aio.AioRpcError):
            await erasing
        done = await scene.eraser.done(request)
        await scene.eraser.check(done)
        await _is_gone(scene, name, seed)


def hash_of(victim: str) -> int:
    """A number for each."""
    return ("audit", *SERVICES).index(victim) + 1
