"""Pictures of alerts: made once, with what there is, kept and erased with the appearance, whoever is away or killed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import grpc
import numpy as np
import pytest
from poi.v1 import alert_pb2, common_pb2, history_pb2

from alert_svc.alerts import new_alert
from alert_svc.evidence import picture
from alert_svc.evidence.sources import choose
from alert_svc.evidence.store import WaitingAlerts
from alert_svc.evidence.worker import PictureMaker
from alert_svc.log import AlertLog
from alert_svc.times import now
from mesh.errors import NotFound, from_rpc
from tests.alert_svc.pictures import (
    BLUE,
    ENTRY,
    EVIDENCE,
    EXIT,
    FACE,
    GREEN,
    MATCH,
    POI,
    RED,
    REFERENCE,
    Scene,
    Studio,
    pixels,
    scene,
)
from tests.history_svc.client import STORE, moment


def near(image: object, colour: tuple[int, int, int]) -> bool:
    """Whether most of the picture's part is of a colour, give or take what JPEG does to it."""
    apart = np.abs(np.asarray(image, np.int16) - np.array(colour, np.int16)).max(axis=2)
    return bool(np.median(apart) < 25)


async def test_face_frame_and_reference_are_side_by_side_once_the_frame_has_come(on_air: Scene) -> None:
    appearance = await on_air.appear()
    name = await on_air.raise_alert(appearance)
    assert not (await on_air.get(name)).HasField("evidence")
    frame = await on_air.film(appearance, scene((90, 90, 90), RED))

    alert = await on_air.shown(name)

    assert (alert.evidence.frame, alert.evidence.reference) == (frame, REFERENCE)
    assert alert.evidence.create_time == alert.update_time
    assert alert == await on_air.get(name)
    image = await on_air.frame(alert.evidence.picture)
    shown = pixels(image)
    assert shown.shape[0] == 480
    middle = shown[200:300]
    assert near(middle[:, 100:200], RED), "the face in the frame comes first"
    assert near(middle[:, -200:-100], BLUE), "the reference comes last"
    assert near(shown[460:470, 700:800], (90, 90, 90)), "the whole frame is between them"
    kinds = [(one.name, one.kind) for one in await on_air.frames(appearance)]
    assert kinds == [(frame, MATCH), (alert.evidence.picture, EVIDENCE)], "right after the frame it shows"


async def test_a_frame_that_was_kept_for_the_match_is_waited_for_and_any_other_does_after_a_while(
    on_air: Scene,
) -> None:
    one, other = await on_air.appear(), await on_air.appear()
    entries = [await on_air.film(each, scene((9, 9, 9), RED), kind=ENTRY) for each in (one, other)]
    names = [await on_air.raise_alert(each) for each in (one, other)]
    matched = await on_air.film(one, scene((99, 99, 99), RED), at=0.4)

    alerts = [await on_air.shown(name) for name in names]

    assert entries[0] == entries[1]
    assert [alert.evidence.frame for alert in alerts] == [matched, entries[1]]


async def test_who_has_no_reference_picture_is_shown_without_and_who_has_no_frame_not_at_all(on_air: Scene) -> None:
    filmed, unseen = await on_air.appear(), await on_air.appear()
    without_frame = await on_air.raise_alert(unseen)
    without_reference = await on_air.raise_alert(filmed, reference=f"{POI}/references/absent")
    await on_air.film(filmed, scene((90, 90, 90), RED))

    alert = await on_air.shown(without_reference)
    await on_air.logged("evidence_given_up", without_frame)

    assert alert.evidence.reference == ""
    assert near(pixels(await on_air.frame(alert.evidence.picture))[200:300, 100:200], RED)
    assert not (await on_air.get(without_frame)).HasField("evidence")


async def test_a_frame_that_cannot_be_decoded_costs_its_own_alert_alone(on_air: Scene) -> None:
    broken, sound = await on_air.appear(), await on_air.appear()
    whole = scene((90, 90, 90), RED)
    await on_air.film(broken, whole[:700])
    await on_air.film(sound, whole)
    bad, good = await on_air.raise_alert(broken), await on_air.raise_alert(sound)

    await on_air.shown(good)
    line = await on_air.logged("evidence_given_up", bad)

    assert not (await on_air.get(bad)).HasField("evidence")
    assert "UNDECODABLE" in line


