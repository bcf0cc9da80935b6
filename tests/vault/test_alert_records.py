"""Alerts over a vault: nobody's name, and nothing that was written about them, lies in Redis or in its file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from poi.v1 import alert_pb2, delivery_pb2, erasure_pb2, feedback_pb2, feedback_pb2_grpc, match_pb2

from alert_svc.alerts import new_alert
from alert_svc.erasing.found import Who, look
from alert_svc.keys import key, log_key
from alert_svc.log import AlertLog
from alert_svc.resealing import reseal_log, sealed_hashes
from alert_svc.times import now
from alert_svc.triage import Action
from mesh import channels
from mesh import redis as connections
from mesh.local import Redis as LocalRedis
from mesh.local import free_port
from mesh.purging import purge
from mesh.redis import Redis
from mesh.vault import Unopenable
from mesh.vault.resealing import reseal
from tests.alert_svc.support import candidate, connected, next_event, raise_alerts
from tests.conftest import StartService
from tests.delivery.support import FAST, client_of, settled
from tests.erasure.everything import Secrets, in_files, in_redis
from tests.support import until
from tests.vault.conftest import STORE, Keys
from tests.vault.redis_bytes import everything

PARENT = f"stores/{STORE}"
NAME, OTHER, NOTE, OPERATOR = "Jo Nobody-Else", "Runner Nobody-Up", "he has a limp that few have", "operator Nobody-Too"
PERSONAL = Secrets({one.encode(): one for one in (NAME, OTHER, NOTE, OPERATOR)})


def seen(appearance: str) -> alert_pb2.AlertCandidate:
    """Somebody with a name, and who else it may be."""
    made = candidate(PARENT, appearance)
    made.match.display_name = NAME
    made.runners_up.append(match_pb2.Match(poi=f"{PARENT}/pois/p2", display_name=OTHER, similarity=0.6))
    return made


async def _work(target: str, alert: str, appearance: str) -> None:
    """What an operator does with one, and says of it."""
    async with connected(target) as client, channels.connect(target) as channel:
        request = alert_pb2.AcknowledgeAlertRequest(name=alert, actor=OPERATOR, note=NOTE)
        assert (await client.AcknowledgeAlert(request)).match.display_name == NAME
        feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        said = feedback_pb2.ReportMatchRequest(
            parent=PARENT,
            appearance=f"{PARENT}/appearances/{appearance}",
            poi=f"{PARENT}/pois/p1",
            verdict=feedback_pb2.MATCH_VERDICT_CONFIRMED,
            actor=OPERATOR,
            note=NOTE,
        )
        await feedback.ReportMatch(said)
        listed = await feedback.ListMatchReports(feedback_pb2.ListMatchReportsRequest(parent=PARENT))
        assert {(one.note, one.match.display_name) for one in listed.match_reports} == {(NOTE, NAME)}


async def test_no_name_and_no_note_is_stored_in_the_clear(tmp_path: Path, keys: Keys, service: StartService) -> None:
    with LocalRedis(tmp_path / "redis") as redis:
        plain = {**FAST, "POI_REDIS_URL": redis.url, "POI_STORE": STORE, "POI_ALERT_EVIDENCE": "false"}
        before = service("alert_svc", plain, name="before")
        async with connected(before.target) as client:
            (old,) = (await raise_alerts(client, PARENT, seen("old"))).alerts
        await _work(before.target, old.alert, "old")
        before.stop()
        assert set().union(*in_redis(redis.url, PERSONAL).values()) == {NAME, OTHER, NOTE, OPERATOR}

        sealing = {**plain, **keys.environment, "POI_ALERT_DELIVERY_MAX_ATTEMPTS": "1"}
        servers = [service("alert_svc", sealing, name=name) for name in ("one", "two")]

        async def nothing() -> bool:
            return in_redis(redis.url, PERSONAL) == {}

        await until(nothing, "what was there before is sealed, the log too")
        async with client_of(servers[0].target, PARENT) as delivering:
            await delivering.webhook(f"http://127.0.0.1:{free_port()}/", "away")
            (new,) = (await raise_alerts(delivering.alerts, PARENT, seen("new"))).alerts
            await settled(delivering, 1, delivery_pb2.DELIVERY_STATE_DEAD, "away")
        await _work(servers[1].target, new.alert, "new")

        async with connected(servers[1].target) as client:
            followed = client.StreamAlerts(alert_pb2.StreamAlertsRequest(parent=PARENT, cursor="0-0"))
            told = [await next_event(followed) for _ in range(6)]
            assert {(one.alert.match.display_name, one.alert.runners_up[0].display_name) for one in told} == {
                (NAME, OTHER)
            }
            page = await client.ListAlerts(alert_pb2.ListAlertsRequest(parent=PARENT))
            assert [(one.name, one.match.display_name) for one in page.alerts] == [
                (new.alert, NAME), (old.alert, NAME),
            ]  # fmt: skip
            export = alert_pb2.ExportAlertRequest(name=old.alert, actor=OPERATOR, purpose="case 7")
            content = b"".join([piece.data async for piece in client.ExportAlert(export)])
            with zipfile.ZipFile(io.BytesIO(content)) as case:
                assert case.read("history.json").count(NOTE.encode()) >= 2, "what was done is told from the log"
        assert in_redis(redis.url, PERSONAL) == {}
        own = connections.connect(redis.url)
        assert await purge(own, "t") == []
        await own.aclose()
        assert in_files(tmp_path / "redis", PERSONAL) == {}


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    made = connections.connect(redis_url)
    yield made
    await made.aclose()


async def _raised(log: AlertLog, *appearances: str) -> list[alert_pb2.Alert]:
    alerts = [new_alert(seen(one), STORE, now(), "") for one in appearances]
    assert all(one.created for one in await log.raise_all(STORE, alerts))
    return alerts


async def _read(log: AlertLog, count: int) -> list[str]:
    """The alerts of the log's entries."""
    names: list[str] = []
    async with aclosing(log.follow(STORE, "0-0")) as changes:
        async for change in changes:
            if change is not None:
                names.append(alert_pb2.Alert.FromString(change.snapshot).name)
            if len(names) == count:
                break
    return names


