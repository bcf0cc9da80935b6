"""Case files: what happened and the pictures, with checksums, and what could not be had; each export is remembered."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from typing import Any

from google.protobuf.json_format import ParseDict
from poi.v1 import alert_pb2, history_pb2

from alert_svc.export.archive import Archive
from mesh.errors import InvalidArgument, NotFound
from tests.alert_svc.pictures import RED, REFERENCE, Scene, pixels, scene
from tests.alert_svc.support import fails
from tests.history_svc.client import STORE, moment


class CaseFile:
    """A zip whose every file has the size and checksum that the manifest says."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
            self.times = {entry.date_time for entry in archive.infolist()}
        self.manifest = json.loads(self.files["manifest.json"])
        told = {one["name"]: (one["size"], one["sha256"]) for one in self.manifest["files"]}
        assert told == {
            name: (len(content), hashlib.sha256(content).hexdigest())
            for name, content in self.files.items()
            if name != "manifest.json"
        }

    @property
    def missing(self) -> dict[str, str]:
        return {one["name"]: one["reason"] for one in self.manifest["missing"]}

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.files["history.json"])["events"]
        return events


async def export(on_air: Scene, name: str, actor: str = "ann", purpose: str = "case 4711") -> CaseFile:
    request = alert_pb2.ExportAlertRequest(name=name, actor=actor, purpose=purpose)
    pieces = [piece.data async for piece in on_air.alerts.ExportAlert(request)]
    assert all(0 < len(piece) <= 256 << 10 for piece in pieces)
    return CaseFile(b"".join(pieces))


async def test_a_case_file_has_the_alert_what_happened_and_the_pictures(on_air: Scene) -> None:
    appearance = await on_air.appear()
    image = scene((90, 90, 90), RED)
    await on_air.film(appearance, image)
    name = await on_air.raise_alert(appearance)
    await on_air.shown(name)
    await on_air.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=name, actor="ann", note="at the till"))
    confirmed = await on_air.alerts.ConfirmAlert(alert_pb2.ConfirmAlertRequest(name=name, actor="bob"))

    first = await export(on_air, name)
    second = await export(on_air, name, "carl", "case 4712")

    assert set(first.files) == {
        *("alert.json", "history.json", "frame.jpg", "face.jpg", "picture.jpg", "reference.jpg", "manifest.json")
    }
    assert first.missing == {}
    assert ParseDict(json.loads(first.files["alert.json"]), alert_pb2.Alert()) == confirmed
    assert first.files["frame.jpg"] == image
    assert first.files["reference.jpg"] == on_air.references.images[REFERENCE]
    assert first.files["picture.jpg"] == await on_air.frame(confirmed.evidence.picture)
    assert pixels(first.files["face.jpg"]).shape[0] < 400
    told = {key: first.manifest[key] for key in ("alert", "actor", "purpose", "etag")}
    assert told == {"alert": name, "actor": "ann", "purpose": "case 4711", "etag": confirmed.etag}
    raised = confirmed.create_time.ToDatetime()
    assert first.times == {(*raised.timetuple()[:5], raised.second // 2 * 2)}, "zips count in steps of two seconds"
    assert [event["event"] for event in first.events] == [
        *("RAISED", "EVIDENCE", "ACKNOWLEDGED", "CONFIRMED", "EXPORTED")
    ]
    assert [(e["actor"], e.get("note")) for e in first.events[2:]] == [
        *(("ann", "at the till"), ("bob", ""), ("ann", None))
    ]
    assert second.events[:-1] == first.events
    assert (second.events[-1]["actor"], second.events[-1]["purpose"]) == ("carl", "case 4712")


async def test_what_was_erased_or_never_came_is_named_with_the_reason(on_air: Scene) -> None:
    seen, unseen = await on_air.appear(), await on_air.appear()
    await on_air.film(seen, scene((90, 90, 90), RED))
    erased = await on_air.raise_alert(seen)
    never = await on_air.raise_alert(unseen, reference=f"{REFERENCE}-absent")
    await on_air.shown(erased)
    await on_air.client.stub.EraseAppearances(
        history_pb2.EraseAppearancesRequest(
            parent=STORE, appearances=history_pb2.AppearanceNames(names=[seen]), request_id=seen[-32:]
        )
    )

    gone, none = await export(on_air, erased), await export(on_air, never)

    not_found = "RESOURCE_NOT_FOUND"
    assert gone.missing == {"frame.jpg": not_found, "face.jpg": not_found, "picture.jpg": not_found}
    assert "reference.jpg" in gone.files
    assert none.missing == {
        "frame.jpg": "NO_FRAME",
        "face.jpg": "NO_FRAME",
        "picture.jpg": "NOT_MADE",
        "reference.jpg": not_found,
    }
    assert {"alert.json", "history.json"} < none.files.keys()


async def test_an_export_is_remembered_also_where_history_is_away_or_the_client_leaves(on_air: Scene) -> None:
    appearance = await on_air.appear()
    await on_air.film(appearance, scene((90, 90, 90), RED))
    name = await on_air.raise_alert(appearance)
    await on_air.shown(name)
    call = on_air.alerts.ExportAlert(alert_pb2.ExportAlertRequest(name=name, actor="ann", purpose="left"))
    assert isinstance(await call.read(), alert_pb2.ExportAlertResponse)
    call.cancel()
    await asyncio.to_thread(on_air.history.kill)

    found = await export(on_air, name, purpose="away")

    assert found.missing.keys() == {"frame.jpg", "face.jpg", "picture.jpg"}
    assert set(found.missing.values()) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert [event["purpose"] for event in found.events if event["event"] == "EXPORTED"] == ["left", "away"]


async def test_what_is_wrong_is_refused(on_air: Scene) -> None:
    async def ask(**fields: str) -> object:
        return [piece async for piece in on_air.alerts.ExportAlert(alert_pb2.ExportAlertRequest(**fields))]

    absent = f"{STORE}/alerts/absent"
    assert isinstance(await fails(ask(name=absent, actor="ann", purpose="case")), NotFound)
    for fields in (
        {"name": absent, "actor": "ann"},
        {"name": absent, "purpose": "case"},
        {"actor": "a", "purpose": "b"},
    ):
        assert isinstance(await fails(ask(**fields)), InvalidArgument)


def test_the_same_content_gives_the_same_bytes() -> None:
    def make() -> bytes:
        archive = Archive(moment(0))
        archive.add("alert.json", b"{}\n", "stores/s/alerts/a")
        archive.add("frame.jpg", bytes(3 << 20))
        archive.miss("face.jpg", "NO_FRAME", "there is none")
        with archive.finish({"actor": "ann"}) as file:
            return file.read()

    assert make() == make()
    assert CaseFile(make()).missing == {"face.jpg": "NO_FRAME"}
