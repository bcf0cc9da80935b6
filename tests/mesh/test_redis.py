"""The Redis client, against a real server that goes and comes back."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis.asyncio
import redis.exceptions
import uvloop
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mesh.redis import BLOCK_MS, connect

Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def port(free_port: int) -> int:
    return free_port


@pytest.fixture
async def start(port: int, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a Redis on the port; all are killed at the end."""
    program = shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/usr/sbin")
    assert program, "redis-server is not installed"
    started = []

    def run() -> subprocess.Popen[bytes]:
        arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


async def test_a_command_survives_a_restart_of_redis(start: Start, port: int) -> None:
    first = start()
    async with connect(f"redis://127.0.0.1:{port}") as client:
        await client.set("key", b"\x00\xff")  # waits for the server, which has only just been started
        assert await client.get("key") == b"\x00\xff", "bytes stay bytes"
        first.kill()
        first.wait()
        asyncio.get_running_loop().call_later(0.5, start)
        assert await client.get("key") is None, "another Redis, without the key"


async def test_a_redis_that_is_not_there_is_a_connection_error(port: int) -> None:
    async with connect(f"redis://127.0.0.1:{port}") as client:
        async with asyncio.timeout(60):
            with pytest.raises(redis.exceptions.ConnectionError):
                await client.ping()


async def test_a_blocking_read_ends_empty(start: Start, port: int) -> None:
    start()
    async with connect(f"redis://127.0.0.1:{port}") as client:
        assert not await client.xread({"nothing": "$"}, block=BLOCK_MS)


def test_a_connection_that_is_closed_before_its_handshake_is_made_again(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers run on uvloop, which raises a RuntimeError of its own when one writes to such a connection."""
    connect_socket, closed = redis.asyncio.Connection._connect, list[redis.asyncio.Connection]()

    async def close_the_first(connection: redis.asyncio.Connection) -> None:
        await connect_socket(connection)  # type: ignore[no-untyped-call]
        if not closed:
            closed.append(connection)
            assert connection._writer is not None
            connection._writer.transport.abort()

    async def ping() -> bool:
        async with connect(redis_url) as client:
            return bool(await client.ping())

    monkeypatch.setattr(redis.asyncio.Connection, "_connect", close_the_first)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ping())
    assert closed


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_who_works_with_redis_without_a_pause_can_be_cancelled_at_any_moment(
    redis_url: str, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def cancelled_after(turns: int) -> None:
        async def work() -> None:
            while True:
                await client.ping()

        async with connect(redis_url) as client:
            await client.ping()
            working = asyncio.create_task(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            working.cancel()
            done, _ = await asyncio.wait([working], timeout=60)
            assert done, f"it goes on after {turns} turns of the loop"
            assert working.cancelled()

    async def at_any_moment() -> None:
        for turns in range(1, 30):
            await cancelled_after(turns)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(at_any_moment())


async def test_what_redis_does_not_take_is_an_error_within_the_time(
    start: Start, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mesh.redis._SOCKET_SECONDS", 1.0)
    process = start()
    async with connect(f"redis://127.0.0.1:{port}") as client:
        await client.ping()
        client.set_retry(Retry(NoBackoff(), 0))
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(redis.exceptions.TimeoutError, match="writing"):
            await client.set("key", bytes(64 << 20))  # more than lies on the way
        process.send_signal(signal.SIGCONT)
        assert await client.ping()
