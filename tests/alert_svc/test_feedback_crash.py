"""What is left of verdicts when a server, or Redis, is killed: an alert and its report never disagree."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest
from poi.v1 import alert_pb2, alert_pb2_grpc, feedback_pb2, feedback_pb2_grpc

from mesh import channels
from mesh.errors import from_rpc
from mesh.local import Program, Redis, Service
from tests.alert_svc.support import candidate, raise_alerts, raise_numbers
from tests.alert_svc.test_feedback import CONFIRMED, NOT_THIS_PERSON, said

COUNT = 90
VERDICTS = {
    alert_pb2.ALERT_STATE_CONFIRMED: CONFIRMED,
    alert_pb2.ALERT_STATE_FALSE_MATCH: NOT_THIS_PERSON,
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Redis, Service, Service]]:
    """A Redis and two servers of it, all of which these tests may kill."""
    with Redis(tmp_path_factory.mktemp("redis")) as redis, ExitStack() as undo:
        data_dir, env = tmp_path_factory.mktemp("servers"), {"POI_REDIS_URL": redis.url}
        one, two = (Service("alert_svc", data_dir, env, name=name) for name in ("one", "two"))
        for server in (one, two):
            undo.callback(server.stop)
            server.spawn()
        for server in (one, two):
            server.wait_ready()
        yield redis, one, two


class Client:
    """Both services of one server."""

    def __init__(self, target: str) -> None:
        self.channel = channels.connect(target)
        self.alerts: alert_pb2_grpc.AlertServiceAsyncStub = alert_pb2_grpc.AlertServiceStub(self.channel)
        self.feedback: feedback_pb2_grpc.FeedbackServiceAsyncStub = feedback_pb2_grpc.FeedbackServiceStub(self.channel)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


class Verdicts:
    """People who say something of each alert, in three ways, all at once; nobody says it again."""

    def __init__(self, client: Client, store: str, names: list[str]) -> None:
        self._client, self._store, self._names = client, store, names
        self._moved = asyncio.Condition()
        self.answered: set[str] = set()

    async def until_answered(self, count: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.answered) >= count)

    async def run(self) -> None:
        await asyncio.gather(*(self._say(number) for number in range(len(self._names))))

    async def _say(self, number: int) -> None:
        name, alerts = self._names[number], self._client.alerts
        try:
            if number % 3 == 0:
                await alerts.RejectAlert(alert_pb2.RejectAlertRequest(name=name, actor="ann"), wait_for_ready=False)
            elif number % 3 == 1:
                await alerts.ConfirmAlert(alert_pb2.ConfirmAlertRequest(name=name, actor="ann"), wait_for_ready=False)
            else:
                await self._client.feedback.ReportMatch(
                    said(self._store, NOT_THIS_PERSON, f"a{number}"), wait_for_ready=False
                )
        except grpc.aio.AioRpcError as error:
            if not from_rpc(error).retryable:
                raise
            return
        async with self._moved:
            self.answered.add(name)
            self._moved.notify_all()


async def the_state_of(client: Client, store: str) -> tuple[list[alert_pb2.Alert], dict[str, int]]:
    """All alerts, and the verdict of each that has a report."""
    alerts = (await client.alerts.ListAlerts(alert_pb2.ListAlertsRequest(parent=store, page_size=1000))).alerts
    request = feedback_pb2.ListMatchReportsRequest(parent=store, page_size=1000)
    reports = (await client.feedback.ListMatchReports(request)).match_reports
    assert len({report.name for report in reports}) == len(reports)
    return list(alerts), {report.alert: report.verdict for report in reports}


@pytest.mark.parametrize("victim", ["server", "redis"])
async def test_an_alert_and_its_report_agree_whoever_is_killed_when(
    programs: tuple[Redis, Service, Service], store: str, victim: str
) -> None:
    redis, one, two = programs
    killed: Program = redis if victim == "redis" else one
    async with Client(two.target) as other:
        names = await raise_numbers(other.alerts, store, range(COUNT))
        async with Client(one.target) as client:
            people = Verdicts(client, store, names)
            speaking = asyncio.create_task(people.run())
            await people.until_answered(COUNT // 6)
            await asyncio.to_thread(killed.kill)
            if victim == "redis":
                await asyncio.to_thread(killed.start)
            await speaking
            if victim == "server":
                await asyncio.to_thread(killed.start)
        alerts, verdicts = await the_state_of(other, store)
        assert {alert.name for alert in alerts} == set(names)
        for alert in alerts:
            assert verdicts.get(alert.name) == VERDICTS.get(alert.state)
        assert people.answered <= set(verdicts)


async def test_a_rejected_pair_stays_rejected_on_every_server_and_after_a_restart_of_everything(
    programs: tuple[Redis, Service, Service], store: str
) -> None:
    redis, one, two = programs
    async with Client(one.target) as client:
        name = (await raise_alerts(client.alerts, store, candidate(store, "a1"))).alerts[0].alert
        await client.alerts.RejectAlert(alert_pb2.RejectAlertRequest(name=name, actor="ann"))
        await client.feedback.ReportMatch(said(store, NOT_THIS_PERSON, "a2"))

    async def raised(target: str) -> list[tuple[str, bool, bool]]:
        async with Client(target) as client:
            answers = (await raise_alerts(client.alerts, store, candidate(store, "a1"), candidate(store, "a2"))).alerts
        return [(answer.alert, answer.created, answer.rejected) for answer in answers]

    rejected = [(name, False, True), ("", False, True)]
    assert await raised(two.target) == rejected
    for program in (one, two, redis):
        await asyncio.to_thread(program.kill)
    for program in (redis, one, two):
        await asyncio.to_thread(program.start)
    for server in (one, two):
        assert await raised(server.target) == rejected

    async with Client(two.target) as client:
        await client.feedback.ReportMatch(said(store, CONFIRMED, "a2"))
    assert [created for _, created, _ in await raised(one.target)] == [False, True]