async def test_after_a_rotation_nothing_of_alerts_needs_the_old_key(client: Redis, keys: Keys) -> None:
    vault = keys.vault()
    log, other = AlertLog(client, retention_days=7, box=vault), AlertLog(client, retention_days=7, box=keys.vault())
    first, second = await _raised(log, "a", "b")
    await log.act(first.name, Action(alert_pb2.ALERT_STATE_CONFIRMED, OPERATOR, NOTE, etag=""))
    keys.run("rotate")

    assert await other.get(first.name) == await log.get(first.name)
    for each in await sealed_hashes(client):
        await reseal(client, vault, each)
    assert await reseal_log(client, vault, STORE) == 3
    assert await reseal_log(client, vault, STORE) == 0

    old = b"\0PV1\0\0\0\1"
    assert old not in everything(connections_url(client))
    assert await _read(other, 3) == [first.name, second.name, first.name]
    assert (await other.get(first.name)).confirmation.note == NOTE
    assert (await other.reports.page(STORE, lambda _: True, limit=9))[0][0].note == NOTE


def connections_url(client: Redis) -> str:
    """Where a client is connected to."""
    kwargs: Any = client.connection_pool.connection_kwargs
    return f"redis://{kwargs['host']}:{kwargs['port']}/{kwargs['db']}"


async def test_once_the_keys_are_destroyed_no_copy_of_an_alert_can_be_read(client: Redis, keys: Keys) -> None:
    log = AlertLog(client, retention_days=7, box=keys.vault())
    (alert,) = await _raised(log, "a")
    keys.run("erase-store", STORE, "--confirm", STORE)

    for one in (log, AlertLog(client, retention_days=7, box=keys.vault(accept_plain=True))):
        with pytest.raises(Unopenable, match="were destroyed"):
            await one.get(alert.name)
        assert (await one.list(STORE, lambda _: True, limit=9))[0] == []


async def test_an_alert_in_anothers_place_is_noticed_and_keeps_nobody_from_the_others(
    client: Redis, keys: Keys
) -> None:
    log = AlertLog(client, retention_days=7, box=keys.vault())
    first, second = await _raised(log, "a", "b")
    ids = [one.name.rpartition("/")[2] for one in (first, second)]
    taken: Any = await client.hget(key(STORE), ids[1])
    await client.hset(key(STORE), ids[0], taken)
    await client.xadd(log_key(STORE), {"event": "1", "alert": taken[:-1] + bytes([taken[-1] ^ 1])})
    (third,) = await _raised(log, "c")

    with pytest.raises(Unopenable, match="is another alert"):
        await log.get(first.name)
    assert (await log.get(second.name)).match.display_name == NAME
    assert await _read(log, 3) == [first.name, second.name, third.name]
    await client.hset(key(STORE), ids[0], b"\0PV1" + bytes(60))
    assert {one.name for one in (await log.list(STORE, lambda _: True, limit=9))[0]} == {second.name, third.name}


async def test_an_erased_person_is_found_in_what_is_sealed(client: Redis, keys: Keys) -> None:
    log = AlertLog(client, retention_days=7, box=keys.vault())
    (alert,) = await _raised(log, "a")

    async def found(poi: str) -> tuple[int, int, int]:
        who = Who(erasure_pb2.TraceSubject(poi=f"{PARENT}/pois/{poi}"))
        what = await look(client, STORE, who, log.kept)
        return len(what.own), len(what.others), what.entries

    assert [await found(poi) for poi in ("p1", "p2", "p3")] == [(1, 0, 1), (0, 1, 1), (0, 0, 0)]
    assert alert.match.poi == f"{PARENT}/pois/p1"