async def test_erasing_the_appearance_erases_the_picture(on_air: Scene) -> None:
    appearance = await on_air.appear()
    await on_air.film(appearance, scene((90, 90, 90), RED))
    alert = await on_air.shown(await on_air.raise_alert(appearance))
    assert await on_air.frame(alert.evidence.picture)

    erased = await on_air.client.stub.EraseAppearances(
        history_pb2.EraseAppearancesRequest(
            parent=STORE, appearances=history_pb2.AppearanceNames(names=[appearance]), request_id="erase"
        )
    )

    assert erased.erasure.frame_count == 2
    for name in (alert.evidence.frame, alert.evidence.picture):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await on_air.frame(name)
        assert isinstance(from_rpc(failure.value), NotFound)


async def test_while_history_and_match_are_away_alerts_go_on_and_pictures_follow(on_air: Scene) -> None:
    appearances = [await on_air.appear() for _ in range(2)]
    for each in appearances:
        await on_air.film(each, scene((90, 90, 90), RED))
    on_air.references.is_away = True
    await asyncio.to_thread(on_air.history.kill)
    names = [await on_air.raise_alert(each) for each in appearances]
    acknowledge = alert_pb2.AcknowledgeAlertRequest(name=names[0], actor="ann")
    assert (await on_air.alerts.AcknowledgeAlert(acknowledge)).state == alert_pb2.ALERT_STATE_ACKNOWLEDGED
    for name in names:
        await on_air.logged("evidence_waits", name)
    on_air.references.is_away = False
    await asyncio.to_thread(on_air.history.start)

    alerts = [await on_air.shown(name) for name in names]

    assert all(alert.evidence.reference == REFERENCE for alert in alerts)
    assert alerts[0].acknowledgement.actor == "ann", "what people did meanwhile stays"


async def test_a_server_killed_while_it_makes_pictures_makes_each_once(on_air: Scene) -> None:
    appearances = [await on_air.appear() for _ in range(12)]
    for number, each in enumerate(appearances):
        await on_air.film(each, scene((number, 90, 90), RED))
    names = [await on_air.raise_alert(each) for each in appearances]
    await on_air.shown(names[2])
    await asyncio.to_thread(on_air.alert.kill)
    await asyncio.to_thread(on_air.alert.start)

    alerts = [await on_air.shown(name) for name in names]

    for alert, appearance in zip(alerts, appearances, strict=True):
        made = [one.name for one in await on_air.frames(appearance) if one.kind == EVIDENCE]
        assert made == [alert.evidence.picture]
    events: list[str] = []
    async for response in on_air.alerts.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=STORE, cursor="0-0")):
        if response.event == alert_pb2.ALERT_EVENT_HEARTBEAT and len(events) >= len(names):
            break
        if response.event == alert_pb2.ALERT_EVENT_EVIDENCE and response.alert.name in names:
            events.append(response.alert.name)
    assert sorted(events) == sorted(names), "each alert was told of its picture once"


async def test_who_dies_between_storing_a_picture_and_telling_the_alert_leaves_one_picture(
    on_air: Scene, servers: Studio
) -> None:
    appearance = await on_air.appear()
    await on_air.film(appearance, scene((90, 90, 90), RED))
    candidate = on_air.candidate(appearance)
    stored = asyncio.Event()

    class Dying(AlertLog):
        async def show(self, name: str, evidence: alert_pb2.AlertEvidence) -> bool:
            stored.set()
            await asyncio.Event().wait()
            return False

    async with on_air.parts(servers, database=1) as (client, sources):
        log = AlertLog(client, retention_days=1)
        alert = new_alert(candidate, "store-1", now(), "candidates[0]")
        await log.raise_all("store-1", [alert])
        for kept_in, done in ((Dying(client, retention_days=1), stored.wait), (log, None)):
            waiting = WaitingAlerts(client, "store-1", log.kept)
            maker = PictureMaker(waiting, kept_in, sources, "store-1", lease_seconds=2, wait=6)
            running = asyncio.create_task(maker.run())
            async with asyncio.timeout(60):
                if done is not None:
                    await done()
                else:
                    async with aclosing(log.follow("store-1", "0-0")) as changes:
                        async for change in changes:
                            if change is not None and change.event == alert_pb2.ALERT_EVENT_EVIDENCE:
                                break
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await maker.close()
        told = (await log.get(alert.name)).evidence.picture

    assert [one.name for one in await on_air.frames(appearance) if one.kind == EVIDENCE] == [told]


