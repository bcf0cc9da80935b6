"""How many calls may be open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh.errors import ResourceExhausted
from mesh.interceptors.base import Rpc
from mesh.interceptors.open_calls import OpenCallsInterceptor

UNARY = Rpc("meshtest.v1.EchoService", "Say", False, False)
STREAM = Rpc("meshtest.v1.EchoService", "Chat", True, True)
PROBE = Rpc("grpc.health.v1.Health", "Check", False, False)
WATCH = Rpc("grpc.health.v1.Health", "Watch", False, True)


async def test_streams_and_other_calls_are_counted_apart_and_probes_never_refused() -> None:
    interceptor, end = OpenCallsInterceptor(most=2), asyncio.Event()

    async def handler(request: Any, context: Any) -> Any:
        await end.wait()
        return request

    async def call(rpc: Rpc) -> Any:
        return await interceptor.wrap(rpc, handler)("answer", None)

    running = [asyncio.create_task(call(rpc)) for rpc in (STREAM, STREAM, UNARY, PROBE, PROBE, PROBE)]
    await asyncio.sleep(0)

    with pytest.raises(ResourceExhausted) as refused:
        await call(STREAM)
    running.append(asyncio.create_task(call(UNARY)))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted):
        await call(UNARY)
    end.set()

    assert refused.value.reason == "TOO_MANY_CALLS"
    assert refused.value.retry_after
    assert await asyncio.gather(*running) == ["answer"] * 7
    assert await call(STREAM) == await call(UNARY) == "answer", "who has left makes room"


async def test_watches_of_health_last_so_they_count_but_not_as_streams() -> None:
    interceptor, end = OpenCallsInterceptor(most=2), asyncio.Event()

    async def handler(request: Any, context: Any) -> Any:
        await end.wait()

    running = [
        asyncio.ensure_future(interceptor.wrap(rpc, handler)(None, None)) for rpc in (STREAM, STREAM, WATCH, WATCH)
    ]
    await asyncio.sleep(0)

    with pytest.raises(ResourceExhausted):
        await interceptor.wrap(WATCH, handler)(None, None)
    end.set()
    await asyncio.gather(*running)


async def test_calls_that_fail_or_are_cancelled_make_room() -> None:
    interceptor = OpenCallsInterceptor(most=1)

    async def fails(request: Any, context: Any) -> Any:
        raise ValueError

    async def lasts(request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    for _ in range(2):
        with pytest.raises(ValueError):  # noqa: PT011  (bare, as it was raised)
            await interceptor.wrap(UNARY, fails)(None, None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(interceptor.wrap(UNARY, lasts)(None, None), 0.01)
