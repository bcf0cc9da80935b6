"""What is recorded of calls, and that nothing is answered without its record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import pytest
from poi.v1 import alert_pb2, audit_pb2, match_pb2, poi_pb2

from mesh import redis as connections
from mesh.audit import verify
from mesh.audit.methods import AUDITED, NOT_AUDITED
from mesh.audit.recorder import Auditor, install, record, record_refusal
from mesh.auth import Refusal
from mesh.errors import Unavailable, from_rpc
from mesh.local import Redis
from mesh.principal import Principal, Role
from tests.audit.support import ALERT, PARENT, STORE, Audited, audited, records
from tests.support import PATIENCE, until

BEGIN, END = audit_pb2.AUDIT_PHASE_BEGIN, audit_pb2.AUDIT_PHASE_END


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator[Audited]:
    async with audited(redis_url) as running:
        yield running


def test_every_method_is_audited_or_it_is_said_why_not() -> None:
    proto = Path(__file__).resolve().parents[2] / "proto" / "poi" / "v1"
    modules = [import_module(f"poi.v1.{file.stem}_pb2") for file in proto.glob("*.proto")]
    methods = {
        f"{service.full_name}/{method.name}": method
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert AUDITED.keys() | NOT_AUDITED.keys() == methods.keys()
    assert not AUDITED.keys() & NOT_AUDITED.keys()
    for name, how in AUDITED.items():
        for path, message in (
            (how.resource, methods[name].input_type),
            (how.below, methods[name].input_type),
            (how.made, methods[name].output_type),
            (how.items, methods[name].output_type),
        ):
            for part in path.split(".") if path else ():
                assert part in message.fields_by_name, f"{name}: {path}"
                message = message.fields_by_name[part].message_type or message


async def test_a_change_is_recorded_before_and_after(server: Audited) -> None:
    metadata = (("actor", "ada"), ("purpose", "case 7"), ("x-request-id", "r1"))
    await server.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=ALERT, actor="ada"), metadata=metadata)

    begin, end = await server.records()

    assert (begin.phase, begin.code, end.phase, end.code) == (BEGIN, "", END, "OK")
    assert begin.call_id == end.call_id
    assert begin.request_hash == end.request_hash
    for one in (begin, end):
        assert (one.action, one.resource) == ("poi.v1.AlertService/AcknowledgeAlert", ALERT)
        assert (one.actor.kind, one.actor.name, one.purpose) == (audit_pb2.ACTOR_KIND_CLAIMED, "ada", "case 7")
        assert one.peer.startswith("ipv4:127.0.0.1")
        assert one.server == "alert"
        assert one.record_time.seconds > 0


async def test_a_read_has_one_record_and_what_is_nobodys_has_none(server: Audited) -> None:
    await server.alerts.GetAlert(alert_pb2.GetAlertRequest(name=ALERT))
    await server.alerts.GetAlertSettings(alert_pb2.GetAlertSettingsRequest(name=f"{PARENT}/alertSettings"))

    (only,) = await server.records()

    assert (only.phase, only.code, only.actor.kind) == (END, "OK", audit_pb2.ACTOR_KIND_UNSPECIFIED)


async def test_what_failed_is_recorded_with_its_status(server: Audited) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await server.alerts.AcknowledgeAlert(
            alert_pb2.AcknowledgeAlertRequest(name=f"{PARENT}/alerts/gone", actor="ada")
        )

    assert [one.code for one in await server.records()] == ["", "NOT_FOUND"]


async def test_a_stream_is_recorded_before_its_first_message_and_at_its_end(server: Audited) -> None:
    call = server.alerts.ExportAlert(alert_pb2.ExportAlertRequest(name=ALERT, actor="ada", purpose="case 7"))
    await call.read()
    begin, *_ = await server.records()  # the end may be there already
    while await call.read() is not grpc.aio.EOF:
        pass
    await server.server.stop()

    assert (begin.phase, begin.actor.name, begin.purpose) == (BEGIN, "ada", "case 7")
    assert [(one.phase, one.code) for one in await server.records()] == [(BEGIN, ""), (END, "OK")]


async def test_a_client_that_goes_away_is_recorded(server: Audited) -> None:
    call = server.alerts.ExportAlert(alert_pb2.ExportAlertRequest(name=ALERT, actor="ada", purpose="case 7"))
    await call.read()
    call.cancel()
    await server.server.stop()

    assert [one.phase for one in await server.records()] == [BEGIN, END]


async def test_every_row_of_an_import_is_recorded_with_what_became_of_it(server: Audited) -> None:
    async def rows() -> AsyncIterator[poi_pb2.ImportPoisRequest]:
        for name in ("p1", "bad"):
            yield poi_pb2.ImportPoisRequest(row_id=name, request=poi_pb2.CreatePoiRequest(parent=PARENT))

    assert len([each async for each in server.pois.ImportPois(rows(), metadata=(("purpose", "the new list"),))]) == 2
    await server.server.stop()

    found = await server.records()
    ended = [(one.resource, one.code) for one in found if one.phase == audit_pb2.AUDIT_PHASE_ITEM_END]
    assert ended == [(f"{PARENT}/pois/p1", "OK"), (PARENT, "INVALID_ARGUMENT")]
    assert len([one for one in found if one.phase == audit_pb2.AUDIT_PHASE_ITEM]) == 2
    assert (found[0].phase, found[-1].phase) == (BEGIN, END)
    assert found[-1].details["messages"] == "2"
    assert {one.purpose for one in found} == {"the new list"}
    assert len({one.call_id for one in found}) == 1


async def test_who_must_say_why_and_does_not_is_refused_and_that_is_recorded(redis_url: str) -> None:
    async def rows() -> AsyncIterator[poi_pb2.ImportPoisRequest]:
        yield poi_pb2.ImportPoisRequest(row_id="p1", request=poi_pb2.CreatePoiRequest(parent=PARENT))

    async with audited(redis_url, audit_require_purpose=True, audit_store=STORE) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.pois.ImportPois(rows()).read()
        assert [each async for each in server.pois.ImportPois(rows(), metadata=(("purpose", "7"),))]

        refused, *let_in = await server.records()

    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert from_rpc(raised.value).reason == "PURPOSE_REQUIRED"
    assert (refused.code, refused.details["reason"]) == ("PERMISSION_DENIED", "PURPOSE_REQUIRED")
    assert let_in[0].purpose == "7"


@pytest.fixture
def principal() -> Principal:
    """Somebody whom authorisation found."""
    return Principal("person", "u-1", roles=frozenset({Role.OPERATOR}), token_id="t-1")


async def test_whom_authorisation_found_counts_not_who_they_say_they_are(redis_url: str, principal: Principal) -> None:
    async with audited(redis_url, principal) as server:
        await server.alerts.GetAlert(alert_pb2.GetAlertRequest(name=ALERT), metadata=(("actor", "the manager"),))

        (only,) = await server.records()

    assert only.actor == audit_pb2.AuditActor(
        kind=audit_pb2.ACTOR_KIND_PERSON, name="u-1", roles=["operator"], token_id="t-1"
    )


async def test_what_authorisation_refuses_is_recorded(redis_url: str, principal: Principal) -> None:
    client = connections.connect(redis_url)
    auditor = Auditor(client, "match", STORE)
    install(auditor)
    await record("test.Happened", PARENT, "OK")
    method, resource = "poi.v1.PoiService/DeletePoi", f"{PARENT}/pois/p1"
    for who in (principal, None):
        told = "PERMISSION_DENIED", "ROLE_MISSING", "ipv4:127.0.0.1:1"
        await record_refusal(Refusal(who, method, resource, *told, more=0 if who else 7))
    await auditor.close()

    _, known, unknown = await records(client)
    assert (known.details.get("more"), unknown.details["more"]) == (None, "7")
    assert (known.actor.name, known.code, known.details["reason"]) == ("u-1", "PERMISSION_DENIED", "ROLE_MISSING")
    assert (known.resource, known.peer) == (resource, "ipv4:127.0.0.1:1")
    assert unknown.actor == audit_pb2.AuditActor()
    await client.aclose()


async def test_whoever_is_refused_does_not_make_a_store_by_naming_it(redis_url: str, principal: Principal) -> None:
    """Each would be a stream in Redis for as long as records are kept, and anybody may name a million."""
    client = connections.connect(redis_url)
    for begun in (False, True):
        auditor = Auditor(client, "match", "mesh")
        install(auditor)
        if begun:
            await record("test.Happened", "stores/made-up", "OK")
        method, resource = "poi.v1.AlertService/GetAlert", "stores/made-up/alerts/a"
        await record_refusal(Refusal(principal, method, resource, "NOT_FOUND", "RESOURCE_NOT_FOUND", ""))
        await auditor.close()

        assert len(await records(client, "mesh")) == 1, "the first one is there, the second one is not"
        assert len(await records(client, "made-up")) == (2 if begun else 0)
    await client.aclose()


async def test_without_the_audit_log_nothing_is_changed_and_nothing_is_shown(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as state:
        async with audited(state.url) as server:
            await server.alerts.GetAlert(alert_pb2.GetAlertRequest(name=ALERT))
            state.kill()

            export = alert_pb2.ExportAlertRequest(name=ALERT, actor="ada", purpose="x")
            calls: list[Callable[[], Any]] = [
                lambda: server.alerts.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=ALERT, actor="ada")),
                lambda: server.alerts.GetAlert(alert_pb2.GetAlertRequest(name=ALERT)),
                lambda: server.alerts.ExportAlert(export).read(),
            ]
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await call()
                assert from_rpc(raised.value).reason == "AUDIT_UNAVAILABLE"
            assert server.servicer.acknowledged == 0
            await server.alerts.GetAlertSettings(alert_pb2.GetAlertSettingsRequest(name=f"{PARENT}/alertSettings"))

            state.start()

            async def acknowledged() -> bool:
                try:
                    await calls[0]()
                except grpc.aio.AioRpcError as error:
                    if from_rpc(error).reason != "AUDIT_UNAVAILABLE":
                        raise
                    return False
                return True

            await until(acknowledged, "the audit log, again")
            found = await server.records()
            assert not (await verify.verify(server.redis, STORE)).faults
    # What was refused is on record as well: it was tried.
    assert [one.action.rpartition("/")[2] for one in found][-2:] == ["AcknowledgeAlert", "AcknowledgeAlert"]
    assert found[0].action.endswith("GetAlert")


async def test_cameras_do_not_wait_for_the_audit_log(tmp_path: Path) -> None:
    with Redis(tmp_path / "redis") as state:
        async with audited(state.url) as server:
            await server.alerts.GetAlert(alert_pb2.GetAlertRequest(name=ALERT))
            state.kill()
            stream = server.match.MatchDetections()
            for number in range(3):
                await stream.write(match_pb2.MatchDetectionsRequest(parent=PARENT, batch_id=number + 1))
                assert (await asyncio.wait_for(stream.read(), PATIENCE)).batch_id == number + 1
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF

            state.start()
            await server.server.stop()
            found = [one for one in await server.records() if one.action.endswith("MatchDetections")]

    assert [(one.phase, one.code) for one in found] == [(BEGIN, ""), (END, "OK")]
    assert found[1].details["messages"] == "3"


async def test_records_that_nobody_waits_for_are_bounded_and_their_loss_is_recorded(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.audit.recorder._ROOM", 3)
    client = connections.connect(redis_url)
    auditor = Auditor(client, "ingest", STORE)
    install(auditor)
    try:
        for number in range(5):  # the writer had no turn yet
            await record(f"test.{number}", "", "OK", durable=False)
        with pytest.raises(Unavailable):
            await record("test.waits", "", "OK")
        await auditor.close()
    finally:
        install(None)

    found = await records(client)
    assert [one.action for one in found] == ["audit.RecordsLost", "test.2", "test.3", "test.4"]
    assert found[0].details["records"] == "2"
    await client.aclose()


async def test_a_refusal_is_recorded_with_its_own_store_and_actor(redis_url: str) -> None:
    client = connections.connect(redis_url)
    auditor = Auditor(client, "match", "mesh")
    install(auditor)
    try:
        actor = audit_pb2.AuditActor(kind=audit_pb2.ACTOR_KIND_PERSON, name="u-2")
        await record("poi.v1.PoiService/DeletePoi", f"{PARENT}/pois/p1", "PERMISSION_DENIED", actor=actor, rule="roles")
    finally:
        await auditor.close()
        install(None)

    (only,) = await records(client)
    assert (only.actor.name, only.code, only.details["rule"]) == ("u-2", "PERMISSION_DENIED", "roles")
    await client.aclose()
