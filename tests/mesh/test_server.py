"""A server in a process of its own, from start to SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import errors
from mesh.channels import connect
from mesh.server import Server

SERVICE = "meshtest.v1.EchoService"


async def end(process: Any, number: int = signal.SIGTERM) -> int:
    process.popen.send_signal(number)
    return int(await asyncio.to_thread(process.popen.wait, 60))


async def test_sigterm_tells_health_and_streams_finishes_calls_and_closes(start: Any, pb: Any, pb_grpc: Any) -> None:
    process = await start(drain_seconds=3, grace_seconds=120)
    async with connect(process.address) as channel:
        stub = pb_grpc.EchoServiceStub(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        chat = stub.Chat()
        await chat.write(pb.SayRequest(text="hello"))
        assert (await chat.read()).text == "hello"
        repeat = stub.Repeat(pb.SayRequest(text="forever"))
        assert [(await repeat.read()).count for _ in range(3)] == [0, 1, 2]
        slow = asyncio.ensure_future(_await(stub.Say(pb.SayRequest(text="slower"))))
        await until_called(stub, pb)

        process.popen.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for stream in (chat, repeat):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                assert await stream.read() is None
            told = errors.from_rpc(caught.value)
            assert isinstance(told, errors.Draining)
            assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        # Streams are told before the drain is over: it is still served while balancers look elsewhere, and what takes
        # longer is finished after it was no longer listening.
        assert (await stub.Say(pb.SayRequest(text="late"))).text == "late"
        assert (await slow).text == "slower"
        assert await watch.read() is grpc.aio.EOF
        # Nothing holds the server until the grace period is over.
        assert await asyncio.to_thread(process.popen.wait, 60) == 0

    assert not process.ready_file.exists()
    assert (process.ready_file.parent / "marks").read_text() == "closed\n"
    events = [line["event"] for line in process.log()]
    assert events[0] == "serving"
    assert events[-1] == "stopped"
    ends = {line["rpc_method"]: line["code"] for line in process.log() if line["event"] == "stream_ended"}
    assert ends == {"Chat": "UNAVAILABLE", "Repeat": "UNAVAILABLE", "Watch": "OK"}


async def until_called(stub: Any, pb: Any) -> None:
    """Returns when one call that was made before has begun."""
    others = 1
    while (await stub.Say(pb.SayRequest(text="hello"))).count == others:
        others += 1


async def _await(call: Any) -> Any:
    return await call


async def test_sigint_ends_it_too(start: Any) -> None:
    process = await start(drain_seconds=0, log_format="console")
    assert await end(process, signal.SIGINT) == 0


async def test_a_call_that_does_not_end_is_cut_at_the_grace_period(start: Any, pb: Any, pb_grpc: Any) -> None:
    process = await start(drain_seconds=0, grace_seconds=0.3)
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub = pb_grpc.EchoServiceStub(channel)
        call = asyncio.ensure_future(_await(stub.Say(pb.SayRequest(text="forever"))))
        await until_called(stub, pb)
        began = time.monotonic()
        assert await end(process) == 0
        assert time.monotonic() - began >= 0.3
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_metrics_and_log(start: Any, pb: Any, pb_grpc: Any) -> None:
    process = await start(drain_seconds=0)
    async with connect(process.address) as channel:
        stub = pb_grpc.EchoServiceStub(channel)
        await stub.Say(pb.SayRequest(text="hello"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Say(pb.SayRequest(text="missing"))
    labels = f'grpc_method="Say",grpc_service="{SERVICE}",grpc_type="unary"'
    counted = [f'grpc_server_handled_total{{grpc_code="{code}",{labels}}} 1.0' for code in ("OK", "NOT_FOUND")]
    async with asyncio.timeout(60):
        # A call is counted when it has ended here, which may be after its client heard of it.
        page = ""
        while not all(line in page for line in counted):
            await asyncio.sleep(0.05)
            page = await asyncio.to_thread(_get, f"http://{process.metrics}/metrics")
    assert await end(process) == 0
    lines = [line for line in process.log() if line["event"] == "rpc"]
    assert [(line["rpc_method"], line["code"], line["level"], line["service"]) for line in lines] == [
        ("Say", "NOT_FOUND", "info", "embed")
    ]


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read(), "utf-8")


@pytest.mark.parametrize("field", ["listen", "metrics_listen"])
async def test_a_taken_port_is_refused_with_one_line(
    start: Any, environment: dict[str, str], compiled: Path, field: str
) -> None:
    process = await start()
    taken = process.address if field == "listen" else process.metrics
    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(Path(__file__).parent / "mesh_echo.py")],
        env=environment | {f"POI_{field.upper()}": taken},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 2
    assert second.stderr.endswith(f": POI_EMBED_{field.upper()}: cannot listen on '{taken}': Address already in use\n")
    assert second.stderr.count("\n") == 1


async def test_a_message_over_the_limit_is_refused(start: Any, pb: Any, pb_grpc: Any) -> None:
    process = await start(max_message_bytes=2048)
    async with connect(process.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EchoServiceStub(channel).Say(pb.SayRequest(text="x" * 3000))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_closers_run_in_reverse_and_one_that_fails_does_not_stop_the_others(tmp_path: Path, echo: Any) -> None:
    ran = []

    async def first() -> None:
        ran.append("first")

    async def failing() -> None:
        ran.append("failing")
        raise RuntimeError("disk gone")

    echo.server.on_stop(first)
    echo.server.on_stop(failing)
    await echo.server.stop()
    await echo.server.stop()
    assert ran == ["failing", "first"]


async def test_a_server_that_cannot_start_closes_what_it_was_given(echo: Any) -> None:
    taken = type(echo.server._settings)(listen=echo.server.address)
    second = Server(taken)
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    second.on_stop(close)
    with pytest.raises(SystemExit) as caught:
        await second.serve()
    assert caught.value.code == 2
    assert closed.is_set()


async def test_work_begins_only_in_a_server_that_has_its_port(echo: Any) -> None:
    settings = type(echo.server._settings)
    begun: list[str] = []
    second, third = Server(settings(listen=echo.server.address)), Server(settings(listen="127.0.0.1:0"))
    second.on_start(lambda: begun.append("second"))
    third.on_start(lambda: begun.append("third"))
    with pytest.raises(SystemExit):
        await second.serve()
    async with third:
        assert begun == ["third"]


async def test_ready_file_says_where(start: Any) -> None:
    process = await start()
    said = json.loads(process.ready_file.read_bytes())
    assert set(said) == {"listen", "metrics", "pid"}
    assert said["listen"].startswith("127.0.0.1:")
    assert not said["listen"].endswith(":0")
    assert [path.name for path in process.ready_file.parent.glob("ready*")] == ["ready0"]
