"""Every call is asked who makes it, and only what the table allows gets through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import grpc
import jwt
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from poi.v1 import (
    alert_pb2,
    alert_pb2_grpc,
    history_pb2,
    history_pb2_grpc,
    match_pb2,
    match_pb2_grpc,
    poi_pb2,
    poi_pb2_grpc,
)

from mesh import channels
from mesh.auth import ALL, AuthInterceptor, Principal, Refusal, Role, ending
from mesh.auth.policy import POLICY
from mesh.auth.tokens import LEEWAY_SECONDS
from mesh.errors import MeshError, NotFound, PermissionDenied, Unauthenticated, from_rpc
from mesh.interceptors.base import Rpc
from mesh.pki import Authority
from mesh.server import Server
from mesh.settings import TlsFiles
from mesh.token import Accounts
from tests.auth.support import DAY, Clients, Servicer, Settings, shut_out

ALERT = "stores/s1/alerts/a1"


async def refused(call: Awaitable[Any]) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc(caught.value)


async def get_alert(channel: grpc.aio.Channel, name: str = ALERT) -> alert_pb2.Alert:
    return await alert_pb2_grpc.AlertServiceStub(channel).GetAlert(alert_pb2.GetAlertRequest(name=name))


async def test_a_person_with_the_role_may_and_the_handler_knows_who(clients: Clients, servicer: Servicer) -> None:
    await get_alert(clients.person(Role.OPERATOR))

    [caller] = servicer.callers
    assert caller is not None
    assert (caller.kind, caller.name) == ("person", "alex")
    assert (caller.roles, caller.stores) == (frozenset({Role.OPERATOR}), frozenset({"s1"}))
    assert caller.token_id


async def test_a_role_that_the_row_does_not_name_is_refused(clients: Clients, servicer: Servicer) -> None:
    error = await refused(get_alert(clients.person(Role.ENROLLER)))

    assert isinstance(error, PermissionDenied)
    assert error.reason == "ROLE_MISSING"
    assert not servicer.callers


async def test_another_store_is_not_found_as_if_there_were_nothing(clients: Clients, servicer: Servicer) -> None:
    error = await refused(get_alert(clients.person(Role.OPERATOR), "stores/s2/alerts/a1"))

    missing = NotFound("stores/s2/alerts/a1")
    assert isinstance(error, NotFound)
    assert (error.message, error.reason, error.metadata) == (missing.message, missing.reason, missing.metadata)
    assert not servicer.callers


async def test_a_store_that_is_named_beside_the_main_one_counts_too(clients: Clients) -> None:
    stub = history_pb2_grpc.HistoryServiceStub(clients.person(Role.ANALYST))

    await stub.SearchAppearances(history_pb2.SearchAppearancesRequest(parent="stores/s1", poi="stores/s1/pois/p"))
    foreign = history_pb2.SearchAppearancesRequest(parent="stores/s1", poi="stores/s2/pois/p")
    assert isinstance(await refused(stub.SearchAppearances(foreign)), NotFound)
    foreign = history_pb2.SearchAppearancesRequest(
        parent="stores/s1", cameras=["stores/s1/cameras/c", "stores/s2/cameras/c"]
    )
    foreign.poi = "stores/s1/pois/p"
    assert isinstance(await refused(stub.SearchAppearances(foreign)), NotFound)


async def test_all_stores_are_all_stores(clients: Clients) -> None:
    alert = await get_alert(clients.person(Role.AUDITOR, stores=("*",)), "stores/anywhere/alerts/a1")

    assert alert.name == "stores/anywhere/alerts/a1"


async def test_a_tool_without_a_token_may_ask_for_health_and_nothing_else(clients: Clients) -> None:
    channel = clients.service("cli")

    health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    error = await refused(get_alert(channel))
    assert isinstance(error, PermissionDenied)
    assert error.reason == "NO_ROLE"


async def test_who_shows_no_certificate_does_not_get_as_far_as_a_call(clients: Clients, pki: Authority) -> None:
    root = grpc.ssl_channel_credentials((pki.issue("cli", "s1", DAY).files.ca).read_bytes())
    options = [("grpc.ssl_target_name_override", "match.s1.poi-mesh"), ("grpc.enable_retries", 0)]
    async with grpc.aio.secure_channel(clients.address, root, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_alert(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_of_another_authority_is_not_taken(
    clients: Clients, servicer: Servicer, tmp_path: Any
) -> None:
    other = Authority(tmp_path / "other")
    other.create("poi-mesh")
    foreign = other.issue("ingest", "s1", DAY).files
    # It trusts the server: what fails is that the server does not trust it.
    files = TlsFiles(foreign.certificate, foreign.key, clients.files("alert").ca)
    async with channels.connect(clients.address, service="match", tls=files) as channel:
        await shut_out(channel)
    assert not servicer.callers


async def test_a_server_of_another_authority_is_not_talked_to(
    clients: Clients, servicer: Servicer, tmp_path: Any
) -> None:
    other = Authority(tmp_path / "other")
    other.create("poi-mesh")
    ours = clients.files("alert")
    files = TlsFiles(ours.certificate, ours.key, other.issue("alert", "s1", DAY).files.ca)
    async with channels.connect(clients.address, service="match", tls=files) as channel:
        await shut_out(channel)
    assert not servicer.callers


async def test_a_server_that_is_another_service_is_not_talked_to(clients: Clients, servicer: Servicer) -> None:
    """The address leads to match; a client that wants history does not take it for that."""
    files = clients.files("ingest")
    async with channels.connect(clients.address, service="history", tls=files) as channel:
        await shut_out(channel)
    assert not servicer.callers


async def test_a_service_may_call_what_its_row_says(clients: Clients, servicer: Servicer) -> None:
    async def batches() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
        for number in range(3):
            yield match_pb2.MatchDetectionsRequest(parent="stores/s1", batch_id=number)

    answers = match_pb2_grpc.MatchServiceStub(clients.service("ingest")).MatchDetections(batches())
    assert [answer.batch_id async for answer in answers] == [0, 1, 2]

    error = await refused(get_alert(clients.service("ingest")))
    assert isinstance(error, PermissionDenied)


async def test_every_message_of_a_stream_is_checked(clients: Clients, servicer: Servicer) -> None:
    async def batches() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
        for number, store in enumerate(("s1", "s1", "s2", "s1")):
            yield match_pb2.MatchDetectionsRequest(parent=f"stores/{store}", batch_id=number)

    answers = match_pb2_grpc.MatchServiceStub(clients.service("ingest")).MatchDetections(batches())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [answer async for answer in answers]

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert servicer.messages == 2


async def test_a_service_of_another_store_is_told_nothing(clients: Clients) -> None:
    async def batch() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
        yield match_pb2.MatchDetectionsRequest(parent="stores/s1", batch_id=1)

    channel = clients._opened(
        # Another store's ingest, which by mistake knows our server's name.
        grpc.aio.secure_channel(
            clients.address,
            credentials(clients, "ingest", "s2"),
            options=[("grpc.ssl_target_name_override", "match.s1.poi-mesh")],
        )
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [answer async for answer in match_pb2_grpc.MatchServiceStub(channel).MatchDetections(batch())]
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def credentials(clients: Clients, name: str, store: str) -> grpc.ChannelCredentials:
    files = clients.files(name, store)
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes())


async def test_who_acts_is_whose_token_it_is(clients: Clients) -> None:
    stub = alert_pb2_grpc.AlertServiceStub(clients.person(Role.OPERATOR, subject="dana"))

    filled = await stub.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=ALERT))
    said = await stub.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=ALERT, actor="dana"))
    error = await refused(stub.AcknowledgeAlert(alert_pb2.AcknowledgeAlertRequest(name=ALERT, actor="alex")))

    assert filled.acknowledgement.actor == said.acknowledgement.actor == "dana"
    assert error.reason == "ACTOR_MISMATCH"


async def test_who_imports_a_roster_is_filled_in_where_it_does_not_say(clients: Clients) -> None:
    async def rows() -> AsyncIterator[poi_pb2.ImportPoisRequest]:
        for said in ("", "the security desk"):
            row = poi_pb2.ImportPoisRequest(row_id="r")
            row.request.parent = "stores/s1"
            row.request.poi.enrolled_by = said
            yield row

    stub = poi_pb2_grpc.PoiServiceStub(clients.person(Role.ENROLLER, subject="dana"))
    assert [answer.poi.enrolled_by async for answer in stub.ImportPois(rows())] == ["dana", "the security desk"]


async def test_embeddings_are_for_services_only(clients: Clients) -> None:
    full = poi_pb2.GetPoiRequest(name="stores/s1/pois/p", view=poi_pb2.POI_VIEW_FULL)

    error = await refused(poi_pb2_grpc.PoiServiceStub(clients.person(Role.ANALYST)).GetPoi(full))
    assert error.reason == "RESERVED_FIELD"
    await poi_pb2_grpc.PoiServiceStub(clients.service("history")).GetPoi(full)


@pytest.mark.parametrize("value", ["", "Basic YTpi", "Bearer nonsense", "Bearer a.b.c"])
async def test_an_authorization_that_is_no_token_of_ours(clients: Clients, value: str) -> None:
    stub = alert_pb2_grpc.AlertServiceStub(clients.service("cli"))
    call = stub.GetAlert(alert_pb2.GetAlertRequest(name=ALERT), metadata=(("authorization", value),))

    error = await refused(call)

    assert isinstance(error, Unauthenticated)
    assert error.reason == "TOKEN_INVALID"
    assert "nonsense" not in error.message


async def test_a_stream_ends_with_its_token(
    clients: Clients, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own, which says half a second before the end however long it took to come here."""
    token = accounts.issue("alex", {Role.OPERATOR}, {"s1"}, timedelta(hours=1))
    ends = jwt.decode(token, options={"verify_signature": False})["exp"]
    monkeypatch.setattr(ending, "time", SimpleNamespace(time=lambda: ends + LEEWAY_SECONDS - 0.5))

    answers: Any = alert_pb2_grpc.AlertServiceStub(clients.person(token=token)).StreamAlerts(
        alert_pb2.StreamAlertsRequest(parent="stores/s1")
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [answer async for answer in answers]

    assert from_rpc(caught.value).reason == "TOKEN_EXPIRED"


async def test_a_key_that_was_dropped_ends_its_tokens_at_once(clients: Clients, accounts: Accounts) -> None:
    channel = clients.person(Role.OPERATOR)
    await get_alert(channel)

    accounts.add_key()
    await get_alert(channel)  # the old key is still published
    accounts.drop_old()

    error = await refused(get_alert(channel))
    assert isinstance(error, Unauthenticated)
    await get_alert(clients.person(Role.OPERATOR))


async def test_a_key_that_was_dropped_ends_the_streams_of_its_tokens(
    clients: Clients, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "LOOK_SECONDS", 0.05)
    answers: Any = alert_pb2_grpc.AlertServiceStub(clients.person(Role.OPERATOR)).StreamAlerts(
        alert_pb2.StreamAlertsRequest(parent="stores/s1")
    )
    assert (await answers.read()).cursor == "0"

    accounts.add_key()
    with pytest.raises(TimeoutError):  # the old key is still published: it goes on
        await asyncio.wait_for(asyncio.shield(waiting := asyncio.ensure_future(answers.read())), 0.3)
    accounts.drop_old()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await waiting
    assert from_rpc(caught.value).reason == "TOKEN_REVOKED"


async def test_two_authorizations_are_none(clients: Clients, accounts: Accounts) -> None:
    """Who looked at the one for us, the gateway say, and we at the other would each see somebody else."""
    made = [accounts.issue(name, {Role.OPERATOR}, {"s1"}, timedelta(hours=1)) for name in ("alex", "dana")]
    stub = alert_pb2_grpc.AlertServiceStub(clients.service("cli"))

    error = await refused(
        stub.GetAlert(
            alert_pb2.GetAlertRequest(name=ALERT), metadata=[("authorization", f"Bearer {one}") for one in made]
        )
    )

    assert error.reason == "TOKEN_INVALID"


async def test_a_name_of_megabytes_is_neither_remembered_nor_recorded() -> None:
    told: list[Refusal] = []

    async def record(refusal: Refusal) -> None:
        told.append(refusal)

    analyst = Principal("person", "alex", frozenset({Role.ANALYST}), frozenset({"s1"}))
    guard = AuthInterceptor(Caller(analyst), on_refusal=record)  # type: ignore[arg-type]
    run = guard.wrap(Rpc("poi.v1.AlertService", "GetAlert", False, False), answer)
    with pytest.raises(NotFound):
        await run(alert_pb2.GetAlertRequest(name="stores/s2/alerts/" + "x" * (1 << 20)), Context())

    assert len(told[0].resource) <= 500
    assert told[0].host == "127.0.0.1"


class Caller:
    """An authenticator that knows who it is."""

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    async def principal(self, context: Any) -> Principal:
        return self._principal


class Context:
    """As much of a context as the interceptor looks at."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}


async def answer(request: Any, context: Any) -> str:
    return "answer"


async def test_a_method_without_a_row_is_for_nobody() -> None:
    auditor = Principal("person", "root", frozenset(Role), ALL)
    guard = AuthInterceptor(Caller(auditor), {})  # type: ignore[arg-type]

    with pytest.raises(PermissionDenied, match="nobody"):
        await guard.wrap(Rpc("a.Service", "Method", False, False), answer)(None, Context())


async def test_what_is_refused_is_recorded() -> None:
    recorded: list[Refusal] = []

    async def record(refusal: Refusal) -> None:
        recorded.append(refusal)

    analyst = Principal("person", "alex", frozenset({Role.ANALYST}), frozenset({"s1"}))
    guard = AuthInterceptor(Caller(analyst), on_refusal=record)  # type: ignore[arg-type]
    run = guard.wrap(Rpc("poi.v1.AlertService", "GetAlert", False, False), answer)

    assert await run(alert_pb2.GetAlertRequest(name=ALERT), Context()) == "answer"
    assert not recorded
    with pytest.raises(NotFound):
        await run(alert_pb2.GetAlertRequest(name="stores/s2/alerts/a1"), Context())

    with pytest.raises(PermissionDenied):
        await guard.wrap(Rpc("poi.v1.AlertService", "AcknowledgeAlert", False, False), answer)(
            alert_pb2.AcknowledgeAlertRequest(name=ALERT), Context()
        )

    assert [(refusal.principal, refusal.resource, refusal.reason) for refusal in recorded] == [
        (analyst, "stores/s2/alerts/a1", "RESOURCE_NOT_FOUND"),
        (analyst, ALERT, "ROLE_MISSING"),
    ]


async def test_a_stream_of_a_service_costs_little_a_message() -> None:
    """Less than 2 us more for each message of the hot streams; three times that here, for machines with other work."""
    ingest = Principal("service", "spiffe://poi-mesh/s1/ingest", stores=frozenset({"s1"}), service="ingest")
    guard = AuthInterceptor(Caller(ingest), POLICY)  # type: ignore[arg-type]
    messages = [match_pb2.MatchDetectionsRequest(parent="stores/s1", batch_id=number) for number in range(20_000)]

    async def source() -> AsyncIterator[match_pb2.MatchDetectionsRequest]:
        for message in messages:
            yield message

    async def drain(requests: AsyncIterator[Any], context: Any) -> None:
        async for _ in requests:
            pass

    guarded = guard.wrap(Rpc("poi.v1.MatchService", "MatchDetections", True, True), drain)

    async def seconds(run: Any) -> float:
        started = time.process_time()
        await run(source(), Context())
        return time.process_time() - started

    await seconds(guarded)
    plain = min([await seconds(drain) for _ in range(3)])
    more = min([await seconds(guarded) for _ in range(3)])
    per_message = (more - plain) / len(messages) * 1e6
    print(f"{per_message:.2f} us a message")
    assert per_message < 6


async def test_calls_at_the_same_time_do_not_see_each_other(clients: Clients, servicer: Servicer) -> None:
    people = [clients.person(Role.OPERATOR, subject=name) for name in ("alex", "dana", "kim")]

    await asyncio.gather(*(get_alert(person) for person in people for _ in range(5)))

    assert sorted(caller.name for caller in servicer.callers if caller) == ["alex"] * 5 + ["dana"] * 5 + ["kim"] * 5


def test_without_tls_authorisation_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="POI_MATCH_AUTH: required needs"):
        Settings(auth="required")


def test_a_token_never_travels_in_the_clear(server: Server) -> None:
    with pytest.raises(ValueError, match="TLS only"):
        channels.connect(server.address, token="secret")