async def test_two_alerts_of_one_appearance_have_pictures_of_their_own(on_air: Scene) -> None:
    twin = f"{STORE}/pois/p2/references/r1"
    on_air.references.images[twin] = scene((40, 40, 40), GREEN)
    appearance = await on_air.appear()
    await on_air.film(appearance, scene((90, 90, 90), RED))

    names = [await on_air.raise_alert(appearance)]
    names.append(await on_air.raise_alert(appearance, reference=twin, poi=f"{STORE}/pois/p2"))
    alerts = [await on_air.shown(name) for name in names]

    pictures = [pixels(await on_air.frame(alert.evidence.picture)) for alert in alerts]
    assert [near(shown[200:300, -200:-100], colour) for shown, colour in zip(pictures, (BLUE, GREEN), strict=True)]
    assert len({alert.evidence.picture for alert in alerts}) == 2


def test_the_same_input_gives_the_same_picture() -> None:
    frame = picture.Subject(scene((90, 90, 90), RED), "caption", face=FACE)
    reference = picture.Subject(scene((9, 9, 9), BLUE), "reference")
    assert picture.compose(frame, reference) == picture.compose(frame, reference)


@pytest.mark.parametrize(
    "box",
    [
        common_pb2.BoundingBox(),
        common_pb2.BoundingBox(x=float("nan"), y=0, width=10, height=10),
        common_pb2.BoundingBox(x=1e38, y=1e38, width=1e38, height=1e38),
        common_pb2.BoundingBox(x=-500, y=-500, width=400, height=400),
    ],
    ids=["empty", "nan", "huge", "outside"],
)
def test_a_box_that_is_not_in_the_frame_is_left_out(box: common_pb2.BoundingBox) -> None:
    image = scene((90, 90, 90), RED)
    assert picture.crop_face(image, box) is None
    assert picture.compose(picture.Subject(image, "c", box, box), None) == picture.compose(
        picture.Subject(image, "c"), None
    )


def test_a_frame_that_would_unpack_too_far_is_decoded_smaller_or_refused() -> None:
    large = np.full((4000, 5000, 3), 90, np.uint8)
    large[1000:2000, 1000:2000] = RED
    face = common_pb2.BoundingBox(x=1000, y=1000, width=1000, height=1000)
    image = bytes(picture._encode(large))
    cropped = picture.crop_face(image, face)
    assert cropped is not None
    assert pixels(cropped).shape[:2] == (900, 900), "at a half, with its margins"
    at = image.index(b"\xff\xc0") + 5
    bomb = image[:at] + b"\xff\xff\xff\xff" + image[at + 4 :]
    with pytest.raises(picture.Undecodable):
        picture.compose(picture.Subject(bomb, "c"), None)


def test_the_frame_nearest_to_the_detection_is_shown() -> None:
    def frame(kind: history_pb2.FrameKind.ValueType, at: float) -> history_pb2.Frame:
        return history_pb2.Frame(name=f"{kind}@{at}", kind=kind, capture_time=moment(at))

    frames = [frame(ENTRY, 0.1), frame(MATCH, 0.6), frame(MATCH, 0.9), frame(EXIT, 60), frame(EVIDENCE, 0.0)]
    assert choose(frames, moment(0.0), settled=False) == frames[1]
    assert choose([frames[0]], moment(0.0), settled=False) is None
    assert choose([frames[0]], moment(0.0)) == frames[0]
    assert choose(frames, moment(59.0)) == frames[3], "a match of another time was another one's"
    assert choose([frames[4]], moment(0.0)) is None
