"""What a handler raises, as its client sees it."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from mesh import errors


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def last(stream: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stream:
            pass
    return caught.value


async def test_unary(echo: Any, pb: Any) -> None:
    told = errors.from_rpc(await failure(echo.stub.Say(pb.SayRequest(text="invalid"))))
    assert isinstance(told, errors.InvalidArgument)
    assert told.violations == [("poi.display_name", "must not be empty")]


async def test_server_stream_after_its_first_messages(echo: Any, pb: Any) -> None:
    told = errors.from_rpc(await last(echo.stub.Repeat(pb.SayRequest(text="missing"))))
    assert isinstance(told, errors.NotFound)
    assert told.metadata == {"name": "stores/s1/pois/p1"}


async def test_bidi_stream(echo: Any, pb: Any) -> None:
    told = errors.from_rpc(await last(echo.stub.Chat(iter([pb.SayRequest(text="exhausted")]))))
    assert isinstance(told, errors.ResourceExhausted)
    assert (told.reason, told.retry_after) == ("QUOTA", 1.5)


async def test_an_unexpected_exception_says_an_id_only(echo: Any, pb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = errors.from_rpc(await failure(echo.stub.Say(pb.SayRequest(text="bug"))))
    assert (type(told), told.code) == (errors.MeshError, grpc.StatusCode.INTERNAL)
    error_id = told.metadata["error_id"]
    assert told.message == f"internal error {error_id}"
    (line,) = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "rpc_failed"]
    assert line["error_id"] == error_id
    assert "KeyError" in line["exception"]
    assert "mesh_echo.py" in line["exception"]


async def test_redis_out_of_reach_is_unavailable(echo: Any, pb: Any) -> None:
    told = errors.from_rpc(await failure(echo.stub.Say(pb.SayRequest(text="redis"))))
    assert isinstance(told, errors.Unavailable)
    assert (told.reason, told.retry_after) == ("STATE_UNAVAILABLE", 1.0)
    assert "127.0.0.1" not in told.message


async def test_the_error_of_another_service_is_handed_on(echo: Any, pb: Any) -> None:
    port = echo.server.address.rpartition(":")[2]
    told = errors.from_rpc(await failure(echo.stub.Say(pb.SayRequest(text="neighbour"), metadata=[("port", port)])))
    assert isinstance(told, errors.InvalidArgument)
    assert told.violations == [("poi.display_name", "must not be empty")]


async def test_a_handler_that_aborts_is_left_alone(echo: Any, pb: Any) -> None:
    error = await failure(echo.stub.Say(pb.SayRequest(text="abort")))
    assert (error.code(), error.details()) == (grpc.StatusCode.ALREADY_EXISTS, "ended by the handler")


async def test_a_generator_is_closed_when_its_client_leaves(echo: Any, pb: Any) -> None:
    stream = echo.stub.Repeat(pb.SayRequest(text="forever"))
    assert (await stream.read()).count == 0
    stream.cancel()
    await echo.servicer.closed.wait()


async def test_an_unknown_method_is_unimplemented(echo: Any) -> None:
    call = echo.channel.unary_unary("/meshtest.v1.EchoService/Nothing")
    assert (await failure(call(b""))).code() == grpc.StatusCode.UNIMPLEMENTED
