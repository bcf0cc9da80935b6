"""The counters of each method."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from tests.support import until

SERVICE = "meshtest.v1.EchoService"


def value(name: str, kind: str, method: str, **labels: str) -> float:
    found = REGISTRY.get_sample_value(
        f"grpc_server_{name}", {"grpc_type": kind, "grpc_service": SERVICE, "grpc_method": method, **labels}
    )
    return found or 0.0


class Counts:
    """How much each counter of a method has grown."""

    def __init__(self, kind: str, method: str) -> None:
        self._kind, self._method = kind, method
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        codes = ("OK", "NOT_FOUND", "INVALID_ARGUMENT", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL")
        counts = {code: value("handled_total", self._kind, self._method, grpc_code=code) for code in codes}
        for name in ("handling_seconds_count", "msg_received_total", "msg_sent_total", "in_flight"):
            counts[name] = value(name, self._kind, self._method)
        return counts

    def grown(self) -> dict[str, float]:
        return {name: now - self._before[name] for name, now in self._now().items() if now != self._before[name]}


async def test_unary(echo: Any, pb: Any) -> None:
    counts = Counts("unary", "Say")
    await echo.stub.Say(pb.SayRequest(text="hello"))
    for text in ("missing", "bug", "x" * 21):
        with pytest.raises(grpc.aio.AioRpcError):
            await echo.stub.Say(pb.SayRequest(text=text))
    await echo.server.stop()
    assert counts.grown() == {
        "OK": 1,
        "NOT_FOUND": 1,
        "INTERNAL": 1,
        "INVALID_ARGUMENT": 1,
        "handling_seconds_count": 4,
    }


@pytest.mark.parametrize(
    ("kind", "method", "sent"),
    [
        ("server_stream", "Repeat", 3),
        ("client_stream", "Collect", 0),
        ("bidi_stream", "Chat", 2),
        ("bidi_stream", "Exchange", 2),
    ],
)
async def test_messages_of_streams(echo: Any, pb: Any, kind: str, method: str, sent: int) -> None:
    counts = Counts(kind, method)
    hello = pb.SayRequest(text="hello")
    call = getattr(echo.stub, method)(hello if kind == "server_stream" else iter([hello, hello]))
    if kind == "client_stream":
        await call
    else:
        assert len([reply async for reply in call]) == sent
    await echo.server.stop()
    received = 0 if kind == "server_stream" else 2
    expected = {"OK": 1, "handling_seconds_count": 1, "msg_received_total": received, "msg_sent_total": sent}
    assert counts.grown() == {name: count for name, count in expected.items() if count}


async def test_what_runs_and_who_leaves(echo: Any, pb: Any) -> None:
    counts = Counts("server_stream", "Repeat")
    stream = echo.stub.Repeat(pb.SayRequest(text="forever"))
    for _ in range(3):
        await stream.read()
    # A message is counted when it has left, which may be after its client has it.
    await until(lambda: counts.grown() == {"in_flight": 1, "msg_sent_total": 3}, "three messages are counted")
    stream.cancel()
    await echo.servicer.closed.wait()
    await echo.server.stop()
    assert counts.grown() == {"CANCELLED": 1, "handling_seconds_count": 1, "msg_sent_total": 3}


async def test_a_deadline_that_passed(echo: Any, pb: Any) -> None:
    counts = Counts("unary", "Say")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await echo.stub.Say(pb.SayRequest(text="forever"), timeout=1.0)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await echo.server.stop()
    assert counts.grown() == {"DEADLINE_EXCEEDED": 1, "handling_seconds_count": 1}
