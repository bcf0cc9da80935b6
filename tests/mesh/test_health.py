"""Health, as probes and balancers ask for it. The life of a whole server is in test_server.py."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mesh.health import Health
from tests.support import until

SERVICE = "meshtest.v1.EchoService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def stub(echo: Any) -> Any:
    return health_pb2_grpc.HealthStub(echo.channel)  # type: ignore[no-untyped-call]


def about(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_check(echo: Any, stub: Any) -> None:
    assert (await stub.Check(about(SERVICE))).status == SERVING
    assert (await stub.Check(about(""))).status == SERVING
    echo.server.set_serving(SERVICE, False)
    assert (await stub.Check(about(SERVICE))).status == NOT_SERVING
    assert (await stub.Check(about(""))).status == NOT_SERVING, "the server serves when all its services do"
    echo.server.set_serving(SERVICE, True)
    assert (await stub.Check(about(""))).status == SERVING


async def test_an_unknown_service(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(about("no.such.Service"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(about("no.such.Service"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_a_watcher_that_leaves_does_not_deafen_the_others(echo: Any, stub: Any) -> None:
    leaves, stays = stub.Watch(about(SERVICE)), stub.Watch(about(SERVICE))
    assert [(await watch.read()).status for watch in (leaves, stays)] == [SERVING, SERVING]
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves.code() and await leaves.read()
    await stub.Check(about(SERVICE))
    echo.server.set_serving(SERVICE, False)
    assert (await asyncio.wait_for(stays.read(), 60)).status == NOT_SERVING
    stays.cancel()


async def test_nothing_is_serving_before_the_start_or_after_the_drain_began() -> None:
    states = Health()
    states.set(SERVICE, True)
    assert (states.status(SERVICE), states.status("")) == (NOT_SERVING, NOT_SERVING)
    states.open()
    assert (states.status(SERVICE), states.status("")) == (SERVING, SERVING)
    states.shut()
    states.set(SERVICE, True)
    assert (states.status(SERVICE), states.status("")) == (NOT_SERVING, NOT_SERVING)


async def test_watches_end_with_the_server(echo: Any, stub: Any) -> None:
    watch = stub.Watch(about(""))
    assert (await watch.read()).status == SERVING
    await echo.server.stop()
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.read() is grpc.aio.EOF
    assert await watch.code() == grpc.StatusCode.OK


async def test_the_servicer_of_the_library_deafens_watchers() -> None:
    """Why there is one of our own: when this test fails, the library's can be used (if its watches also end)."""
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        leaves, stays = stub.Watch(about("")), stub.Watch(about(""))
        assert [(await watch.read()).status for watch in (leaves, stays)] == [SERVING, SERVING]
        assert "" in servicer._server_watchers
        leaves.cancel()
        await until(lambda: "" not in servicer._server_watchers, "the server has noticed")
        await servicer.set("", NOT_SERVING)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stays.read(), 0.5)
    await server.stop(0)
