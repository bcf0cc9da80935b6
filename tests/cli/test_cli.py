"""The `poi` command on a running mesh."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paho.mqtt.publish
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from poi.v1 import region_pb2, region_pb2_grpc

from mesh import channels
from tests.alert_svc.support import candidate, connected, raise_alerts
from tests.cli.conftest import Poi

REQUIRED = ("--purpose", "theft", "--legal-basis", "legitimate-interests", "--expire", "90d")
ROOT = Path(__file__).parents[2]
# Whoever runs the tests in the background may ignore Ctrl-C, and children inherit that. They undo it themselves: with
# preexec_fn we would be forked as we are, in the middle of what gRPC's threads do.
FOLLOWING = (
    sys.executable,
    "-c",
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('clients.cli', run_name='__main__', alter_sys=True)",
)


def raise_one(poi: Poi, store: str, appearance: str) -> str:
    """Raises an alert; its id."""

    async def run() -> str:
        async with connected(poi.mesh.target("alert")) as client:
            made = await raise_alerts(client, f"stores/{store}", candidate(f"stores/{store}", appearance))
        return made.alerts[0].alert.rpartition("/")[2]

    return asyncio.run(run())


def test_status_tells_which_server_is_down(poi: Poi) -> None:
    assert poi.output("status").count("SERVING") == 6
    answer = poi("status", "--json", POI_REGION_TARGET="127.0.0.1:1")
    states = {name: server["status"] for name, server in json.loads(answer.stdout).items()}
    assert answer.exit_code == 1
    assert states.pop("region") != "SERVING"
    assert set(states.values()) == {"SERVING"}


def test_a_person_is_enrolled_found_on_a_photo_and_deleted(poi: Poi, photos: dict[str, Path]) -> None:
    woman = poi.json(
        *("enrol", "Jo [1]", photos["woman"], "--severity", "high", "--id", "jo"),
        *("--purpose", "theft", "--legal-basis", "legitimate-interests", "--expires", "2099-01-01"),
    )
    poi.output("enrol", "Bo", photos["man"], "--id", "bo", *REQUIRED)
    assert (woman["name"], woman["severity"], len(woman["references"])) == (
        "stores/store-1/pois/jo",
        "SEVERITY_HIGH",
        1,
    )
    assert [person["displayName"] for person in poi.json("list")["pois"]] == ["Bo", "Jo [1]"]
    listed = poi.output("list")
    assert "Jo [1]" in listed
    assert "2099-01-01" in listed

    faces = poi.json("match", photos["both"])["faces"]
    assert sorted(face["matches"][0]["poi"] for face in faces) == ["stores/store-1/pois/bo", "stores/store-1/pois/jo"]
    assert re.search(r"Jo \[1\] +HIGH +0\.\d\d >= 0\.45 +jo", poi.output("match", photos["both"]))
    assert "no appearance found" in poi.output("search", "--poi", "jo", "--since", "7d", "--camera", "c1")
    assert "no appearance found" in poi.output("search", photos["woman"], "--min-similarity", "0.5")

    changed = poi.json("update", "jo", "--expire", "2098-02-01", "--severity", "low", "--notes", "limps")
    assert changed["expireTime"].startswith(("2098-01-31", "2098-02-01")), "local time"
    assert (changed["severity"], changed["notes"], changed["purpose"]) == ("SEVERITY_LOW", "limps", "theft")
    assert "notes" not in poi.json("update", "jo", "--clear", "notes", "--etag", changed["etag"])
    assert "(ETAG_MISMATCH)" in poi.fails("update", "jo", "--name", "Joan", "--etag", changed["etag"])
    assert "nothing to change" in poi("update", "jo").stderr
    assert "both set and cleared: notes" in poi("update", "jo", "--notes", "n", "--clear", "notes").stderr
    assert re.search(r"jo +Joan +LOW", poi.output("update", "jo", "--name", "Joan"))

    assert poi.output("delete", "jo") == "jo  deleted\n"
    assert poi.output("delete", "stores/store-1/pois/bo") == "bo  deleted\n"
    assert "nobody is enrolled" in poi.output("list")


def test_photos_that_are_too_large_to_be_sent_are_made_smaller(
    poi: Poi, photos: dict[str, Path], tmp_path: Path
) -> None:
    small = cv2.imread(str(photos["woman"]))
    assert small is not None
    large = cv2.resize(small, (3000, 3000 * small.shape[0] // small.shape[1]), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).integers(0, 32, large.shape, dtype=np.uint16)
    photo = tmp_path / "phone.png"
    cv2.imwrite(str(photo), np.minimum(large.astype(np.uint16) + noise, 255).astype(np.uint8))
    assert photo.stat().st_size > channels.MAX_MESSAGE_BYTES

    assert "no appearance found" in poi.output("search", photo)
    assert "no appearance found" in poi.output("journey", photo, photo)
    assert "nobody enrolled" in poi.output("match", photo)


def test_the_threshold_is_shown_and_set_as_a_cosine_or_a_rate(poi: Poi) -> None:
    threshold = ("--store", "s-threshold", "threshold")
    assert poi.output(*threshold) == "aligned 0.450  others 0.450  a cosine\n"
    told = poi.output(*threshold, "--rate", "1e-4")
    assert re.fullmatch(r"aligned 0\.4\d\d  others 0\.4\d\d  one stranger in 10,000 may match anybody of \d+\n", told)
    assert poi.output(*threshold) == told
    assert poi.output(*threshold, "--cosine", "0.5") == "aligned 0.500  others 0.500  a cosine\n"


def test_alerts_are_listed_acknowledged_and_resolved(poi: Poi) -> None:
    first, second = raise_one(poi, "s-list", "a1"), raise_one(poi, "s-list", "a2")
    alerts = ("--store", "s-list", "alerts")
    assert [alert["name"].rpartition("/")[2] for alert in poi.json(*alerts)["alerts"]] == [second, first]

    poi.output("--store", "s-list", "ack", first, "--actor", "ann", "--note", "going")
    assert poi.json("--store", "s-list", "resolve", second, "--actor", "bob")["resolution"]["actor"] == "bob"

    rows = poi.output(*alerts).splitlines()[1:]
    assert [re.split(r" {2,}", row)[1:5] for row in rows] == [
        ["RESOLVED", "HIGH", "Jo", "c1"],
        ["ACKNOWLEDGED", "HIGH", "Jo", "c1"],
    ]
    assert first in poi.output(*alerts, "--state", "acknowledged", "--since", "1m")
    assert "no alerts" in poi.output(*alerts, "--state", "new")
    assert "no alerts" in poi.output(*alerts, "--poi", "somebody-else")
    assert "(ETAG_MISMATCH)" in poi.fails("--store", "s-list", "resolve", first, "--etag", "old")
    assert "(ALERT_RESOLVED)" in poi.fails("--store", "s-list", "ack", second)
    few = poi(*alerts, "--limit", "1")
    assert "raise --limit" in few.stderr


def test_a_shift_is_worked_and_handed_over(poi: Poi) -> None:
    store = ("--store", "s-shift")
    quiet = poi.output(*store, "shift").splitlines()
    assert quiet[1:] == ["0 alerts, 0 repeats, 0 escalated", "no alerts", "0 open"]

    wrong, right, waiting = (raise_one(poi, "s-shift", f"a{number}") for number in range(3))
    assert (
        poi.output(*store, "reject", wrong, "--actor", "ann", "--note", "a twin") == f"{wrong}  FALSE_MATCH  by ann\n"
    )
    assert poi.output(*store, "confirm", right, "--actor", "bob") == f"{right}  CONFIRMED  by bob\n"
    assert "(ILLEGAL_TRANSITION)" in poi.fails(*store, "resolve", wrong)

    assert wrong in poi.output(*store, "alerts", "--state", "false_match")
    told = poi(*store, "alerts", "--follow", "--since", "1m", "--state", "confirmed", "--limit", "1", "--json")
    assert json.loads(told.stdout)["event"] == "ALERT_EVENT_CONFIRMED"

    lines = poi.output(*store, "shift", "--since", "1h").splitlines()
    assert lines[1] == "3 alerts, 0 repeats, 0 escalated"
    assert re.fullmatch(r"answered within \d+\.\d s \(half\), \d+\.\d s \(95 %\)", lines[2])
    rows = [re.split(r" {2,}", line.strip()) for line in lines]
    for row in (["state", "FALSE_MATCH", "1"], ["severity", "HIGH", "3"], ["camera", "c1", "3"], ["person", "Jo", "3"]):
        assert row in rows
    handed_over = lines[lines.index("2 open") + 2 :]
    assert [line.split()[-1] for line in handed_over] == [right, waiting]
    summary = poi.json(*store, "shift")
    assert (summary["alertCount"], summary["openCount"]) == (3, 2)


def test_following_starts_in_the_past_and_its_cursor_goes_on(poi: Poi) -> None:
    names = [raise_one(poi, "s-follow", f"a{number}") for number in range(3)]
    follow = ("--store", "s-follow", "alerts", "--follow", "--since", "1m", "--limit", "2")
    first = poi(*follow, "--json")
    events = [json.loads(line) for line in first.stdout.splitlines()]
    assert [event["alert"]["name"].rpartition("/")[2] for event in events] == names[:2]
    assert {event["event"] for event in events} == {"ALERT_EVENT_RAISED"}

    cursor = first.stderr.split()[-1]
    assert cursor == events[-1]["cursor"]
    rest = poi("--store", "s-follow", "alerts", "--cursor", cursor, "--limit", "1")
    assert re.search(r"  RAISED  HIGH  Jo  at c1  0.75 >= 0.50  \d+ ms after the frame  " + names[2], rest.stdout)


def test_following_goes_on_when_its_server_is_killed(poi: Poi) -> None:
    command = [*FOLLOWING, "--store", "s-kill", "alerts", "--follow", "--json"]
    raise_one(poi, "s-kill", "before")
    with subprocess.Popen(
        [*command, "--since", "1m"],
        env={**os.environ, **poi.env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None

        def next_appearance() -> str:
            assert following.stdout is not None
            appearance: str = json.loads(following.stdout.readline())["alert"]["appearance"]
            return appearance.rpartition("/")[2]

        assert next_appearance() == "before"
        server = poi.mesh.services["alert"]
        server.kill()
        server.start()
        raise_one(poi, "s-kill", "after")
        assert next_appearance() == "after"

        following.send_signal(signal.SIGINT)
        assert following.wait(60) == 130
        complaints = following.stderr.read().splitlines()
    assert "connecting again" in complaints[0]
    assert complaints[-1].startswith("poi: go on with: poi alerts --cursor ")


def test_visits_and_occupancy(poi: Poi) -> None:
    async def record() -> None:
        channel = channels.connect(poi.mesh.target("region"))
        update = region_pb2.SceneUpdate(scene="stores/store-1/scenes/shop")
        person = update.objects.add(object_id="o1", cameras=["stores/store-1/cameras/c1"])
        updates = []
        for second, zones in ((0, ["door"]), (2, ["door", "aisle"]), (5, ["aisle"])):
            update.update_time.CopyFrom(Timestamp(seconds=1_790_000_000 + second))
            del person.zones[:]
            person.zones.extend(region_pb2.ZonePresence(zone_id=zone) for zone in zones)
            updates.append(region_pb2.SceneUpdate.FromString(update.SerializeToString()))
        call = region_pb2_grpc.RegionServiceStub(channel).RecordSceneUpdates()
        await call.write(region_pb2.RecordSceneUpdatesRequest(parent="stores/store-1", updates=updates))
        response = await call.read()
        assert isinstance(response, region_pb2.RecordSceneUpdatesResponse)
        assert not response.errors
        await call.done_writing()
        await channel.close()

    asyncio.run(record())
    door = poi.json("visits", "--zone", "shop/door")["visits"]
    assert [(visit["state"], visit["dwell"]) for visit in door] == [("VISIT_STATE_CLOSED", "5s")]
    assert re.search(r"5\.0 s +shop +door +o1 +c1", poi.output("visits", "--camera", "c1"))
    assert "(still there)" in poi.output("visits", "--open")
    zones = poi.json("occupancy", "shop")["zones"]
    assert {zone["zone"].rpartition("/")[2]: zone.get("count", 0) for zone in zones} == {"aisle": 1, "door": 0}
    assert re.search(r"aisle +1 +o1", poi.output("occupancy", "shop"))


def test_cameras_and_rejections(poi: Poi) -> None:
    host, _, port = poi.mesh.mqtt_url.removeprefix("mqtt://").partition(":")
    good = json.dumps({"id": "cam-1", "timestamp": "2026-01-01T00:00:00.000Z", "objects": {"person": []}})
    for payload in ("{", good):
        topic = "scenescape/data/camera/cam-1"
        paho.mqtt.publish.single(topic, payload, qos=1, hostname=host, port=int(port))
    # What the broker has taken, ingest has not yet: each look is a call.
    while "BAD_JSON" not in poi.output("rejections"):
        pass
    while "cam-1" not in poi.output("cameras"):
        pass
    assert poi.json("rejections")["rejections"][0]["topic"] == "scenescape/data/camera/cam-1"
    assert poi.json("cameras")["cameras"][0]["name"] == "stores/store-1/cameras/cam-1"


def test_what_fails_is_one_line_with_the_reason(poi: Poi, photos: dict[str, Path], tmp_path: Path) -> None:
    no_image = tmp_path / "no.jpg"
    no_image.write_text("not a photo")
    assert poi.fails("ack", "0" * 32) == f"stores/store-1/alerts/{'0' * 32} was not found (RESOURCE_NOT_FOUND)"
    assert poi.fails("alerts", "--cursor", "yesterday") == "cursor: is not a cursor (INVALID_CURSOR)"
    assert "(IMAGE_UNDECODABLE)" in poi.fails("enrol", "X", no_image, *REQUIRED)
    assert "(MULTIPLE_FACES)" in poi.fails("enrol", "X", photos["both"], *REQUIRED)
    assert poi.fails("match", tmp_path / "absent.jpg").endswith("absent.jpg: No such file or directory")
    assert "not an id of stores/{store}" in poi.fails("--store", "no/store", "list")
    assert "threshold" in poi.fails("enrol", "X", photos["woman"], "--threshold", "7", *REQUIRED)


@pytest.mark.parametrize(
    "command",
    [
        ("targets", "show", "no id"),
        ("deliveries", "no id"),
        ("dead-letters", "replay", "no id"),
        ("--store", "no/store", "targets", "list"),
        ("--store", "no/store", "alert-settings"),
    ],
    ids=" ".join,
)
def test_an_id_that_is_none_is_one_line_too(poi: Poi, command: tuple[str, ...]) -> None:
    assert "not an id of stores/{store}" in poi.fails(*command)


def test_what_others_wrote_cannot_write_to_the_terminal(poi: Poi) -> None:
    raise_one(poi, "s-escape", "a1")
    (alert,) = poi.json("--store", "s-escape", "alerts")["alerts"]
    name = alert["name"].rpartition("/")[2]
    told = poi("--store", "s-escape", "ack", name, "--actor", "me\x1b[2J\u202e")
    assert told.stdout == f"{name}  ACKNOWLEDGED  by me\\x1b[2J\\u202e\n"


def test_a_reader_who_has_had_enough_is_told_nothing(poi: Poi) -> None:
    """As `poi list | head -1`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "clients.cli", "list", "--json"]
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            command, env={**os.environ, **poi.env}, cwd=ROOT, stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_a_server_that_does_not_answer_is_named(poi: Poi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.cli.session._ANSWER_SECONDS", 0.2)
    line = poi.fails("alerts", POI_ALERT_TARGET="127.0.0.1:1")
    assert line == "the alert server does not answer at 127.0.0.1:1 (POI_ALERT_TARGET)"


@pytest.mark.parametrize(
    "arguments",
    [
        ("search",),
        ("search", "x.jpg", "--poi", "p"),
        ("alerts", "--since", "soon"),
        ("shift", "--since", "soon"),
        ("enrol", "X"),
        ("enrol", "X", "x.jpg", "--severity", "urgent"),
        ("nonsense",),
    ],
)
def test_a_wrong_command_line_is_status_2(poi: Poi, arguments: tuple[str, ...]) -> None:
    assert poi(*arguments).exit_code == 2


def test_what_people_say_of_matches_is_kept_listed_and_speaks_for_a_threshold(poi: Poi) -> None:
    store = {"POI_STORE": "feedback"}
    told = Poi(poi.mesh, {**poi.env, **store})
    alert = raise_one(poi, "feedback", "a0")
    told.output("reject", alert, "--actor", "ann", "--note", "taller")
    for number in range(1, 12):
        verdict, similarity = ("confirmed", 0.8 + number / 100) if number < 8 else ("not_this_person", 0.55)
        line = told.output(
            "feedback", "report", f"a{number}", "p1", verdict, "--similarity", similarity, "--actor", "bob"
        )
        assert line.split() == [f"a{number}", "p1", verdict.upper(), "by", "bob"]
    listed = told.json("feedback", "list", "--verdict", "not_this_person", "--poi", "p1")["matchReports"]
    assert [report["appearance"].rpartition("/")[2] for report in listed] == ["a11", "a10", "a9", "a8", "a0"]
    table = told.output("feedback", "list", "--limit", 50)
    assert ("Jo" in table, "taller" in table, "CONFIRMED" in table) == (True, True, True)

    lines = told.output("suggest").splitlines()
    (suggested,) = [line.split() for line in lines if line.endswith("suggested")]
    assert suggested == ["0.81", "7", "0", "0", "5", "suggested"]
    assert lines[-2] == "7 confirmed, 5 false"
    assert lines[-1].split("  ")[0] == "suggested: 0.81"
    assert "no suggestion" in told.output("suggest", "--poi", "p2", "--camera", "c1", "--since", "1h")
    assert "poi" in told.fails("feedback", "report", "a1", "stores/other/pois/p1", "confirmed")
