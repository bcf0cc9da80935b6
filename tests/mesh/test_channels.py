"""The client side: deadlines, retries, waiting for a server that is not there yet."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import grpc
import pytest

from mesh.channels import connect


async def test_unavailable_is_retried(echo: Any, pb: Any, pb_grpc: Any) -> None:
    async with connect(echo.server.address) as channel:
        echo.servicer.failures_left = 3
        reply = await pb_grpc.EchoServiceStub(channel).Say(pb.SayRequest(text="hello"))
        assert (reply.text, reply.count) == ("hello", 4)


async def test_a_stream_that_was_not_answered_is_retried(echo: Any, pb: Any, pb_grpc: Any) -> None:
    async with connect(echo.server.address) as channel:
        echo.servicer.failures_left = 2
        call = pb_grpc.EchoServiceStub(channel).Chat(iter([pb.SayRequest(text="hello")]))
        assert [reply.text async for reply in call] == ["hello"]


async def test_retries_end(echo: Any, pb: Any, pb_grpc: Any) -> None:
    async with connect(echo.server.address) as channel:
        echo.servicer.failures_left = 100
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EchoServiceStub(channel).Say(pb.SayRequest(text="hello"))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert echo.servicer.calls == 5


async def test_other_errors_are_not_retried(echo: Any, pb: Any, pb_grpc: Any) -> None:
    async with connect(echo.server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await pb_grpc.EchoServiceStub(channel).Say(pb.SayRequest(text="exhausted"))
        assert echo.servicer.calls == 1


async def test_a_unary_call_has_a_deadline_unless_it_brings_one(echo: Any, pb: Any, pb_grpc: Any) -> None:
    async with connect(echo.server.address, default_timeout=0.3) as channel:
        stub = pb_grpc.EchoServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(pb.SayRequest(text="forever"))
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await stub.Say(pb.SayRequest(text="slow"), timeout=60)).text == "slow"


async def test_a_stream_has_none(echo: Any, pb: Any, pb_grpc: Any) -> None:
    async with connect(echo.server.address, default_timeout=0.2) as channel:
        call = pb_grpc.EchoServiceStub(channel).Chat()
        await asyncio.sleep(0.4)
        await call.write(pb.SayRequest(text="hello"))
        assert (await call.read()).text == "hello"


async def test_a_call_without_a_server_ends_at_its_deadline(pb: Any, pb_grpc: Any) -> None:
    async with connect("127.0.0.1:1", default_timeout=0.3) as channel:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EchoServiceStub(channel).Say(pb.SayRequest(text="hello"))
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began > 0.25


async def test_a_server_that_was_killed_is_found_again(start: Any, pb: Any, pb_grpc: Any) -> None:
    first = await start()
    async with connect(first.address, default_timeout=60) as channel:
        stub = pb_grpc.EchoServiceStub(channel)
        await stub.Say(pb.SayRequest(text="hello"))
        first.popen.send_signal(signal.SIGKILL)
        await asyncio.to_thread(first.popen.wait)
        waiting = asyncio.ensure_future(_await(stub.Say(pb.SayRequest(text="hello"))))
        await start(listen=first.address)
        assert (await waiting).count == 1


async def test_no_call_fails_while_a_server_restarts_in_good_order(start: Any, pb: Any, pb_grpc: Any) -> None:
    first = await start()
    restarted = asyncio.Event()
    async with connect(first.address, default_timeout=60) as channel:
        stub = pb_grpc.EchoServiceStub(channel)

        async def talk() -> None:
            while not restarted.is_set():
                await stub.Say(pb.SayRequest(text="hello"))

        talking = [asyncio.ensure_future(talk()) for _ in range(32)]
        await stub.Say(pb.SayRequest(text="hello"))
        first.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(first.popen.wait)
        await start(listen=first.address)
        restarted.set()
        await asyncio.gather(*talking)


async def _await(call: Any) -> Any:
    return await call
