"""Reflection, in both versions, by hand and by an independent client."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mesh.errors import Draining, from_rpc

ROOT = Path(__file__).parents[2]
VERSIONS = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")


def reflect(channel: grpc.aio.Channel, service: str) -> Any:
    method = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return method()


@pytest.mark.parametrize("version", VERSIONS)
async def test_lists_and_describes(echo: Any, version: str) -> None:
    call = reflect(echo.channel, version)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = [service.name for service in (await call.read()).list_services_response.service]
    assert listed == sorted([*VERSIONS, "grpc.health.v1.Health", "meshtest.v1.EchoService"])
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="meshtest.v1.EchoService"))
    answer = (await call.read()).file_descriptor_response.file_descriptor_proto
    files = {file.name for file in map(descriptor_pb2.FileDescriptorProto.FromString, answer)}
    assert {"echo.proto", "buf/validate/validate.proto"} <= files
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_an_open_stream_does_not_hold_the_server(echo: Any) -> None:
    call = reflect(echo.channel, VERSIONS[1])
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await call.read()
    await echo.server.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert isinstance(from_rpc(caught.value), Draining)


async def test_buf_curl(echo: Any) -> None:
    buf = shutil.which("buf", path=str(ROOT / "node_modules" / ".bin"))
    assert buf is not None, "buf is not installed: `make ready` brings it"
    say = ["--data", '{"text": "hello"}', "/meshtest.v1.EchoService/Say"]
    for arguments in (["--list-services"], ["--list-methods"], say):
        *options, path = arguments if arguments[-1].startswith("/") else [*arguments, ""]
        process = await asyncio.create_subprocess_exec(
            buf,
            "curl",
            "--http2-prior-knowledge",
            "--protocol",
            "grpc",
            *options,
            f"http://{echo.server.address}{path}",
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert ("meshtest.v1.EchoService" if not path else '"text": "hello"') in out.decode()
