"""The one request of a call: awaited after its headers, for a time, few at once, nobody behind others who are slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import prometheus_client
import pytest

from mesh import limits
from mesh.errors import DeadlineExceeded, MeshError, ResourceExhausted, from_rpc
from mesh.receiving import Receiving
from tests.support import until
from tests.support.raw import RawClient, framed
from tests.support.waiting import turns

SERVICE = "meshtest.v1.EchoService"
SAY, REPEAT = f"/{SERVICE}/Say", f"/{SERVICE}/Repeat"
REQUEST = framed(b"\x0a\x05hello")
ALEX, DANA, KIM = ("person", "alex"), ("person", "dana"), ("person", "kim")


class Calls:
    """Calls whose requests come when they are told to."""

    def __init__(self) -> None:
        self.receiving = Receiving()
        self.reading: list[str] = []
        self._come: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[Any]] = {}

    async def begin(self, key: tuple[str, str], *names: str) -> None:
        for name in names:
            self._come[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self.receiving.receive(key, self._reader(name)))
        await turns()

    async def come(self, *names: str) -> None:
        for name in names:
            self._come[name].set()
            assert await self.tasks[name] == name
        await turns()

    def _reader(self, name: str) -> Callable[[], Awaitable[str]]:
        async def read() -> str:
            self.reading.append(name)
            try:
                await self._come[name].wait()
                return name
            finally:
                self.reading.remove(name)

        return read


@pytest.fixture
async def calls(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Calls]:
    for name, value in (("RECEIVING", 4), ("RECEIVING_SHARE", 2), ("SLOW_SECONDS", 60.0)):
        monkeypatch.setattr(limits, name, value)
    made = Calls()
    yield made
    for task in made.tasks.values():
        task.cancel()
    await asyncio.gather(*made.tasks.values(), return_exceptions=True)
    assert made.reading == []
    assert not made.receiving._callers, "nothing is kept of who has left"
    assert made.receiving._all == 0
    assert not made.receiving._queue


async def test_a_caller_waits_for_their_own_requests_and_not_for_others(calls: Calls) -> None:
    await calls.begin(ALEX, "a1", "a2", "a3", "a4")
    assert calls.reading == ["a1", "a2"]

    await calls.begin(DANA, "d1")
    assert calls.reading == ["a1", "a2", "d1"]

    await calls.come("a2")
    assert calls.reading == ["a1", "d1", "a3"]


async def test_who_gives_up_waiting_leaves_their_turn_to_the_next(calls: Calls) -> None:
    await calls.begin(ALEX, "a1", "a2", "a3", "a4", "a5")

    calls.tasks["a3"].cancel()
    await calls.come("a1")
    assert calls.reading == ["a2", "a4"]

    calls.tasks["a2"].cancel()  # at the very moment at which
    calls.tasks["a5"].cancel()  # the other would have had its turn
    await turns()
    await calls.come("a4")


async def test_a_turn_that_is_given_to_a_call_that_ends_is_given_on(calls: Calls) -> None:
    await calls.begin(ALEX, "a1", "a2", "a3", "a4")

    calls._come["a1"].set()
    await until(lambda: calls.tasks["a1"].done())
    calls.tasks["a3"].cancel()  # it has its turn, maybe, and does not know yet
    await turns()

    assert calls.reading == ["a2", "a4"]


async def test_when_all_turns_are_taken_callers_have_them_by_turns(calls: Calls) -> None:
    await calls.begin(ALEX, "a1", "a2", "a3")
    await calls.begin(DANA, "d1", "d2", "d3")
    await calls.begin(KIM, "k1", "k2")
    assert calls.reading == ["a1", "a2", "d1", "d2"]

    await calls.come("a1")
    assert calls.reading == ["a2", "d1", "d2", "k1"]
    await calls.come("d1")
    assert calls.reading == ["a2", "d2", "k1", "a3"]
    await calls.come("d2", "a2", "k1")
    assert sorted(calls.reading) == ["a3", "d3", "k2"]


async def test_the_slow_one_of_who_has_most_makes_room(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SLOW_SECONDS", 0.05)
    await calls.begin(KIM, "k1")
    await calls.begin(ALEX, "a1", "a2")
    await calls.begin(("person", "sam"), "s1")

    await calls.begin(DANA, "d1")
    await until(lambda: "d1" in calls.reading)

    with pytest.raises(ResourceExhausted) as refused:
        await calls.tasks["a1"]
    assert refused.value.reason == "TOO_MANY_REQUESTS"
    assert refused.value.retry_after
    assert sorted(calls.reading) == ["a2", "d1", "k1", "s1"]
    await calls.come("a2", "d1", "k1", "s1")


async def test_a_request_that_does_not_come(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.05)
    await calls.begin(ALEX, "a1", "a2", "a3")

    for name in ("a1", "a2", "a3"):
        with pytest.raises(DeadlineExceeded) as slow:
            await calls.tasks[name]
        assert slow.value.reason == "REQUEST_TOO_SLOW"


def counted(name: str, kind: str, method: str, **more: str) -> float:
    labels = {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": method, **more}
    return prometheus_client.REGISTRY.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def one_more(kind: str, method: str, code: str) -> AsyncIterator[None]:
    """One call is counted in here, of this kind, with this status."""
    before = counted("grpc_server_handled_total", kind, method, grpc_code=code)
    yield
    await until(lambda: counted("grpc_server_handled_total", kind, method, grpc_code=code) == before + 1)
    assert counted("grpc_server_in_flight", kind, method) == 0


@pytest.mark.parametrize(("path", "kind"), [(SAY, "unary"), (REPEAT, "server_stream")])
async def test_a_call_is_there_before_its_request_and_of_its_kind(echo: Any, path: str, kind: str) -> None:
    method = path.rpartition("/")[2]
    async with one_more(kind, method, "OK"), RawClient(echo.server.address) as client:
        call = client.call(path)
        await client.send(call, REQUEST[:-1])
        await until(lambda: counted("grpc_server_in_flight", kind, method) == 1)

        await client.send(call, REQUEST[-1:])
        assert await client.status(call) == 0, "as ever, nobody waits for the client's end"


@pytest.mark.parametrize("path", [SAY, REPEAT])
async def test_too_slow(echo: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_SECONDS", 0.1)
    async with RawClient(echo.server.address) as client:
        silent, half, again = client.call(path), client.call(path), client.call(path)
        await client.send(half, REQUEST[:-1])
        await client.send(again, REQUEST)

        assert [await client.status(call) for call in (silent, half, again)] == [4, 4, 0]


async def test_a_client_that_leaves_while_its_request_is_awaited(echo: Any) -> None:
    async with RawClient(echo.server.address) as client, one_more("unary", "Say", "CANCELLED"):
        call = client.call(SAY)
        await client.send(call, REQUEST[:-1])
        await until(lambda: counted("grpc_server_in_flight", "unary", "Say") == 1)
        client.cancel(call)


async def test_a_client_whose_time_is_up(echo: Any) -> None:
    async with RawClient(echo.server.address) as client, one_more("unary", "Say", "DEADLINE_EXCEEDED"):
        call = client.call(SAY, ("grpc-timeout", "100m"))
        await client.send(call, REQUEST[:-1])


@pytest.mark.parametrize("path", [SAY, REPEAT])
async def test_no_request_at_all(echo: Any, path: str) -> None:
    async with RawClient(echo.server.address) as client:
        call = client.call(path)
        client.end(call)

        assert await client.status(call) == 3
        assert echo.servicer.calls == 0


async def test_a_second_request_is_not_looked_at(echo: Any) -> None:
    async with RawClient(echo.server.address) as client:
        call = client.call(SAY)
        await client.send(call, REQUEST + REQUEST)

        assert await client.status(call) == 0
        assert echo.servicer.calls == 1


async def test_bytes_that_are_no_request(echo: Any) -> None:
    say = echo.channel.unary_unary(SAY)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await say(b"\xff\xff")

    told: MeshError = from_rpc(refused.value)
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED")


async def test_a_request_of_more_than_a_message(echo: Any) -> None:
    async with RawClient(echo.server.address) as client:
        call = client.call(SAY)
        await client.send(call, framed(bytes((8 << 20) + 1))[: 1 << 16])

        assert await client.status(call) == 8


async def test_a_burst_of_honest_calls_is_answered(echo: Any, pb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECEIVING", 4)
    monkeypatch.setattr(limits, "RECEIVING_SHARE", 2)

    answers = await asyncio.gather(*(echo.stub.Say(pb.SayRequest(text="hello")) for _ in range(200)))

    assert {answer.text for answer in answers} == {"hello"}
    assert len(answers) == 200
